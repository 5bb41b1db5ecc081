"""What QEMU is allowed to do on the host. A guest that breaks out of it has no more than that.

README.md, "What a hostile guest can do", is the manual of this.
"""

from __future__ import annotations

import ctypes
import functools
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.util import proc
from harness.util.proc import die_with_parent

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""The value of QEMU's -sandbox: no system calls for other processes, users, priorities, nor old ones."""

_PROBE_TIMEOUT = 30.0

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAP_DAC_READ_SEARCH, _CAP_SETGID, _CAP_SETUID, _CAP_SETPCAP = 2, 6, 7, 8
_CAPABILITIES = 64
_CAPABILITY_VERSION = 0x20080522

_FIRST_USER, _USERS = 0x6B680000, 0x10000
_NOBODY = 65534

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Abilities:
    """What a QEMU program can do; not every build has everything.

    Attributes:
        sandbox: It has -sandbox, which forbids system calls.
        private_rom: It can map a file that it may only read as memory that the guest writes (property `rom`, in 8.2).
    """

    sandbox: bool
    private_rom: bool


@functools.cache
def abilities(qemu: Path) -> Abilities:
    """Return what a QEMU program can do, by asking it.

    Args:
        qemu: The program.
    """
    sandbox = proc.run([qemu, "-sandbox", SANDBOX, "-version"], timeout=_PROBE_TIMEOUT)
    memory = proc.run([qemu, "-object", "memory-backend-file,help"], timeout=_PROBE_TIMEOUT)
    return Abilities(sandbox.status == 0, "rom=" in memory.stdout)


@dataclass(frozen=True)
class User:
    """A user of the host that owns nothing, for one QEMU.

    Attributes:
        number: User and group id.
        groups: Supplementary groups: the one that may open /dev/kvm, where that is needed.
    """

    number: int
    groups: tuple[int, ...] = ()


def unprivileged_user(device: Path | None = None) -> User | None:
    """Return a user for one QEMU; None where this process cannot become another user.

    Args:
        device: A device that QEMU opens, /dev/kvm.
    """
    if os.geteuid() != 0 or not _has(_CAP_SETUID, _CAP_SETGID):
        return None
    if _read("/proc/self/setgroups") == "deny":
        return None
    groups: tuple[int, ...] = ()
    if device is not None:
        found = device.stat()
        if found.st_mode & 0o060 == 0o060:
            groups = (found.st_gid,)
        elif found.st_mode & 0o006 != 0o006:
            return None
    # One of its own, so that QEMUs cannot reach each other; a user namespace may not have so many.
    own = _FIRST_USER + secrets.randbelow(_USERS)
    for number in (own, _NOBODY):
        if _is_mapped("/proc/self/uid_map", number) and _is_mapped("/proc/self/gid_map", number):
            return User(number, groups)
    return None


def confine(user: User | None, *, reads: bool = False) -> Callable[[], None]:
    """Return what a forked child runs before it starts QEMU: it gives up all privileges and dies with its parent.

    Args:
        user: The user that it becomes; None: it stays the one that it is.
        reads: Whether root may go on reading all files, as QEMU needs at boot for kernels in other users' folders.
    """
    kept = {_CAP_DAC_READ_SEARCH} if reads else set()
    dropped = [one for one in range(_CAPABILITIES) if one not in kept] if _has(_CAP_SETPCAP) else []

    def give_up() -> None:
        # The bounding set first, which takes a privilege. Numbers that the kernel does not know are refused.
        for capability in dropped:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if user is not None:
            os.setgroups(user.groups)
            os.setresgid(user.number, user.number, user.number)
            os.setresuid(user.number, user.number, user.number)
        if not reads:
            # Inherited capabilities would come back to root.
            header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
            _libc.capset(header, (ctypes.c_uint32 * 6)())
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        die_with_parent()  # last: a change of user undoes it

    return give_up


def _has(*capabilities: int) -> bool:
    """Return whether this process has these capabilities."""
    line = next(line for line in _read("/proc/self/status").splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return all(effective >> one & 1 for one in capabilities)


def _is_mapped(table: str, number: int) -> bool:
    """Return whether a user or group exists in this user namespace."""
    ranges = (tuple(map(int, line.split())) for line in _read(table).splitlines())
    return any(first <= number < first + count for first, _, count in ranges)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()
