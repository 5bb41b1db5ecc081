"""Decompresses files, by the ending of their name or by their first bytes; opens archives and takes files of them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.errors import KernelFileError

if TYPE_CHECKING:
    import tarfile


def unpacked(data: bytes, suffix: str) -> bytes:
    """Return data, decompressed.

    Args:
        data: The complete file.
        suffix: The ending of its name: ".xz", ".gz", ".bz2", ".zst", ".lz4"; with any other, data is returned as it is.

    Raises:
        ValueError: It is damaged or cut short.
    """
    opened = _STREAMS.get(suffix)
    if opened is None:
        return data
    try:
        return opened(data)
    except Exception as error:
        # Each library has its own errors; for bytes in memory, all of them mean that the data is bad.
        raise ValueError(str(error) or type(error).__name__) from error


def _xz(data: bytes) -> bytes:
    import lzma

    return lzma.decompress(data)


def _gz(data: bytes) -> bytes:
    import gzip

    return gzip.decompress(data)


def _bz2(data: bytes) -> bytes:
    import bz2

    return bz2.decompress(data)


def _zst(data: bytes) -> bytes:
    import zstandard

    stream = zstandard.ZstdDecompressor().decompressobj()
    result = stream.decompress(data)
    if not stream.eof:
        raise ValueError("the compressed stream ends early")
    return result


def _lz4(data: bytes) -> bytes:
    import lz4.frame

    return bytes(lz4.frame.decompress(data))


_STREAMS: dict[str, Callable[[bytes], bytes]] = {".xz": _xz, ".gz": _gz, ".bz2": _bz2, ".zst": _zst, ".lz4": _lz4}


_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x5d\0\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def open_stream(stream: BinaryIO) -> BinaryIO:
    """Return a stream of what a stream holds, decompressed as its first bytes say; unchanged when they say nothing.

    Args:
        stream: Positioned at the first byte.

    Raises:
        zlib.error, lzma.LZMAError, EOFError, OSError, ValueError: While it is read: it is damaged.
    """
    head = stream.read(6)
    stream.seek(-len(head), 1)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    if kind == "zstd":
        import zstandard

        return _Whole(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True), zstandard.ZstdError)
    if not kind:
        return stream
    import bz2
    import gzip
    import lzma

    openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    opened: BinaryIO = openers[kind](stream)
    return opened


class _Whole(io.RawIOBase, BinaryIO):
    """A stream of zstandard's, with the errors of the standard library's decompressors.

    Args:
        stream: The stream.
        error: The errors that it raises when the data is damaged.
    """

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self._stream = stream
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except self._error as error:
            raise ValueError(str(error)) from error


@contextmanager
def package_members(package: Path) -> Iterator[tarfile.TarFile]:
    """Open the files in a Debian package; a damaged package and a full disk raise different errors.

    Raises:
        KernelFileError: It is not a Debian package, or is damaged; also raised while the body reads.
    """
    import lzma
    import tarfile
    import zlib

    from debian.arfile import ArError, ArFile

    try:
        # Not by its DebFile, which needs a program for zstandard.
        with package.open("rb") as whole:
            data = [one for one in ArFile(fileobj=whole).getmembers() if one.name.startswith("data.tar")]
            if not data:
                raise ArError("it has no data.tar")
            content = data[0].read()
            if len(content) < data[0].size:
                raise EOFError("it ends early")
        with open_stream(io.BytesIO(content)) as plain, tarfile.open(fileobj=plain, mode="r|") as members:
            yield members
    except (ArError, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise _no_package(package, error) from error
    except OSError as error:
        # python-debian raises this, without an error number, when the format is wrong.
        if error.errno is not None:
            raise
        raise _no_package(package, error) from error


def write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    """Write a regular file of an archive to a place; its folder is made."""
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)


def _no_package(package: Path, error: Exception) -> KernelFileError:
    return KernelFileError(
        f"{package.name} is not a whole Debian package: {error or type(error).__name__}",
        expected="an ar archive with a data.tar in it",
        hint="fetch it again",
    )
