"""Decompressing a file by what its name ends in, and opening Debian packages.

Pure but for reading what it is given. Imports :mod:`harness.errors`; libraries are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import KernelFileError

if TYPE_CHECKING:
    import tarfile


def unpacked(data: bytes, suffix: str) -> bytes:
    """Return data, decompressed.

    Args:
        data: A whole file.
        suffix: What its name ends in: ".xz", ".gz", ".bz2", ".zst", ".lz4"; anything else is not compressed.

    Raises:
        ValueError: It is damaged or cut short.
    """
    opened = _STREAMS.get(suffix)
    if opened is None:
        return data
    try:
        return opened(data)
    except Exception as error:
        # Each library has errors of its own; of well-known bytes in memory, all of them say that these are bad.
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


@contextmanager
def package_members(package: Path) -> Iterator[tarfile.TarFile]:
    """Open the files in a Debian package, and tell a damaged package from a full disk.

    Raises:
        KernelFileError: It is no Debian package, or a damaged one; also when that shows while the body reads.
    """
    import lzma
    import tarfile
    import zlib

    from debian.arfile import ArError
    from debian.debfile import DebError, DebFile

    try:
        with DebFile(package) as deb, deb.data.tgz() as members:
            yield members
    except (ArError, DebError, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise _no_package(package, error) from error
    except OSError as error:
        # python-debian says in this way, without an error number, that the format is wrong.
        if error.errno is not None:
            raise
        raise _no_package(package, error) from error


def _no_package(package: Path, error: Exception) -> KernelFileError:
    return KernelFileError(
        f"{package.name} is not a whole Debian package: {error or type(error).__name__}",
        expected="an ar archive with a data.tar in it",
        hint="fetch it again",
    )
