"""Kernels: which exist, which a user means, and how they come onto this machine.

`selector`, `providers.debian_index`, `providers.apt_sources` and `files.bzimage` are pure (text and records in, records
out); the other providers have the side effects. Each function here makes a catalogue for one question; for several
questions, use one :class:`harness.kernel.catalog.Catalog`.
"""

from harness.kernel.catalog import acquire, named_architectures, resolve

__all__ = ["acquire", "named_architectures", "resolve"]
