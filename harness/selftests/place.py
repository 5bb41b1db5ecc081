"""Where a target of selftests is built: in its own folder, as its makefile expects, but in a copy of it.

The copy lies in a mirror of the tree in which everything else is a link to the tree. So nothing is written to the tree,
which other kernels are built from, and makefiles that are only ever run in place work too: BPF's of 6.1 links with a
library of the working folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_LIST = "copied.json"

_Stamp = list[int]


def mirrored(tree: Path, folder: str, place: Path) -> Path:
    """Bring the copy of a folder up to date with the tree, and return it.

    What was made in the copy stays, so that make finds it. A file that is new or changed in the tree is copied, one
    that is gone is removed.

    Args:
        tree: The tree.
        folder: The folder's path in it.
        place: Where the mirror is; made when it is not there.
    """
    mirror = place / "tree"
    copy = mirror / folder
    copy.mkdir(parents=True, exist_ok=True)
    path = Path(folder)
    for above, below in zip((*path.parents[::-1],), path.parts, strict=True):
        _link(tree / above, mirror / above, below)
    _copy(tree / folder, copy, place / _LIST)
    return copy


def _link(source: Path, target: Path, besides: str) -> None:
    """Make a folder hold links to everything that another has, except one entry."""
    names = {entry.name for entry in source.iterdir()} - {besides}
    for entry in target.iterdir():
        if entry.name != besides and entry.name not in names:
            entry.unlink()
    for name in names:
        if not (target / name).is_symlink():
            (target / name).symlink_to(source / name)


def _copy(source: Path, copy: Path, list_file: Path) -> None:
    old: dict[str, _Stamp] = json.loads(list_file.read_text()) if list_file.is_file() else {}
    new = dict(_files(source))
    # First, so that a copy that is ended in the middle is made again.
    list_file.unlink(missing_ok=True)
    for name in old.keys() - new.keys():
        (copy / name).unlink(missing_ok=True)
    for name, stamp in new.items():
        if old.get(name) != stamp:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(source / name, target, follow_symlinks=False)
    list_file.write_text(json.dumps(new))


def _files(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    """Yield the files and links below a folder, with what shows that one has changed."""
    for above, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(above) / name).is_symlink()]
        for name in (*names, *links):
            path = Path(above) / name
            status = path.lstat()
            yield str(path.relative_to(folder)), [status.st_mtime_ns, status.st_size]
