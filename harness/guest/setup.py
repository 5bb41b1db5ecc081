"""Makes a machine of a kernel that has just booted: its file systems, what its command line says, what it is.

Runs in the guest.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from harness.guest.api import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
# (source and type, target, flags, options); file systems that the kernel lacks are skipped and reported as absent.
_MOUNTS = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", MS_NOSUID, "mode=0755"),
    ("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"),  # noqa: S108 - the guest's own, memory-only
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("bpf", "/sys/fs/bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"),
    ("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("debugfs", "/sys/kernel/debug", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("tracefs", "/sys/kernel/tracing", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
)


def mount_all() -> list[str]:
    """Mount the guest's file systems; return the types that this kernel lacks."""
    absent = []
    for kind, target, flags, options in _MOUNTS:
        try:
            os.makedirs(target, exist_ok=True)
        except OSError:
            absent.append(kind)  # without the file system, the kernel does not create this folder in sysfs
            continue
        if syscalls.libc.mount(kind.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
            absent.append(kind)
    return absent


def open_taint_flags() -> int | None:
    """Return a descriptor of the file with the kernel's taint flags; None for a kernel without /proc/sys."""
    try:
        return os.open("/proc/sys/kernel/tainted", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def raise_loopback() -> None:
    """Bring the network interface lo up, where the kernel has a network."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            fcntl.ioctl(asking, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
    except OSError:
        return  # CONFIG_INET is off, and then programs find it off too


def parse_command_line(text: str) -> dict[str, str]:
    """Return the harness.NAME=VALUE parameters of a kernel command line, without the prefix."""
    words = (word[len("harness.") :] for word in text.split() if word.startswith("harness."))
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def describe_machine(absent: list[str], tainted: int, baseline: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that the host needs about the machine."""
    name = os.uname()
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return {
        "event": "ready",
        "release": name.release,
        "version": name.version,
        "machine": name.machine,
        "uptime": uptime,
        "cpus": os.cpu_count() or 1,
        "absent": absent,
        "tainted": tainted,
        "ledger": baseline,
    }
