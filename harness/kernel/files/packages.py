"""Kernels in packages, archives and containers that a user has, recognised by content.

Each is unpacked once, into a folder with `boot/` and `lib/modules/`; the cache keeps it under the digest of its source.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import KernelFileError
from harness.kernel import cache as kernel_cache
from harness.kernel.files import raw_image, rpm
from harness.kernel.files.decompress import open_stream, package_members, unpacked, write_member
from harness.util import cache

if TYPE_CHECKING:
    import tarfile

_IMAGE = re.compile(r"(?:boot/)?((?:vmlinu[xz]|bzImage)(?:-[^/]*)?)")
_CONFIG = re.compile(r"(?:boot/)?(config(?:-[^/]*)?)")
_IN_MODULES = re.compile(r"lib/modules/([^/]+)/(vmlinuz|config)")
_MODULES = re.compile(r"lib/modules/[^/]+/(?!build(/|$)|source(/|$)).+")


class PackageKind(Enum):
    """What a file is that may have a kernel in it."""

    DEB = "Debian package"
    RPM = "RPM package"
    TAR = "tar archive"
    ZBOOT = "compressed EFI image (zboot)"
    UKI = "unified kernel image"


def kind_of(path: Path) -> PackageKind | None:
    """Recognise a file by its content; None when it is none of these.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(0)
        if head.startswith(b"!<arch>\n"):
            return PackageKind.DEB
        if head.startswith(rpm.MAGIC):
            return PackageKind.RPM
        if raw_image.is_zboot(head):
            return PackageKind.ZBOOT
        if head[:2] == b"MZ" and b".linux" in _sections(head):
            return PackageKind.UKI
        try:
            first = open_stream(stream).read(512)
        except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
            return None
        return PackageKind.TAR if first[257:262] == b"ustar" else None


def is_oci(folder: Path) -> bool:
    """Return whether a folder is an OCI image layout."""
    return (folder / "oci-layout").is_file() and (folder / "index.json").is_file()


def unpacked_folder(path: Path) -> Path:
    """Return a folder with what a package, an archive or an OCI layout holds of a kernel, unpacked once.

    Args:
        path: A file that :func:`kind_of` recognises, or an OCI layout.

    Raises:
        KernelFileError: It is damaged, or has no kernel.
        CacheError: The cache cannot be written.
    """
    sources = [path / "index.json"] if path.is_dir() else [path, *_companions(path)]
    facts = "|".join(f"{one.resolve()}|{one.stat().st_size}|{one.stat().st_mtime_ns}" for one in sources)
    place = kernel_cache.folder() / "unpacked" / f"{path.name[:60]}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    if place.is_dir():
        return place
    with cache.locked(place.with_name(f"{place.name}.lock")):
        if not place.is_dir():
            with cache.new_folder(place) as made:
                for one in [path] if path.is_dir() else sources:
                    unpack(one, made)
                if not any(_IMAGE.fullmatch(f"boot/{one.name}") for one in (made / "boot").glob("*")):
                    raise KernelFileError(
                        f"{path} has no kernel in it",
                        expected="boot/vmlinuz-* or lib/modules/*/vmlinuz in it",
                        hint="name the package with the image; its modules are taken from a package beside it",
                    )
    return place


def _companions(path: Path) -> list[Path]:
    """Return the packages beside one that hold the modules and the configuration of the same kernel."""
    if path.suffix == ".deb" and (
        match := re.match(r"linux-(?:image|binary)-(?:unsigned-)?(\d[^_]*?)(-unsigned)?_", path.name)
    ):
        found = [
            *path.parent.glob(f"linux-modules-{match[1]}_*.deb"),
            *path.parent.glob(f"linux-base-{match[1]}_*.deb"),
        ]
        return sorted(found)
    if path.suffix == ".rpm" and (match := re.match(r"(kernel[a-z-]*?)(?:-core|-default)?-(\d.*\.rpm)$", path.name)):
        return sorted(
            {
                *path.parent.glob(f"{match[1]}-modules-{match[2]}"),
                *path.parent.glob(f"{match[1]}-modules-core-{match[2]}"),
            }
        )
    return []


def unpack(path: Path, target: Path) -> None:
    """Unpack what a package, an archive or an OCI layout holds of a kernel into boot/ and lib/modules/ of a folder.

    Raises:
        KernelFileError: It is damaged.
    """
    if path.is_dir():
        _unpack_oci(path, target)
        return
    kind = kind_of(path)
    if kind is PackageKind.DEB:
        with package_members(path) as members:
            _take(members, target)
    elif kind is PackageKind.RPM:
        with rpm.members(rpm.read(path)) as files:
            for one in files:
                if rpm.is_file(one) and (place := placed(one.name)) is not None:
                    _write(target / place, one.content)
    elif kind is PackageKind.TAR:
        with tempfile.TemporaryDirectory(prefix="harness-oci-") as scratch:
            if not _unpack_tar(path, target, Path(scratch)):
                _unpack_oci(Path(scratch), target)
    elif kind is PackageKind.ZBOOT:
        _write(target / "boot" / "vmlinuz", _zboot(path.read_bytes(), str(path)))
    elif kind is PackageKind.UKI:
        data = path.read_bytes()
        start, size = _sections(data)[b".linux"]
        if start + size > len(data):
            raise KernelFileError(
                f"{path} is cut short: the kernel in it ends at byte {start + size}, the file has {len(data)}",
                expected="a whole unified kernel image",
                hint="fetch or make it again",
            )
        kernel = data[start : start + size]
        zboot = raw_image.is_zboot(kernel)
        _write(target / "boot" / "vmlinuz", _zboot(kernel, str(path)) if zboot else kernel)


