"""Writes cpio archives in the "newc" form that the kernel unpacks as an initramfs.

Pure: entries in, bytes out; the same entries give the same bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class CpioEntry:
    """One file, folder, link or device of the archive.

    Attributes:
        path: Where it goes, relative to the root of the guest.
        mode: Type and permissions, as in st_mode.
        data: Content of a file, target of a symbolic link.
        device: Major and minor number of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str, permissions: int = 0o755) -> CpioEntry:
    """Return a folder."""
    return CpioEntry(path, stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> CpioEntry:
    """Return a file."""
    return CpioEntry(path, stat.S_IFREG | permissions, data)


def link(path: str, target: str) -> CpioEntry:
    """Return a symbolic link."""
    return CpioEntry(path, stat.S_IFLNK | 0o777, target.encode())


def with_parents(entries: Iterable[CpioEntry]) -> list[CpioEntry]:
    """Return the entries and all their parent folders, sorted by path, each folder before its content."""
    named = {entry.path: entry for entry in entries}
    for path in list(named):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                named.setdefault(str(parent), folder(str(parent)))
    return [named[path] for path in sorted(named, key=lambda path: PurePosixPath(path).parts)]


def archive(entries: Iterable[CpioEntry]) -> Iterator[bytes]:
    """Yield the archive's bytes, padded so that another archive may follow."""
    for number, entry in enumerate(entries, 1):
        yield _header(number, entry)
        yield entry.data
        yield bytes(-len(entry.data) % 4)
    yield _header(0, CpioEntry("TRAILER!!!", 0))


def _header(inode: int, entry: CpioEntry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4)
