"""A file-system tree that is put together from layers: a folder, or archives that may be hostile.

Contents lie in a folder of this machine, as plain files that nobody else can read: no link, no device and no
permission bit of the tree is ever made there. What the tree says of its files is kept beside it.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import UsageError

_MOST_LINKS = 40
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_UNWRITABLE = ('"', "\n", "\0")
"""What debugfs cannot take in a name."""


@dataclass(frozen=True)
class Node:
    """What a tree has at a path.

    Attributes:
        kind: "file", "folder" or "link".
        mode: Permission bits, set-uid and the like included.
        user: Its owner.
        group: Its group.
        target: What a link points to.
        layer: The number of the layer that made it.
    """

    kind: str
    mode: int
    user: int = 0
    group: int = 0
    target: str = ""
    layer: int = 0


class FileTree:
    """A tree.

    Attributes:
        nodes: Everything in it, by path without leading slash; each folder before its content.

    Args:
        what: What the user calls it, for messages.
        folder: An empty folder for the contents.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._folder = folder
        self._layer = 0
        self.nodes: dict[str, Node] = {}

    def refused(self, why: str, hint: str = "") -> UsageError:
        """Return the error for something that a root file system cannot have."""
        return UsageError(
            f"{self._what} cannot be a root file system: {why}",
            expected="folders, files and links with paths below its root",
            hint=hint,
        )

    def add_folder(self, source: Path) -> None:
        """Add what is in a folder of this machine; links are kept as they are.

        Raises:
            UsageError: Something in it is neither file, folder nor link, or cannot be read.
        """
        try:
            for path in _walk(source):
                status = path.lstat()
                place = path.relative_to(source).as_posix()
                node = Node("", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
                if _is_of_the_guest(place):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    self._put(place, node, "folder")
                elif stat.S_ISLNK(status.st_mode):
                    self._put(place, node, "link", target=str(path.readlink()))
                elif stat.S_ISREG(status.st_mode):
                    with path.open("rb") as content:
                        self._put(place, node, "file", content=content, time=status.st_mtime)
                else:
                    raise self.refused(f"{path} is neither a file, a folder nor a link")
        except PermissionError as error:
            raise self.refused(f"{error.filename} cannot be read") from None

    def add_files(self, root: Path, files: Iterable[tuple[str, os.stat_result]]) -> None:
        """Add files, folders and links of this machine, each folder before its content.

        What cannot be read, or is gone meanwhile, is left out.

        Args:
            root: The folder that is the root.
            files: Their paths below it, and what they are.
        """
        for place, status in files:
            node = Node("", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
            try:
                if stat.S_ISDIR(status.st_mode):
                    self._put(place, node, "folder")
                elif stat.S_ISLNK(status.st_mode):
                    self._put(place, node, "link", target=str((root / place).readlink()))
                else:
                    with (root / place).open("rb") as content:
                        self._put(place, node, "file", content=content, time=status.st_mtime)
            except (FileNotFoundError, PermissionError):
                continue

    def add_layer(self, archive: tarfile.TarFile, *, whiteouts: bool) -> None:
        """Add what is in an archive over what is there.

        Args:
            archive: The archive.
            whiteouts: Whether it is a layer of an image, in which some names say that a file of a lower layer is gone.

        Raises:
            UsageError: A path is absolute or leads upwards, or something in it is not a file, folder or link.
        """
        self._layer += 1
        for member in archive:
            place = self._checked(member.name)
            name = PurePosixPath(place).name
            if whiteouts and name.startswith(_WHITEOUT):
                self._white_out(place, name)
                continue
            if not place or _is_of_the_guest(place):
                continue
            node = Node("", member.mode & 0o7777, member.uid, member.gid)
            if member.isdir():
                self._put(place, node, "folder")
            elif member.issym():
                self._put(place, node, "link", target=member.linkname)
            elif member.islnk():
                self._link(place, member.linkname)
            elif member.isreg():
                content = archive.extractfile(member)
                assert content is not None, "a file has a content"
                self._put(place, node, "file", content=content, time=member.mtime)
            else:
                kind = "a device" if member.isdev() and not member.isfifo() else "neither a file, a folder nor a link"
                raise self.refused(f"{member.name} is {kind}", "the guest has a /dev of its own")

    def _checked(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts:
            raise self.refused(f"it has the path {name!r}")
        if any(sign in name for sign in _UNWRITABLE):
            raise self.refused(f"it has the name {name!r}")
        return "/".join(part for part in parts if part != ".")

    def _resolved(self, place: str) -> str:
        """Return a path whose folders are folders of the tree: a layer may write through a link of a lower one."""
        found = follow(place, self._target, last=False)
        if found is None:
            raise self.refused(f"its links go round in circles at {place!r}")
        return found

    def _target(self, place: str) -> str | None:
        node = self.nodes.get(place)
        return node.target if node is not None and node.kind == "link" else None

    def _put(
        self,
        place: str,
        node: Node,
        kind: str,
        *,
        target: str = "",
        content: IO[bytes] | None = None,
        time: float = 0.0,
    ) -> None:
        place = self._resolved(place)
        if not place:
            return
        self._make_parents(place)
        old = self.nodes.get(place)
        if old is not None and not (old.kind == kind == "folder"):
            self._remove(place)
        on_disk = self._folder / place
        if kind == "folder":
            on_disk.mkdir(mode=0o700, exist_ok=True)
        elif content is not None:
            with os.fdopen(os.open(on_disk, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
            os.utime(on_disk, (max(time, 0), max(time, 0)))
        self.nodes[place] = Node(kind, node.mode, node.user, node.group, target, self._layer)

    def _make_parents(self, place: str) -> None:
        for parent in reversed(PurePosixPath(place).parents):
            name = str(parent)
            if name == ".":
                continue
            node = self.nodes.get(name)
            if node is not None and node.kind != "folder":
                raise self.refused(f"{place!r} is below {name!r}, which is not a folder")
            if node is None:
                self.nodes[name] = Node("folder", 0o755, layer=self._layer)
                (self._folder / name).mkdir(mode=0o700)

    def _link(self, place: str, name: str) -> None:
        target = self._resolved(self._checked(name.lstrip("/") if name.startswith("/") else name))
        node = self.nodes.get(target)
        if node is None or node.kind != "file":
            raise self.refused(f"{place!r} is a hard link to {name!r}, which is not a file of it")
        place = self._resolved(place)
        if place == target:
            return
        self._make_parents(place)
        if place in self.nodes:
            self._remove(place)
        os.link(self._folder / target, self._folder / place)
        self.nodes[place] = Node("file", node.mode, node.user, node.group, layer=self._layer)

    def _white_out(self, place: str, name: str) -> None:
        """Remove what a whiteout names: a file of lower layers, or all that lower layers have in a folder."""
        parent = self._resolved(place.rpartition("/")[0])
        if name == _OPAQUE:
            prefix = f"{parent}/" if parent else ""
            below = [
                one
                for one, node in self.nodes.items()
                if one.startswith(prefix) and "/" not in one[len(prefix) :] and node.layer < self._layer
            ]
        else:
            gone = "/".join(filter(None, [parent, name.removeprefix(_WHITEOUT)]))
            below = [gone] if gone in self.nodes else []
        for one in below:
            self._remove(one)

    def _remove(self, place: str) -> None:
        on_disk = self._folder / place
        for one in [one for one in self.nodes if one == place or one.startswith(f"{place}/")]:
            del self.nodes[one]
        if on_disk.is_dir():
            shutil.rmtree(on_disk)
        else:
            on_disk.unlink(missing_ok=True)  # a link is not there

    def finish(self) -> None:
        """Make the links, which nothing goes through any more."""
        for place, node in self.nodes.items():
            if node.kind == "link":
                (self._folder / place).symlink_to(node.target)


def follow(place: str, target: Callable[[str], str | None], *, last: bool) -> str | None:
    """Return where a path leads, through the links of a tree.

    Args:
        place: The path, without leading slash.
        target: Returns what the link at a path points to; None where there is no link.
        last: Whether a link at the path itself is followed too.

    Returns:
        A path without leading slash, where there need not be anything; None when links go round in circles.
    """
    left = place.split("/")
    done: list[str] = []
    for _ in range(_MOST_LINKS):
        points_to = None
        while left and points_to is None:
            part = left.pop(0)
            if part == "..":
                del done[-1:]
            elif part not in ("", "."):
                points_to = target("/".join([*done, part])) if left or last else None
                if points_to is None:
                    done.append(part)
        if points_to is None:
            return "/".join(done)
        if points_to.startswith("/"):
            done = []
        left = [*points_to.split("/"), *left]
    return None


def _is_of_the_guest(place: str) -> bool:
    """Return whether a path is below /dev, which the guest has from its kernel."""
    return place.startswith("dev/")


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
