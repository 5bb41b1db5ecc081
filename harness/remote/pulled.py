"""Writes the files that a guest sends below one folder of the host, and nowhere else.

A guest may send any name, in any order. What is written never leaves the folder: the parent of an entry is a folder
that was made here, it is reached without following a link, and nothing that is there already is opened.
"""

from __future__ import annotations

import errno
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from harness.errors import UsageError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777  # no set-uid, set-gid or sticky bit of a guest's file comes along


class PulledFolder:
    """A new folder that is filled with what a guest sends.

    Args:
        folder: The folder, which is there and empty.
        source: What it is in the guest, for messages.

    Every method raises UsageError when the entry has no place below the folder: its name or its parent is not what a
    folder can hold, or the name is taken.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._folder = folder
        self._source = source
        self._folders = {""}
        self._links: list[tuple[str, str]] = []

    def add_folder(self, name: str, mode: int) -> None:
        """Make a folder; its owner may always enter and write it."""
        with self._parent(name) as (parent, leaf):
            os.mkdir(leaf, 0o700, dir_fd=parent)
            os.chmod(leaf, mode & _PERMISSIONS | 0o700, dir_fd=parent)  # whatever the umask, as a file
        self._folders.add(name)

    def add_file(self, name: str, fetch: Callable[[], bytes], mode: int) -> int:
        """Write a file, whose content is fetched when it has a place; return its size in bytes."""
        with self._parent(name) as (parent, leaf):
            data = fetch()
            with os.fdopen(os.open(leaf, _NEW_FILE, 0o600, dir_fd=parent), "wb") as file:
                os.fchmod(file.fileno(), mode & _PERMISSIONS)
                return file.write(data)

    def add_link(self, name: str, points_to: str) -> None:
        """Make a link, once all else is there; it must lead to a place below the folder."""
        if not stays_inside(name, points_to) or _has_controls(points_to):
            raise self._refused(f"the link {name!r} leads to {points_to!r}", "links to places below the same folder")
        self._links.append((name, points_to))

    def finish(self) -> None:
        """Make the links."""
        for name, points_to in self._links:
            with self._parent(name) as (parent, leaf):
                os.symlink(points_to, leaf, dir_fd=parent)

    @contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        """Open the folder that an entry goes into; give it with the entry's last part."""
        above, leaf = posixpath.split(name)
        if name != posixpath.normpath(name) or not leaf or leaf == ".." or name.startswith("/") or _has_controls(name):
            raise self._refused(f"the guest sent a file named {name!r}", "names below the folder that was pulled")
        if above not in self._folders:
            raise self._refused(f"the guest sent {name!r}, but no folder that holds it", "folders before files")
        opened = [os.open(self._folder, _FOLDER)]
        try:
            for part in PurePosixPath(above).parts:
                opened.append(os.open(part, _FOLDER, dir_fd=opened[-1]))
            yield opened[-1], leaf
        except FileExistsError:
            raise self._refused(f"the guest sent {name!r} twice", "names that differ on this machine") from None
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                raise
            raise self._refused(
                f"the guest sent {name[:80]!r}: {error.strerror}", "names and links that this machine's disk can hold"
            ) from None
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _refused(self, what: str, expected: str) -> UsageError:
        return UsageError(f"{self._source} cannot be pulled: {what}", expected=expected)


def stays_inside(name: str, points_to: str) -> bool:
    """Return whether a link at `name`, below some folder, leads to a place below that folder."""
    parts = PurePosixPath(points_to).parts
    ups = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    # A later ".." would go up from the target of another link.
    return bool(points_to) and not posixpath.isabs(points_to) and ups <= name.count("/") and ".." not in parts[ups:]


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(letter) == "Cc" for letter in text)
