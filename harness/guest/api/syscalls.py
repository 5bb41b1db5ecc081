"""The C library, and system calls that it has no function for.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
"""The C library: ctypes.get_errno() has the errno of a function of it that failed."""


NUMBERS: dict[str, int] = {}
"""The numbers of system calls by name. They depend on the architecture, so the image has them (harness.image.build)."""


IOCTL: dict[str, int] = {}
"""The bits of an ioctl's number that say what happens with its argument: "none", "write". They depend on it too."""


def system_call(name: str, *types: Any) -> Callable[..., int]:
    """Return a system call as a function, which returns what the kernel does, or -1 and the errno as :data:`libc` does.

    Args:
        name: One of NUMBERS.
        *types: The ctypes of its arguments.
    """
    call = libc["syscall"]  # not libc.syscall, which all would share
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, *types)
    return lambda *arguments: call(NUMBERS[name], *arguments)


bpf = system_call("bpf", ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)
"""bpf(2): command, address of union bpf_attr, its size."""


def failed(what: str) -> OSError:
    """Return the error of a call that has just failed."""
    error = ctypes.get_errno()
    return OSError(error, f"{what}: {os.strerror(error)}")
