"""Which kernels there are, and how one is brought onto this machine.

`selector`, `debindex`, `aptsources` and `payload` are pure (text and records in, records out); providers have
the side effects. The two functions here are what the rest of the package uses.
"""

from harness.kernel.catalog import acquire, resolve

__all__ = ["acquire", "resolve"]
