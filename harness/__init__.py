"""kernel-harness: run pytest tests on any Linux kernel from v4.12 on."""

__version__ = "0.1.0"
