"""What a user names as a root file system: a folder, an archive, or a saved container image, read into a tree."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from harness.errors import UsageError
from harness.image.tree import FileTree

_ZSTD = b"\x28\xb5\x2f\xfd"
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, KeyError, ValueError, OSError)

Opener = Callable[[str], IO[bytes]]


class Blob(io.RawIOBase):
    """A file that is read once, whose digest is taken meanwhile.

    Args:
        file: The file.
        name: Its name.
        described: Its digest as images have it, "sha256:..."; "" where nobody says it.

    Raises:
        ValueError: The digest has another form.
    """

    def __init__(self, file: IO[bytes], name: str, described: str) -> None:
        self._file = file
        self._name = name
        self._algorithm, self._digest = split_digest(described) if described else ("sha256", "")
        self._content = hashlib.new(self._algorithm)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        found = self._file.read(len(buffer))
        self._content.update(found)
        buffer[: len(found)] = found
        return len(found)

    def check(self) -> None:
        """Read the rest and compare the digest.

        Raises:
            ValueError: It has another.
        """
        if not self._digest:
            return
        while block := self._file.read(1 << 20):
            self._content.update(block)
        if self._content.hexdigest() != self._digest:
            raise ValueError(f"{self._name} is damaged: its {self._algorithm} is {self._content.hexdigest()}")


def split_digest(described: str) -> tuple[str, str]:
    """Return algorithm and digest of "sha256:...".

    Raises:
        ValueError: It is not a digest.
    """
    algorithm, _, digest = described.partition(":")
    if not (algorithm in ("sha256", "sha512") and digest.isalnum()):
        raise ValueError(f"{described!r} is not a digest")
    return algorithm, digest


def read_into(tree: FileTree, what: Path, wanted: str) -> None:
    """Add to a tree what a path has.

    Args:
        tree: The tree.
        what: A folder, a tar archive (plain, gzip, xz or zstd), or a container image as `docker save`, `podman save`
            or an OCI layout has it.
        wanted: The architecture for which an image that has several is read.

    Raises:
        UsageError: It is none of these, is damaged, or has what a root file system cannot have.
    """
    layout = (what / "oci-layout").is_file()
    if what.is_dir() and not layout:
        tree.add_folder(what)
        return
    try:
        if layout:
            _image(tree, lambda name: _file_of(what, name), oci=True, wanted=wanted)
        else:
            _read_archive(tree, what, wanted)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        kind, expected = ("an archive", "a tar archive, plain or compressed with gzip, xz or zstd")
        if layout:
            kind, expected = ("an OCI layout", "every blob that its index names, whole")
        raise UsageError(
            f"{what} cannot be read as {kind}: {error or type(error).__name__}", expected=expected
        ) from None


def _file_of(layout: Path, name: str) -> IO[bytes]:
    if not (layout / name).is_file():
        raise ValueError(f"{name} is missing")
    return (layout / name).open("rb")


def _read_archive(tree: FileTree, what: Path, wanted: str) -> None:
    with _opened(what.open("rb")) as archive:
        names = _image_names(archive)
    if names is None:
        with _opened(what.open("rb")) as archive:
            tree.add_layer(archive, whiteouts=False)
        return
    with tarfile.open(what, "r:*") as archive:

        def member(name: str) -> IO[bytes]:
            found = archive.extractfile(name)
            if found is None:
                raise KeyError(name)
            return found

        _image(tree, member, oci="manifest.json" not in names, wanted=wanted)


@contextmanager
def _opened(file: io.BufferedReader) -> Iterator[tarfile.TarFile]:
    """Open an archive that is read once from its beginning to its end."""
    with file:
        start = file.peek(4)[:4]
        stream: Any = zstandard.ZstdDecompressor().stream_reader(file) if start == _ZSTD else file
        with tarfile.open(fileobj=stream, mode="r|" if start == _ZSTD else "r|*") as archive:
            yield archive
            read = archive.fileobj.tell() if archive.fileobj is not None else 0
            if archive.offset < read < archive.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it ends in the middle")  # tarfile takes that for its end


def _image_names(archive: tarfile.TarFile) -> set[str] | None:
    """Return the names in an archive that is a saved image; None for another."""
    names = {name for member in archive if "/" not in (name := member.name.removeprefix("./"))}
    return names if "manifest.json" in names or {"oci-layout", "index.json"} <= names else None


def _image(tree: FileTree, opener: Opener, *, oci: bool, wanted: str) -> None:
    """Add the layers of an image, the lowest first."""
    try:
        layers = _oci_layers(tree, opener, wanted) if oci else _docker_layers(tree, opener)
    except (TypeError, AttributeError) as error:  # JSON of another shape
        raise ValueError(f"its list of layers is malformed: {error}") from error
    for name, digest in layers:
        with opener(name) as file:
            blob = Blob(file, name, digest)
            try:
                with _opened(io.BufferedReader(blob, 1 << 20)) as archive:
                    tree.add_layer(archive, whiteouts=True)
            except _DAMAGE:
                blob.check()  # which says more than what the archive met
                raise
            blob.check()


def _json(opener: Opener, name: str, digest: str = "") -> Any:
    with opener(name) as file:
        blob = Blob(file, name, digest)
        content = blob.readall()
        blob.check()
        return json.loads(content)


def _docker_layers(tree: FileTree, opener: Opener) -> list[tuple[str, str]]:
    found = _json(opener, "manifest.json")
    if len(found) != 1:
        raise tree.refused(f"it has {len(found)} images", "save one image")
    return [(str(name), "") for name in found[0]["Layers"]]


def _oci_layers(tree: FileTree, opener: Opener, wanted: str) -> list[tuple[str, str]]:
    index = _json(opener, "index.json")
    while "manifests" in index:
        manifests = index["manifests"]
        if len(manifests) > 1:
            manifests = [one for one in manifests if one.get("platform", {}).get("architecture") == wanted]
        if len(manifests) != 1:
            raise tree.refused(f"{len(manifests)} of its images are for {wanted}", "save one image")
        index = _json(opener, *_blob(manifests[0]))
    return [_blob(one) for one in index["layers"]]


def _blob(described: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the digest of a blob."""
    digest = str(described["digest"])
    return "/".join(("blobs", *split_digest(digest))), digest
