"""Error numbers by the kernel's names, including those without a name in libc."""

from __future__ import annotations

import errno

ENOTSUPP = 524
"""BPF's answer to an operation that a map type lacks; it is not EOPNOTSUPP (95), and libc has no name for it."""

_KERNEL_ONLY = {
    # include/linux/errno.h: not meant for user space, but some get there.
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
