"""This machine's own files as a root file system: which of them a guest may have, and how many.

A guest may run a kernel that nobody trusts. So it gets what every user of this machine may read, also where root makes
the image, and nothing of the users' own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.util import architecture, cache

WORD = "host"
ROOT = Path("/")
LIMIT = 4 << 30
"""Bytes of this machine's files that go into an image. It is made once, and again when one of them changes."""

_SYSTEM = frozenset("bin sbin lib lib32 lib64 libx32 usr etc opt".split())
"""What is in these folders is the machine's own. Others are there and empty: the kernel's, temporary ones, other disks,
what belongs to users, and /var, where files change all the time."""
_UNWRITABLE = ('"', "\n")
"""What debugfs cannot take in a name."""
_BLOCK = 4096


def is_host(what: str) -> bool:
    """Return whether a word for a root file system means this machine's own files: host, or host:FOLDER:FOLDER."""
    return what == WORD or what.startswith(f"{WORD}:")


def check_architecture(wanted: str) -> None:
    """Refuse a guest that cannot run this machine's programs.

    Args:
        wanted: The guest's architecture.

    Raises:
        UsageError: It has another.
    """
    if wanted != architecture.own_name():
        raise UsageError(
            f"this machine's own files are for {architecture.own().title}, and the guest is "
            f"{architecture.require(wanted).title}",
            expected="a root file system for the guest's architecture",
            hint="name a folder, an archive or a saved container image",
        )


def host_files(what: str, root: Path, limit: int = LIMIT) -> list[tuple[str, os.stat_result]]:
    """Return this machine's files for a guest: paths without leading slash, each folder before its content.

    Args:
        what: "host" for all of them, or "host:" and folders with ":" between them; the others are there and empty.
        root: The root of this machine.
        limit: Bytes that they may have.

    Raises:
        UsageError: They are too many, or a folder is not there.
    """
    folders = _folders(what, root)
    tops = sorted(path.name for path in root.iterdir())
    found: list[tuple[str, os.stat_result]] = []
    sizes: dict[str, int] = {}
    # /bin and the like are often links into /usr, which programs' paths go through.
    places = folders or [name for name in tops if name in _SYSTEM and not (root / name).is_symlink()]
    for name in tops:
        status = (root / name).lstat()
        is_named = any(place == name or place.startswith(f"{name}/") for place in places)
        if stat.S_ISLNK(status.st_mode) or (stat.S_ISDIR(status.st_mode) and not is_named):
            found.append((name, status))
        if name == "var" and not is_named:
            below = ((f"{name}/{path.name}", path.lstat()) for path in sorted((root / name).iterdir()))
            found += [one for one in below if not stat.S_ISREG(one[1].st_mode)]
    for place in places:
        sizes[place] = 0
        for one in _tree(root, place, (root / place).lstat()):
            found.append(one)
            sizes[place] += _room(one[1])
            if sizes[place] > limit:
                break  # it is refused whatever else is there
    if sum(sizes.values()) > limit:
        raise _too_large(what, sizes, limit)
    return found


def _folders(what: str, root: Path) -> list[str]:
    """Return the folders that a word names, without leading slash."""
    words = what.partition(":")[2].split(":") if what != WORD else []
    places = []
    for word in words:
        path = (root / word.lstrip("/")).resolve()  # /bin may be a link
        if not word.startswith("/") or not path.is_dir() or root.resolve() not in path.parents:
            raise UsageError(
                f"{what}: {word!r} is not a folder of this machine",
                expected="absolute paths of folders below the root, as in host:/etc:/usr/bin",
            )
        places.append(path.relative_to(root.resolve()).as_posix())
    return places


def _tree(root: Path, place: str, status: os.stat_result) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file or folder and what is in it, as far as every user may read it."""
    if any(sign in place for sign in _UNWRITABLE):
        return
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        if status.st_mode & stat.S_IROTH:
            yield place, status
        return
    if not stat.S_ISDIR(status.st_mode):
        return
    yield place, status
    folder = root / place
    if not status.st_mode & stat.S_IROTH or folder == cache.cache_root():
        return
    try:
        with os.scandir(folder) as entries:
            below = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    except OSError:
        return  # this user may not, or it is gone
    for name, found in below:
        if found.st_dev == status.st_dev:  # another disk, or another kernel's file system
            yield from _tree(root, f"{place}/{name}", found)


def _room(status: os.stat_result) -> int:
    return -(-status.st_size // _BLOCK) * _BLOCK if stat.S_ISREG(status.st_mode) else 0


def _too_large(what: str, sizes: dict[str, int], limit: int) -> UsageError:
    largest = sorted(sizes.items(), key=lambda one: -one[1])[:4]
    shown = ", ".join(f"/{place} {'over ' if size > limit else ''}{size >> 20} MiB" for place, size in largest)
    return UsageError(
        f"--rootfs {what}: this machine's files have more than {limit >> 20} MiB ({shown})",
        expected=f"{limit >> 20} MiB at most, which a guest can have as a disk",
        hint="name folders, as in host:/etc:/usr/bin:/usr/lib64:/usr/lib/x86_64-linux-gnu; or push single files and "
        "folders into the guest's own image: --push PATH[:TARGET]",
    )