def placed(name: str) -> str | None:
    """Return where a file of a package belongs in a folder with boot/ and lib/modules/; None for other files. Pure.

    Args:
        name: Its path in the package.
    """
    name = re.sub(r"^(\./|/)+", "", name).removeprefix("usr/")
    if ".." in name.split("/"):
        return None
    if match := _IN_MODULES.fullmatch(name):
        return f"boot/{match[2]}-{match[1]}"
    if match := _IMAGE.fullmatch(name) or _CONFIG.fullmatch(name):
        return f"boot/{match[1]}"
    return name if _MODULES.fullmatch(name) else None


def _take(members: tarfile.TarFile, target: Path) -> None:
    for member in members:
        if member.isfile() and (place := placed(member.name)) is not None:
            write_member(members, member, target / place)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    import tarfile  # a kernel that is in the cache needs none

    try:
        with path.open("rb") as stream, tarfile.open(fileobj=open_stream(stream), mode="r|") as members:
            yield members
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise KernelFileError(
            f"{path} is not a whole archive: {error or type(error).__name__}", hint="fetch or make it again"
        ) from error


def _unpack_tar(path: Path, target: Path, oci: Path) -> bool:
    """Unpack an archive; False when it is an OCI layout, which is then in `oci`."""
    with _tar(path) as members:
        layout = False
        for member in members:
            name = re.sub(r"^(\./)+", "", member.name)
            if not member.isfile():
                continue
            layout = layout or name == "oci-layout"
            if re.fullmatch(r"oci-layout|index\.json|blobs/sha256/[0-9a-f]{64}", name):
                place: Path | None = oci / name
            else:
                inner = placed(name) or placed(name.partition("/")[2])
                place = target / inner if inner is not None else None
            if place is not None:
                write_member(members, member, place)
        return not layout


def _unpack_oci(folder: Path, target: Path) -> None:
    """Unpack the layers of the image for this architecture in an OCI layout."""
    wanted = {"os": "linux", "architecture": "amd64"}
    index = _blob_json(folder / "index.json")
    for _ in range(8):  # an index may lead to another index
        manifests = index.get("manifests")
        if manifests is None:
            break
        fit = [one for one in manifests if not one.get("platform") or wanted.items() <= one["platform"].items()]
        if not fit:
            raise KernelFileError(f"{folder} has no image for linux/amd64", expected="one for this architecture")
        index = _blob_json(_blob(folder, fit[0]["digest"]))
    for layer in index.get("layers", []):
        with _tar(_blob(folder, layer["digest"])) as members:
            _take(members, target)


def _blob(folder: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    path = folder / "blobs" / algorithm / value
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or not path.is_file() or cache.digest_file(path) != value:
        raise KernelFileError(
            f"the blob {digest} of {folder} is missing or damaged",
            expected="a whole OCI image layout",
            hint="copy the image again",
        )
    return path


def _blob_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        # Which parts there are is the reader's matter; those that are there have these forms.
        parts = [part for name in ("manifests", "layers") for part in content.get(name, [])]
        if not all(isinstance(part["digest"], str) and isinstance(part.get("platform", {}), dict) for part in parts):
            raise TypeError("a part lacks its digest, or has an odd platform")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise KernelFileError(f"{path} is damaged: {error}", expected="JSON of an OCI image layout") from error
    found: dict[str, Any] = content
    return found


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


def _sections(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Return the sections of a PE file that its first bytes name: offset and size by name; none for other files."""
    try:
        start = struct.unpack_from("<I", data, 0x3C)[0]
        if data[start : start + 4] != b"PE\0\0":
            return {}
        count, optional = struct.unpack_from("<H", data, start + 6)[0], struct.unpack_from("<H", data, start + 20)[0]
        table = start + 24 + optional
        found = {}
        for at in range(table, table + 40 * count, 40):
            name, virtual, _, size, offset = struct.unpack_from("<8sIIII", data, at)
            # The size on disk is rounded up; the section's own size is that of its content.
            found[name.rstrip(b"\0")] = (offset, min(size, virtual) or size)
    except struct.error:
        return {}
    return found


def _zboot(data: bytes, name: str) -> bytes:
    """Return the kernel in an EFI image that decompresses itself (drivers/firmware/efi/libstub/zboot-header.S)."""
    start, size = struct.unpack_from("<II", data.ljust(16, b"\0"), 8)
    compression = data[24:56].split(b"\0", 1)[0].decode(errors="replace")
    payload = data[start : start + size]
    endings = {"gzip": ".gz", "zstd": ".zst", "zstd22": ".zst", "xzkern": ".xz", "lzma": ".xz"}
    if compression not in endings:
        raise KernelFileError(
            f"the kernel in {name} is compressed with {compression!r}, which the harness does not unpack",
            expected="a zboot image compressed with gzip, zstd, xz or lzma",
            hint="name the Image of its build, which is not compressed",
        )
    if len(payload) < size:
        raise KernelFileError(
            f"{name} is cut short: the kernel in it ends at byte {start + size}, the file has {len(data)}",
            expected="a whole zboot image",
            hint="fetch or build it again",
        )
    try:
        return unpacked(payload, endings[compression])
    except ValueError as error:
        raise KernelFileError(
            f"the kernel in {name} is damaged: {error}", expected="a whole image", hint="fetch or build it again"
        ) from error
