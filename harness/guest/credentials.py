"""The user, capabilities and namespaces of a guest process. What it gives up cannot be restored.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import os
import struct

from harness.guest.api.syscalls import failed, libc, system_call

CAPABILITIES = {"net_admin": 12, "sys_admin": 21, "perfmon": 38, "bpf": 39}
"""The capabilities that bpf(2) checks, by name without CAP_."""

NAMESPACES = {"mnt": 0x20000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}

_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 8, 23, 24
_CAPSET_VERSION_3 = 0x20080522

_capset = system_call("capset", ctypes.c_void_p, ctypes.c_void_p)
_capget = system_call("capget", ctypes.c_void_p, ctypes.c_void_p)


def become(uid: int, capabilities: tuple[str, ...] = ()) -> None:
    """Become a user with only these capabilities.

    Args:
        uid: The user id; also the group id.
        capabilities: Names of CAPABILITIES.
    """
    _checked(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << CAPABILITIES[name] for name in capabilities)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPSET_VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0), 24)
    _checked(_capset(header, data), "capset")


def drop(capability: int) -> None:
    """Drop a capability from this process and from all that it starts, for good.

    Args:
        capability: Its number; one that the kernel does not know is not there to drop.
    """
    if libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) < 0:
        return
    _checked(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl")
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPSET_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    _checked(_capget(header, data), "capget")
    words = list(struct.unpack("=6I", data.raw))
    for kind in range(3):  # effective, permitted, inheritable
        words[3 * (capability // 32) + kind] &= ~(1 << capability % 32)
    _checked(_capset(header, ctypes.create_string_buffer(struct.pack("=6I", *words), 24)), "capset")


def leave(namespaces: tuple[str, ...]) -> None:
    """Enter new namespaces; in a new user namespace, this process is root with all capabilities there.

    Args:
        namespaces: Names of NAMESPACES.
    """
    flags = sum(NAMESPACES[name] for name in namespaces)
    uid = os.getuid()
    _checked(libc.unshare(flags), "unshare")
    if "user" in namespaces:
        with open("/proc/self/uid_map", "w") as file:
            file.write(f"0 {uid} 1")


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise failed(what)
