"""Files of the guest: as the host sends and fetches them, in pieces, by path; and what the kernel gives out as files.

An entry of a folder is a tuple (path below the folder, kind, permission bits, text): the kind is "file", "folder",
"link" (text is its target) or "other". The host decides which may be sent or kept.

Runs in the guest.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from harness.guest.calls import Entry, Sent

_READ_LIMIT = 32 << 20


def make_folder(path: str, mode: int | None = None) -> None:
    """Make a folder, and those above it; with these permission bits, if they are given."""
    os.makedirs(path, exist_ok=True)
    if mode is not None:
        os.chmod(path, mode)


def make_link(path: str, points_to: str) -> None:
    """Create a symbolic link; it replaces a file of that name."""
    if os.path.lexists(path):
        os.unlink(path)
    os.symlink(points_to, path)


def write(path: str, data: bytes, offset: int, mode: int) -> None:
    """Write a piece of a file; the first (offset 0) creates the file, in place of a link, and its parent folders."""
    if offset == 0:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):
            os.unlink(path)
    flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if offset == 0 else 0)
    fd = os.open(path, flags, 0o600)
    try:
        if offset == 0:
            os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(fd)


def put(items: list[Sent]) -> None:
    """Make small files, folders and links, in this order; parent folders are made as needed."""
    for path, kind, mode, content in items:
        if kind == "folder":
            make_folder(path, mode)
        elif kind == "link":
            os.makedirs(os.path.dirname(path), exist_ok=True)
            make_link(path, os.fsdecode(content))
        else:
            write(path, content, 0, mode)


def read(path: str, offset: int, size: int) -> bytes:
    """Return a piece of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def describe(path: str) -> Entry:
    """Return the entry of a path; links are followed."""
    return _entry("", path, os.stat(path))


def entries(path: str) -> list[Entry]:
    """Return all entries below a folder, each folder before its content; links are not followed."""
    found: list[Entry] = []
    for folder, names, files in os.walk(path):
        names.sort()
        for name in sorted([*names, *files]):
            whole = os.path.join(folder, name)
            found.append(_entry(os.path.relpath(whole, path), whole, os.lstat(whole)))
    return found


def _entry(shown: str, path: str, status: os.stat_result) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return shown, "file", mode, ""
    if stat.S_ISDIR(status.st_mode):
        return shown, "folder", mode, ""
    if stat.S_ISLNK(status.st_mode):
        return shown, "link", mode, os.readlink(path)
    return shown, "other", mode, ""


def missing(paths: list[str]) -> list[str]:
    """Return the paths that do not exist."""
    return [path for path in paths if not os.path.exists(path)]


def open_file(path: str, flags: int) -> int:
    """Open a file or folder; return its descriptor."""
    return os.open(path, flags | os.O_CLOEXEC)


def remove(path: str) -> None:
    """Remove a file, such as a pinned object, or an empty folder, such as a cgroup."""
    if os.path.isdir(path):
        os.rmdir(path)
    else:
        os.unlink(path)


def read_all(fd: int) -> bytes:
    """Read a descriptor to its end (at most 32 MiB)."""
    found = b""
    while len(found) <= _READ_LIMIT:
        data = os.read(fd, 1 << 16)
        if not data:
            return found
        found += data
    raise OSError(27, f"more than {_READ_LIMIT} bytes to read")


def read_file(path: str) -> bytes:
    """Return a file's content (at most 32 MiB)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes) -> None:
    """Write to an existing file, for example below /proc/sys."""
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
