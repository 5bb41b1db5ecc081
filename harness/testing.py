"""The names a test module imports: what its fixtures are, and how to state what the kernel should answer."""

from __future__ import annotations

from harness.errnos import ENOTSUPP, errno_name
from harness.kernel.types import Kernel
from harness.remote.bpf import ANY, EXIST, LOCK, NOEXIST, Bpf, BpfError, Map, raises_errno
from harness.remote.guest import Guest

__all__ = [
    "ANY",
    "ENOTSUPP",
    "EXIST",
    "LOCK",
    "NOEXIST",
    "Bpf",
    "BpfError",
    "Guest",
    "Kernel",
    "Map",
    "errno_name",
    "raises_errno",
]
