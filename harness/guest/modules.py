"""Loads the kernel modules that the host put into the guest image.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import errno
import os

from harness.guest.api.syscalls import system_call

FOLDER = "/usr/lib/kernel-harness/modules"
"""Their folder; each file's name begins with its place in the loading order ("003-veth.ko")."""

_finit_module = system_call("finit_module", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def load_all(folder: str = FOLDER) -> tuple[str, int] | None:
    """Load every module of the folder in order, and remove its file to free memory.

    Returns:
        None, or the first module that the kernel refused, by its file's name, and the kernel's errno.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    for name in names:
        path = os.path.join(folder, name)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            refused = ctypes.get_errno() if _finit_module(file, b"", 0) != 0 else 0
        finally:
            os.close(file)
        # Another module may have made the kernel load it already, or it is built in under this name.
        if refused not in (0, errno.EEXIST):
            return name, refused
        os.unlink(path)
    return None
