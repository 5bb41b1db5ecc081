"""Decompresses files by the ending of their name, and opens Debian packages.

No side effects: it only reads what it is given.
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


@contextmanager
def package_members(package: Path) -> Iterator[tarfile.TarFile]:
    """Open the files in a Debian package; a damaged package and a full disk raise different errors.

    Raises:
        KernelFileError: It is not a Debian package, or is damaged; also raised while the body reads.
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
        # python-debian raises this, without an error number, when the format is wrong.
        if error.errno is not None:
            raise
        raise _no_package(package, error) from error


def _no_package(package: Path, error: Exception) -> KernelFileError:
    return KernelFileError(
        f"{package.name} is not a whole Debian package: {error or type(error).__name__}",
        expected="an ar archive with a data.tar in it",
        hint="fetch it again",
    )
