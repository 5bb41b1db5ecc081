"""Makes a machine of a kernel that has just booted: its file systems, what its command line says, what it is.

Runs in the guest.
"""

from __future__ import annotations

import os
import time

from harness.guest import credentials
from harness.guest.api import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 32, 4096, 16384
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
# (source and type, target, flags, options); file systems that the kernel lacks are skipped and reported as absent.
_MOUNTS = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", MS_NOSUID, "mode=0755"),
    ("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),  # noqa: S108 - semaphores of multiprocessing
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"),  # noqa: S108 - the guest's own, memory-only
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("bpf", "/sys/fs/bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"),
    ("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("debugfs", "/sys/kernel/debug", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("tracefs", "/sys/kernel/tracing", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
)


def mount_all(leave_out: Callable[[], list[str]] = list) -> list[str]:
    """Mount the guest's file systems; return the types that this kernel lacks.

    Args:
        leave_out: Returns types that are not mounted all the same; called when /proc is there.
    """
    absent = []
    for kind, target, flags, options in _MOUNTS:
        if target != "/proc" and kind in leave_out():
            absent.append(kind)
            continue
        try:
            os.makedirs(target, exist_ok=True)
        except OSError:
            absent.append(kind)  # without the file system, the kernel does not create this folder in sysfs
            continue
        if not _is_mounted(kind, target, kind, flags, options):
            absent.append(kind)
    return absent


LOWER, UPPER, ROOTFS = "/run/harness/lower", "/run/harness/upper", "/run/harness/root"
_SHOWN = ("/proc", "/sys", "/dev", "/tmp")  # noqa: S108 - the guest's own, memory-only
_VIRTIO_PORTS = "/sys/class/virtio-ports"
_APPEARS, _PAUSE = 10.0, 0.01


def wait_for(device: str) -> str:
    """Wait until a device is there, and return its path; its driver may make it some time after it was loaded.

    The host's time-out ends a boot without it, and shows the console, which says then what was waited for.

    Args:
        device: The path in /dev; /dev/virtio-ports/NAME is the port of that name, as udev would call it.
    """
    said, since = False, time.monotonic()
    while not (found := _port_named(device)):
        if not said and time.monotonic() - since > _APPEARS:
            said = True
            os.write(2, f"harness: waiting for {device}, which no driver has made yet\n".encode())
        time.sleep(_PAUSE)
    return found


def _port_named(device: str) -> str:
    """Return the path of a device, or "" while it is not there."""
    if not device.startswith("/dev/virtio-ports/"):
        return device if os.path.exists(device) else ""
    ports = os.listdir(_VIRTIO_PORTS) if os.path.isdir(_VIRTIO_PORTS) else []
    for port in ports:
        try:
            with open(f"{_VIRTIO_PORTS}/{port}/name") as file:
                name = file.read().strip()
        except OSError:
            continue  # the host gives the name some time after the port
        if name == os.path.basename(device):
            return f"/dev/{port}"
    return ""


def mount_rootfs(device: str) -> None:
    """Mount a root file system for programs: a read-only disk below an overlay in memory, with the kernel's files.

    Args:
        device: The disk.

    Raises:
        OSError: It cannot be mounted.
    """
    wait_for(device)
    for folder in (LOWER, UPPER, ROOTFS):
        os.makedirs(folder)
    _mount(device, LOWER, "ext4", MS_RDONLY)
    _mount("tmpfs", UPPER, "tmpfs", 0)
    for folder in ("upper", "work"):
        os.mkdir(f"{UPPER}/{folder}", 0o755)
    _mount("overlay", ROOTFS, "overlay", 0, f"lowerdir={LOWER},upperdir={UPPER}/upper,workdir={UPPER}/work")
    for folder in _SHOWN:
        os.makedirs(f"{ROOTFS}{folder}", exist_ok=True)
        _mount(folder, f"{ROOTFS}{folder}", "", _MS_BIND | _MS_REC)


def _is_mounted(source: str, target: str, kind: str, flags: int, options: str) -> bool:
    """Mount a file system; return whether the kernel did it, with the reason in errno where it did not."""
    # cgroup2 of 4.14.67 and 4.19.13 refuses an empty option; that of 5.2.1 does not.
    done: int = syscalls.libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode() or None)
    return done == 0


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    if not _is_mounted(source, target, kind, flags, options):
        raise syscalls.failed(f"mounting {source} at {target}")


def take_away(options: dict[str, str]) -> None:
    """Take away what the command line says, as if the kernel had been built without it (`scripts/config-trials`).

    harness.hide=PATH,... covers a folder with an empty one, and a file with one that cannot be read;
    harness.set=PATH:VALUE,... writes settings; harness.drop=NUMBER,... drops capabilities for good.
    """
    for pair in filter(None, options.get("set", "").split(",")):
        path, _, value = pair.partition(":")
        with open(path, "w") as file:
            file.write(value)
    for path in filter(None, options.get("hide", "").split(",")):
        if os.path.isdir(path):
            hidden = syscalls.libc.mount(b"tmpfs", path.encode(), b"tmpfs", MS_RDONLY, b"mode=0555")
        else:
            hidden = syscalls.libc.mount(b"/dev/null", path.encode(), None, _MS_BIND, None)
            if hidden == 0:  # a device on a mount without devices cannot be opened
                hidden = syscalls.libc.mount(None, path.encode(), None, _MS_BIND | _MS_REMOUNT | MS_NODEV, None)
        if hidden != 0:
            raise syscalls.failed(f"hiding {path}")
    for number in filter(None, options.get("drop", "").split(",")):
        credentials.drop(int(number))


def open_taint_flags() -> int | None:
    """Return a descriptor of the file with the kernel's taint flags; None for a kernel without /proc/sys."""
    try:
        return os.open("/proc/sys/kernel/tainted", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


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
        "snapshot": baseline,
    }
