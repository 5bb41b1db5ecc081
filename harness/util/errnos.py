"""Error numbers by the kernel's own names, those that libc has no name for included.

Imports the standard library alone.
"""

from __future__ import annotations

import errno

ENOTSUPP = 524
"""What BPF answers to an operation a map type does not have; not EOPNOTSUPP (95), and libc has no name for it."""

_KERNEL_ONLY = {
    # include/linux/errno.h: never meant to reach user space, and some do.
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    521: "EBADHANDLE",
    524: "ENOTSUPP",
}


def errno_name(number: int) -> str:
    """Return the kernel's name of an error number, "EINVAL" for 22 and "ENOTSUPP" for 524."""
    return _KERNEL_ONLY.get(number) or errno.errorcode.get(number) or f"errno {number}"
