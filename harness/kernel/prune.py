"""What can be removed from the cache, and its size."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CacheError
from harness.kernel import cache as kernel_cache
from harness.kernel.version import KernelVersion
from harness.util import cache

DAY = 86400.0

FOLDERS = {
    "store": "kernels",
    "downloads": "downloads in progress",
    "sources": "unpacked source trees",
    "unpacked": "unpacked packages and archives",
    "build": "build folders",
    "kept": "build trees kept for mutants",
    "debian": "Debian's package indexes",
    "snapshot": "what the snapshot archive has",
    "distributions": "package indexes and keys of distributions",
}
"""The parts of the kernel cache, with names for the user."""

MADE_AGAIN = {
    "templates/[0-9a-f]*[0-9a-f]": "saved machines",
    "images/[0-9a-f]*.cpio": "guest images",
    "rootfs/[0-9a-f]*.ext4": "root file systems",
    "selftests/[0-9a-f]*[0-9a-f]": "built selftests",
}
"""What the cache holds that is made again when it is needed: glob patterns below the cache folder, likewise."""

IDLE_DAYS = 1.0
"""Days without use after which such things go."""


@dataclass(frozen=True)
class Victim:
    """Something that can be removed.

    Attributes:
        path: File or folder.
        reason: Why it is not needed.
        size: Bytes on disk.
        entry: Whether it is the entry of a kernel.
    """

    path: Path
    reason: str
    size: int
    entry: bool = False


def size_of(path: Path) -> int:
    """Return the bytes on disk of a file or of all files in a folder; 0 when it does not exist."""
    if not path.is_dir():
        return path.lstat().st_blocks * 512 if path.exists() else 0
    total = 0
    for one in path.rglob("*"):
        try:
            total += one.lstat().st_blocks * 512
        except FileNotFoundError:  # another process uses it
            continue
    return total


def report() -> list[tuple[str, int]]:
    """Return the size of each part of the cache."""
    of_kernels = [(what, size_of(kernel_cache.folder() / name)) for name, what in FOLDERS.items()]
    root = cache.cache_root()
    made_again = [(what, sum(map(size_of, root.glob(pattern)))) for pattern, what in MADE_AGAIN.items()]
    return [*of_kernels, *made_again]


def victims(*, unused_days: float | None, everything: bool, now: float) -> Iterator[Victim]:
    """Choose what to remove: leftovers, kernels replaced by a newer release of their series, and more on request.

    What is made again when it is needed goes when it was not used for IDLE_DAYS.

    Args:
        unused_days: Also kernels that were not used for this many days; it replaces IDLE_DAYS.
        everything: Also every kernel, and all that is made again.
        now: The time, in seconds since the epoch.
    """
    top = kernel_cache.folder()
    for part, reason in (
        ("downloads", "a finished or abandoned download"),
        ("sources", "can be unpacked again"),
        ("unpacked", "can be unpacked again"),
        ("build", "a failed or finished build"),
    ):
        for path in sorted((top / part).glob("*")):
            if not path.name.endswith(".lock") and not is_busy(path):
                yield Victim(path, reason, size_of(path))
    if everything:
        for path in sorted((top / "kept").glob("*")):
            if not path.name.endswith(".lock") and not is_busy(path):
                yield Victim(path, "everything was requested", size_of(path))
    for path in sorted((top / "store").glob("*")):
        if path.name.startswith(cache.TEMPORARY):
            if cache.is_abandoned(path):
                yield Victim(path, "incomplete", size_of(path))
        elif kernel_cache.read_entry(path) is None:
            yield Victim(path, "has no usable record", size_of(path), entry=True)
    newest: dict[tuple[str, str, str, tuple[int, int]], KernelVersion] = {}
    entries = kernel_cache.entries()
    for entry in entries:
        newest[entry.group] = max(entry.version, newest.get(entry.group, entry.version))
    for entry in entries:
        idle = (now - entry.last_used) / DAY
        if everything:
            reason = "everything was requested"
        elif entry.version < newest[entry.group]:
            reason = f"{newest[entry.group]} is newer"
        elif unused_days is not None and idle > unused_days:
            reason = f"not used for {_span(idle)}"
        else:
            continue
        yield Victim(entry.path, reason, size_of(entry.path), entry=True)
    days = IDLE_DAYS if unused_days is None else unused_days
    for path in (path for pattern in MADE_AGAIN for path in sorted(cache.cache_root().glob(pattern))):
        idle = (now - path.stat().st_mtime) / DAY
        if (everything or idle > days) and not is_busy(path):
            reason = "everything was requested" if everything else f"not used for {_span(idle)}; made again when needed"
            yield Victim(path, reason, size_of(path))


def remove(victim: Victim) -> None:
    """Remove a victim.

    Raises:
        CacheError: It cannot be removed.
    """
    if victim.entry:
        kernel_cache.discard(victim.path)
        return
    with cache.locked(_lock_of(victim.path)):
        try:
            if victim.path.is_dir():
                shutil.rmtree(victim.path)
            else:
                victim.path.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(
                f"{victim.path} cannot be removed: {error.strerror}", hint=f"remove it by hand: rm -r {victim.path}"
            ) from error


def is_busy(path: Path) -> bool:
    """Return whether a process downloads, unpacks or builds it now: such a process holds its lock."""
    lock = _lock_of(path)
    if not lock.exists():
        return False
    try:
        with cache.locked(lock, timeout=0.0):
            return False
    except CacheError:
        return True


def _span(days: float) -> str:
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.part')}.lock")
