"""RPM packages, without rpm: their header, their signature, the files in them.

The layout is that of rpm's documentation ("Package format"): a lead, a signature header, a header, and a compressed
cpio archive. A package's own signature is over the header, and the header has the digest of the archive.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import KernelFileError, MirrorError
from harness.kernel.files import signature
from harness.kernel.files.decompress import open_stream

MAGIC = b"\xed\xab\xee\xdb"

_LEAD = 96
_HEADER = b"\x8e\xad\xe8\x01"
_NAME, _VERSION, _RELEASE, _ARCH = 1000, 1001, 1002, 1022
_PAYLOAD_DIGEST = 5092
_SIGNATURES = (268, 267)
"""Tags of the signature over the header: RSA, and DSA or EdDSA."""
_OPENPGP = 278
"""Tag of signatures in newer packages, each in base64."""


@dataclass(frozen=True)
class Rpm:
    """What a package says of itself.

    Attributes:
        path: The file.
        name: Package name.
        version: Its version and release: "5.14.0-503.11.1.el9_5".
        architecture: As in the package.
        header: The bytes that are signed.
        signature: The signature; b"" without one.
        payload_digest: sha256 of the archive, compressed; "" when the header has none.
        payload: Where the archive begins, in bytes from the start.
    """

    path: Path
    name: str
    version: str
    architecture: str
    header: bytes
    signature: bytes
    payload_digest: str
    payload: int


def read(path: Path) -> Rpm:
    """Read a package's headers.

    Raises:
        KernelFileError: It is not an RPM package, or is damaged.
    """
    with path.open("rb") as stream:
        data = stream.read(_LEAD)
        if not data.startswith(MAGIC):
            raise KernelFileError(f"{path.name} is not an RPM package", expected="a file that begins as one does")
        try:
            signatures, _ = _header(stream)
            stream.seek(-stream.tell() % 8, 1)
            tags, header = _header(stream)
            made = next((signatures[tag] for tag in _SIGNATURES if tag in signatures), b"")
            if not made and _OPENPGP in signatures:
                made = base64.b64decode(signatures[_OPENPGP][0])
            digests = tags.get(_PAYLOAD_DIGEST, [""])
            return Rpm(
                path,
                str(tags[_NAME]),
                f"{tags[_VERSION]}-{tags[_RELEASE]}",
                str(tags.get(_ARCH, "")),
                header,
                made,
                str(digests[0]),
                stream.tell(),
            )
        except (struct.error, LookupError, ValueError) as error:
            raise _damaged(path, error) from error


def _header(stream: BinaryIO) -> tuple[dict[int, Any], bytes]:
    head = stream.read(16)
    if head[:4] != _HEADER:
        raise ValueError("a header does not begin as one does")
    count, size = struct.unpack(">II", head[8:])
    # rpm's own limit is 64 MB for the index and 256 MB for the data.
    if count > 1 << 16 or size > 1 << 28:
        raise ValueError("a header names an impossible size")
    index, store = stream.read(16 * count), stream.read(size)
    if len(index) + len(store) != 16 * count + size:
        raise ValueError("it ends inside a header")
    tags: dict[int, Any] = {}
    for at in range(count):
        tag, kind, offset, number = struct.unpack_from(">IIII", index, 16 * at)
        if kind in (6, 9):  # a string, a string in several languages
            tags[tag] = store[offset : store.index(b"\0", offset)].decode(errors="replace")
        elif kind == 8:
            tags[tag] = [one.decode(errors="replace") for one in store[offset:].split(b"\0", number)[:number]]
        elif kind == 7:
            tags[tag] = store[offset : offset + number]
    return tags, head + index + store


def verify(package: Rpm, keyrings: Sequence[Path]) -> signature.Signed:
    """Verify a package's own signature, and its content by the digest under it.

    Args:
        package: What :func:`read` returned.
        keyrings: Files with keys, binary or armoured.

    Returns:
        Its signature.

    Raises:
        MirrorError: It is not signed, not by a key in the keyrings, or differs from what was signed.
        ToolMissing: gpgv is not installed.
    """
    if not package.signature or not package.payload_digest:
        raise MirrorError(
            f"{package.path.name} is not signed",
            expected="an RPM package with a signature over its header and a digest of its content",
        )
    signed = signature.detached(package.header, package.signature, keyrings, package.path.name)
    digest = hashlib.sha256()
    with package.path.open("rb") as stream:
        stream.seek(package.payload)
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != package.payload_digest:
        raise MirrorError(
            f"the content of {package.path.name} differs from its signed header",
            expected=f"sha256 {package.payload_digest}",
            hint="fetch it again",
        )
    return signed


@dataclass(frozen=True)
class Member:
    """One file in a package.

    Attributes:
        name: Its path, without a leading "./" or "/".
        mode: Type and permissions, as in stat.
        content: The content; the target of a symbolic link.
    """

    name: str
    mode: int
    content: bytes


@contextmanager
def members(package: Rpm) -> Iterator[Iterator[Member]]:
    """Open the files in a package, in its order.

    Raises:
        KernelFileError: The package is damaged; also raised while the body reads.
    """
    try:
        with package.path.open("rb") as stream:
            stream.seek(package.payload)
            yield _cpio(open_stream(stream))
    except (lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise _damaged(package.path, error) from error
    except OSError as error:
        # gzip raises this, without an error number, when the format is wrong.
        if error.errno is not None:
            raise
        raise _damaged(package.path, error) from error


def _cpio(stream: BinaryIO) -> Iterator[Member]:
    while True:
        head = _exactly(stream, 110)
        if head[:6] not in (b"070701", b"070702"):
            raise ValueError("the archive in it is not cpio")
        fields = [int(head[at : at + 8], 16) for at in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = _exactly(stream, name_size)[:-1].decode(errors="replace")
        _exactly(stream, -(110 + name_size) % 4)
        if name == "TRAILER!!!":
            return
        content = _exactly(stream, size)
        _exactly(stream, -size % 4)
        yield Member(name.removeprefix(".").lstrip("/"), mode, content)


def is_file(member: Member) -> bool:
    """Return whether a member is a regular file."""
    return stat.S_ISREG(member.mode)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        block = stream.read(size - len(data))
        if not block:
            raise EOFError("the archive in it ends early")
        data += block
    return bytes(data)


def _damaged(path: Path, error: Exception) -> KernelFileError:
    return KernelFileError(
        f"{path.name} is not a whole RPM package: {error or type(error).__name__}",
        expected="an RPM package, complete",
        hint="fetch it again",
    )
