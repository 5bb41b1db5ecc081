"""Root file systems for guests: ext4 images in the cache, made without root from what a user names.

ext4 is the file system that all of Debian's kernels have built in. The image is only read: a guest puts an overlay in
its memory over it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import needs
from harness.errors import BuildError, UsageError
from harness.image import elf, host
from harness.util import cache
from harness.util.proc import run

if TYPE_CHECKING:
    from harness.image.tree import Node

Files = list[tuple[str, os.stat_result]]

log = logging.getLogger("harness.image")

FORMAT = 3
"""Part of every key: raise it when the same source gives another image."""

_BLOCK = 4096
_INODE = 256
_SPARE = 16 << 20
_TIMEOUT = 600.0
# What kernels from v4.12 on can read; no journal, since nothing is written.
_FEATURES = "none,extent,filetype,large_file,huge_file,dir_nlink,dir_index,extra_isize,sparse_super,flex_bg"


@dataclass(frozen=True)
class Rootfs:
    """A root file system in the cache.

    Attributes:
        path: Its image, for a read-only block device.
        digest: sha256 of what it was made of.
    """

    path: Path
    digest: str

    def contents(self) -> Contents:
        """Return what is in it."""
        found = cache.from_record(self.path.with_suffix(".json"), lambda known: Contents(**known["contents"]))
        return found if found is not None else Contents([], {}, {})


@dataclass(frozen=True)
class Contents:
    """What is in a root file system, as far as programs go.

    Attributes:
        files: The absolute paths of its files.
        links: What its links point to, by absolute path.
        programs: What starts its compiled programs, by absolute path: as :func:`harness.image.elf.starter`.
    """

    files: Sequence[str]
    links: Mapping[str, str]
    programs: Mapping[str, tuple[int, str]]

    def find(self, path: str) -> str | None:
        """Return the path of a file, without links; None where there is no such file.

        Args:
            path: An absolute path.
        """
        from harness.image.tree import follow  # with it come readers of archives

        found = follow(path.lstrip("/"), lambda place: self.links.get(f"/{place}"), last=True)
        return f"/{found}" if found is not None and f"/{found}" in self.files else None


def named(what: Path, folder: Path) -> Path:
    """Return the root file system that a user named, as :func:`rootfs` takes it.

    Args:
        what: A path, or this machine's own files: "host", "host:FOLDER".
        folder: What a relative path begins in.
    """
    return what if host.is_host(str(what)) else folder / what


def rootfs(what: Path, wanted: str) -> Rootfs:
    """Return the root file system that a path stands for, made if it changed since the last time.

    Args:
        what: A folder or an archive, see :func:`harness.image.layers.read_into`; or this machine's own files, see
            :func:`harness.image.host.host_files`.
        wanted: The architecture that is taken of an image for several.

    Raises:
        UsageError: It is unusable.
        ToolMissing: mke2fs is not installed.
        BuildError: mke2fs fails.
        CacheError: The cache folder cannot be written, or the disk is full.
    """
    files = None
    if host.is_host(str(what)):
        host.check_architecture(wanted)
        files = host.host_files(str(what), host.ROOT)
    elif not what.exists():
        raise UsageError(
            f"there is no {what} for a root file system",
            expected="a folder, a tar archive, or a file of docker save or podman save",
        )
    digest = hashlib.sha256(
        repr((FORMAT, wanted, _digest(what) if files is None else _facts(files))).encode()
    ).hexdigest()
    path = cache.cache_root() / "rootfs" / f"{digest[:24]}.ext4"
    record = path.with_suffix(".json")
    found = Rootfs(path, digest)

    def whole(known: dict[str, Any]) -> Rootfs | None:
        if path.stat().st_size != known["size"]:
            return None
        cache.mark_used(path)
        return found

    def make() -> Rootfs:
        log.info("making a root file system of %s", what)
        with cache.new_file(path) as image:
            contents = _make(image, what, wanted, files)
            size = image.stat().st_size
            image.chmod(0o444)  # QEMU is another user
        cache.write_record(record, {"size": size, "contents": asdict(contents)})
        cache.drop_unused(path.parent.glob("*.ext4"))
        return found

    return cache.artefact(path, whole=lambda: cache.from_record(record, whole), make=make)


def _digest(what: Path) -> str:
    """Return what stands for the content: an archive's digest, which is taken once; of a folder, names and times."""
    signature = hashlib.sha256(repr((str(what.absolute()), list(_signature(what)))).encode()).hexdigest()
    if what.is_dir():
        return signature
    seen = cache.cache_root() / "rootfs" / f"{signature[:24]}.seen"
    known = cache.from_record(seen, lambda known: str(known["digest"]))
    if known is None:
        known = cache.digest_file(what)
        cache.write_record(seen, {"digest": known})
    return known


def _facts(files: Files) -> str:
    """Return what changes when one of this machine's files changes."""
    known = hashlib.sha256()
    for place, status in files:
        facts = [place, status.st_mode, status.st_uid, status.st_gid]
        if not stat.S_ISDIR(status.st_mode):  # a folder changes with files that no guest has
            facts += [status.st_size, status.st_mtime_ns]
        known.update(repr(facts).encode(errors="surrogateescape"))
    return known.hexdigest()


def _signature(what: Path) -> Iterable[tuple[str, int, int, int]]:
    """Yield what changes when a file or folder changes."""
    paths = [what, *(sorted(what.rglob("*")) if what.is_dir() else ())]
    for path in paths:
        if path.is_symlink() or path.exists():
            status = path.lstat()
            yield str(path), status.st_mode, status.st_size, status.st_mtime_ns


def _make(image: Path, what: Path, wanted: str, files: Files | None) -> Contents:
    """Write the image; return what is in it."""
    from harness.image.layers import read_into  # few machines have one
    from harness.image.tree import FileTree

    mke2fs, debugfs = (needs.program(name) for name in ("mke2fs", "debugfs"))
    with cache.temporary_of(image) as folder:
        contents = folder / "root"
        folder.mkdir(mode=0o700)
        contents.mkdir(mode=0o700)
        tree = FileTree(str(what), contents)
        if files is None:
            read_into(tree, what, wanted)
        else:
            tree.add_files(host.ROOT, files)
        tree.finish()
        for place, node in tree.nodes.items():
            if node.kind == "file":
                (contents / place).chmod(0o600)
        inodes = len(tree.nodes) * 11 // 10 + 1024
        sizes = [(contents / place).lstat().st_size for place in tree.nodes]
        content = sum(-(-size // _BLOCK) * _BLOCK for size in sizes) + len(sizes) * _BLOCK // 4
        size = (content * 21 // 20 + inodes * _INODE + _SPARE) // _BLOCK
        argv = [str(mke2fs), "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK), "-I", str(_INODE)]
        argv += ["-N", str(inodes), "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1", "-d", str(contents)]
        _run([*argv, str(image), str(size)], what)
        script = folder / "owners"
        script.write_text("".join(f"{line}\n" for line in _owners(tree.nodes)))
        _run([str(debugfs), "-w", "-f", str(script), str(image)], what, quiet=True)
        return _contents(tree.nodes, contents)


def _contents(nodes: dict[str, Node], folder: Path) -> Contents:
    programs = {}
    for place, node in nodes.items():
        if node.kind == "file" and node.mode & 0o111:
            starter = elf.starter(folder / place)
            if starter is not None:
                programs[f"/{place}"] = starter
    return Contents(
        [f"/{place}" for place, node in nodes.items() if node.kind == "file"],
        {f"/{place}": node.target for place, node in nodes.items() if node.kind == "link"},
        programs,
    )


def _owners(nodes: dict[str, Node]) -> Iterable[str]:
    """Yield debugfs commands for owners and modes: on this machine, all files are the user's own."""
    kinds = {"file": 0o100000, "folder": 0o040000, "link": 0o120000}
    yield 'sif "/" mode 040755'
    if "lost+found" not in nodes:
        yield "rmdir lost+found"
    for place, node in nodes.items():
        path = f'"/{place}"'
        yield f"sif {path} uid {node.user}"
        yield f"sif {path} gid {node.group}"
        yield f"sif {path} mode 0{kinds[node.kind] | (0o777 if node.kind == 'link' else node.mode):o}"


def _run(argv: list[str], what: Path, *, quiet: bool = False) -> None:
    done = run(argv, timeout=_TIMEOUT)
    # debugfs ends with 0 whatever happens; its first line on stderr is its version.
    trouble = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")] if quiet else []
    if "No space left" in done.stderr:
        raise BuildError(
            f"no space left while making a root file system of {what}",
            expected="room in the cache folder",
            hint="set HARNESS_CACHE to a larger disk",
        )
    if done.status != 0 or trouble:
        raise BuildError(
            f"{argv[0]} could not make a root file system of {what}",
            expected="an ext4 image",
            detail="\n".join(trouble[-10:]) or done.tail(),
        )
