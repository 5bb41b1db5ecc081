"""Kernel image files: their type, and the ELF kernel inside a compressed one.

Pure except for two decompressors that are programs: bytes in, records and bytes out. Layouts are those of the
x86 boot protocol (Linux `Documentation/arch/x86/boot.rst`, `arch/x86/boot/compressed/`).
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness import needs
from harness.errors import KernelFileError
from harness.kernel.files import raw_image
from harness.util import architecture
from harness.util.architecture import Architecture
from harness.util.proc import run

ELF_MAGIC = b"\x7fELF"
XEN_ELFNOTE_PHYS32_ENTRY = 18
"""The note by which QEMU boots an uncompressed kernel: PVH's 32-bit entry point."""

_PVH_ENTRY_BYTES = 256
_FINDS_OWN_ADDRESS = bytes.fromhex("e800000000 5d")  # call 1f; 1: pop %ebp
_USES_OWN_ADDRESS = bytes.fromhex("4889eb 4881eb")  # mov %rbp,%rbx; sub $_pa(pvh_start_xen),%rbx

UNPACKER_SIZE = 1 << 18
"""Bytes at the beginning of a zImage among which its compressed kernel begins."""

LZ4_LEGACY_BLOCK = 8 << 20
"""Uncompressed size of every block but the last in lz4's legacy frame, the only one the kernel uses."""

_BANNER = re.compile(rb"Linux version (\d+\.\d+[^\s\x00]*) \(([^\x00\n]*)")


class ImageKind(Enum):
    """The type of a kernel image file."""

    BZIMAGE = "bzImage"
    VMLINUX = "vmlinux"
    IMAGE = "Image"
    """QEMU loads it as it is: harness.kernel.files.raw_image."""


@dataclass(frozen=True)
class SetupHeader:
    """The part of a bzImage's setup header that the harness reads.

    Attributes:
        protocol: Version of the boot protocol, 0x020f for 2.15.
        banner: The image's version line: release, builder and build, as `file` prints it.
        payload_start: Offset in the file of the compressed kernel.
        payload_length: Its length in bytes, the decompressor's size trailer included.
    """

    protocol: int
    banner: str
    payload_start: int
    payload_length: int

    @property
    def release(self) -> str:
        """What `uname -r` prints on that kernel."""
        return self.banner.split(" ", 1)[0]


def image_kind(data: bytes, name: str) -> ImageKind:
    """Distinguish the types by a file's first bytes.

    Args:
        data: At least the first raw_image.HEAD_SIZE bytes of the file.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is none of them.
    """
    if data[:4] == ELF_MAGIC:
        return ImageKind.VMLINUX
    if data[0x202:0x206] == b"HdrS" and data[0x1FE:0x200] == b"\x55\xaa":
        return ImageKind.BZIMAGE
    if raw_image.architecture_of(data) is not None:
        return ImageKind.IMAGE
    if raw_image.is_zboot(data):
        raise KernelFileError(
            f"{name} is a compressed EFI image (zboot), which only EFI firmware unpacks",
            expected="an image that QEMU boots itself",
            hint="name arch/arm64/boot/Image of its build, or build it without CONFIG_EFI_ZBOOT",
        )
    if data[:2] == b"MZ":
        raise KernelFileError(
            f"{name} is an EFI program in which no kernel is found",
            expected="a unified kernel image (it has a section .linux), a zboot EFI image or an Image",
            hint="name the image that was put together with a kernel, not the stub or the boot loader",
        )
    paths = dict.fromkeys([*(one.image_path for one in architecture.known().values()), "vmlinux"])
    raise KernelFileError(
        f"{name} is not a kernel image" + (" (it is empty)" if not data else ""),
        expected="an x86 bzImage (boot protocol 2.08 or later), an x86-64 ELF vmlinux or an image of "
        + " or ".join(one.title for one in architecture.known().values() if one.magic),
        hint="name " + ", ".join(paths) + " of a kernel build, or a distribution's /boot/vmlinuz-*",
    )


def architecture_of(data: bytes, name: str) -> Architecture | None:
    """Return the architecture of a kernel image; None when the harness has none for it.

    Args:
        data: At least the first raw_image.HEAD_SIZE bytes of the file.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is not a kernel image.
    """
    kind = image_kind(data, name)
    if kind is ImageKind.IMAGE:
        return raw_image.architecture_of(data)
    if kind is ImageKind.BZIMAGE:
        return architecture.require("amd64")
    return architecture.by_elf(_elf_machine(data))


def _elf_machine(data: bytes) -> int:
    """Return the number of an ELF file's architecture (e_machine)."""
    return int.from_bytes(data[18:20], "little" if data[5:6] == b"\1" else "big")


def require_architecture(data: bytes, name: str, wanted: Architecture) -> None:
    """Refuse a kernel image of another architecture, or in a form that QEMU does not boot.

    Raises:
        KernelFileError: It is.
    """
    found = architecture_of(data, name)
    if found is None:
        check_elf(data, name)  # says what it is
        return
    if found.name != wanted.name:
        raise KernelFileError(
            f"{name} is for {found.title}",
            expected=f"a kernel for {wanted.title}",
            hint=f"for a kernel of {found.title}, name the image by its path, or a release as 6.12:{found.name}",
        )
    if found.image == ImageKind.IMAGE.value and image_kind(data, name) is ImageKind.VMLINUX:
        raise KernelFileError(
            f"{name} is an ELF file, which QEMU does not boot on {found.title}",
            expected=f"an {found.image_path.rpartition('/')[2]}",
            hint=f"name {found.image_path} of the kernel's build",
        )


def setup_header(data: bytes, name: str) -> SetupHeader:
    """Read a bzImage's setup header.

    Args:
        data: The image, or its first 64 KiB.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is not a bzImage, or its boot protocol is older than 2.08 (Linux 2.6.26).
    """
    if image_kind(data, name) is not ImageKind.BZIMAGE:
        raise KernelFileError(f"{name} is an ELF file", expected="a bzImage")
    if len(data) < 0x250:
        raise KernelFileError(
            f"{name} ends inside its setup header", expected="a whole bzImage", hint="fetch or build it again"
        )
    protocol, version_at = struct.unpack_from("<H", data, 0x206)[0], struct.unpack_from("<H", data, 0x20E)[0]
    if protocol < 0x0208:
        raise KernelFileError(
            f"{name} has boot protocol {protocol >> 8}.{protocol & 255:02d}, which does not say where its payload is",
            expected="boot protocol 2.08 or later, as every kernel since 2.6.26 has",
        )
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    # The field is the string's offset minus 0x200; 0 means that there is no string.
    banner = data[version_at + 0x200 :].split(b"\0", 1)[0] if version_at else b""
    return SetupHeader(protocol, banner[:512].decode(errors="replace"), (sectors + 1) * 512 + offset, length)


def extract_vmlinux(image: bytes, name: str) -> tuple[bytes, str]:
    """Decompress a bzImage's payload.

    Args:
        image: The whole bzImage.
        name: Its name in error messages.

    Returns:
        The ELF kernel, checked to be complete and for x86-64, and the name of the compression.

    Raises:
        KernelFileError: The image is cut short, damaged, for another architecture, or its compression is
            unknown.
        ToolMissing: Its decompressor is a program that is not installed.
    """
    header = setup_header(image, name)
    payload = image[header.payload_start : header.payload_start + header.payload_length]
    if len(payload) < header.payload_length:
        raise KernelFileError(
            f"{name} is cut short: its payload should end at byte "
            f"{header.payload_start + header.payload_length}, the file has {len(image)}",
            expected="a whole bzImage",
            hint="fetch or build it again",
        )
    known = next((entry for entry in _DECOMPRESSORS if payload.startswith(entry[0])), None)
    if known is None:
        raise KernelFileError(
            f"the payload of {name} is compressed in an unknown way (it starts with {payload[:8].hex(' ')})",
            expected="one of " + ", ".join(label for _, label, _ in _DECOMPRESSORS),
        )
    _, compression, decompress = known
    try:
        kernel = decompress(payload)
    except _library_errors() as error:
        raise _damaged(name, compression, str(error)) from error
    # The kernel's build appends the uncompressed size; gzip ends with it anyway, and lz4 has no other check.
    (expected,) = struct.unpack_from("<I", payload, len(payload) - 4)
    if len(kernel) != expected:
        raise _damaged(name, compression, f"it unpacks to {len(kernel)} bytes, not {expected}")
    check_elf(kernel, f"the kernel inside {name}")
    return kernel, compression


def plain_kernel(image: bytes, name: str) -> bytes:
    """Return the kernel in an image that QEMU loads as it is: of armhf's `zImage` unpacked, any other image itself.

    Args:
        image: The whole file.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is damaged, or compressed in an unknown way.
        ToolMissing: Its decompressor is a program that is not installed.
    """
    end = raw_image.payload_end(image)
    if not end:
        return image
    # Where the payload begins is known to the code before it alone.
    starts = (
        (found.start(), label, decompress)
        for magic, label, decompress in _DECOMPRESSORS
        for found in re.finditer(re.escape(magic), image[: min(end, UNPACKER_SIZE)])
    )
    (expected,) = struct.unpack_from("<I", image, end - 4)
    for start, _, decompress in sorted(starts):
        try:
            kernel = decompress(image[start:end])
        except _library_errors():
            continue
        if len(kernel) == expected:
            return kernel
    raise KernelFileError(
        f"no kernel was found in {name}: it is damaged, or compressed in an unknown way",
        expected="a zImage compressed by one of " + ", ".join(label for _, label, _ in _DECOMPRESSORS),
        hint="fetch or build it again",
    )


def _library_errors() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    import lz4.block
    import zstandard

    return (
        KernelFileError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        lz4.block.LZ4BlockError,
        zstandard.ZstdError,
        struct.error,
    )


def _damaged(name: str, compression: str, why: str) -> KernelFileError:
    return KernelFileError(
        f"the {compression} payload of {name} is damaged: {why}",
        expected="a whole bzImage",
        hint="fetch or build it again",
    )


def check_elf(data: bytes, name: str, wanted: Architecture | None = None) -> None:
    """Check that an ELF kernel is complete and for an architecture.

    Args:
        data: The whole file.
        name: Its name in error messages.
        wanted: The architecture; None for x86-64.

    Raises:
        KernelFileError: It is damaged, cut short, or for another architecture.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError

    wanted = wanted or architecture.require("amd64")
    if data[:4] != ELF_MAGIC:
        raise KernelFileError(f"{name} is not an ELF file", expected=f"a vmlinux for {wanted.title}")
    try:
        elf = _elf(data)
        if architecture.by_elf(_elf_machine(data)) is not wanted:
            raise KernelFileError(
                f"{name} is for {elf.get_machine_arch()}",
                expected=f"a kernel for {wanted.title}",
                hint=f"the harness knows {architecture.names()}",
            )
        end = max((s["p_offset"] + s["p_filesz"] for s in elf.iter_segments()), default=0)
        end = max(end, elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"])
        if not elf.num_segments():
            raise KernelFileError(
                f"{name} has no program headers", expected="a linked vmlinux, not an object file or module"
            )
        if end > len(data):
            raise KernelFileError(
                f"{name} is cut short: its segments and sections end at byte {end}, the file has {len(data)}",
                expected="a whole vmlinux",
                hint="copy or build it again",
            )
        pvh_problem(data)  # reads the notes, which may be damaged too
    except (ELFError, ConstructError, struct.error, ValueError, OverflowError) as error:
        raise KernelFileError(f"{name} is a damaged ELF file: {error}", expected="a whole vmlinux") from error


def pvh_problem(data: bytes) -> str:
    """Return why QEMU cannot boot an x86-64 ELF kernel directly, "" where it can: by its PVH entry.

    CONFIG_PVH is an option of its own since Linux kernel commit 7733607fb3e6 ("x86/Kconfig: Introduce PVH Kconfig
    option") (in v5.0); earlier kernels have the note only in Xen builds, and older ones not at all.

    Some stable releases (6.6.64 and 6.11.11, not 6.6.65) took changes of v6.13 without the one before them, which
    puts the address of the entry into a register: they hang there and print nothing.
    """
    elf = _elf(data)
    entries = [
        int.from_bytes(note["n_descdata"], "little")
        for segment in elf.iter_segments("PT_NOTE")
        for note in segment.iter_notes()
        if note["n_type"] in (XEN_ELFNOTE_PHYS32_ENTRY, "XEN_ELFNOTE_PHYS32_ENTRY") and note["n_name"] == "Xen"
    ]
    if not entries:
        return "it has no PVH entry (CONFIG_PVH)"
    for segment in elf.iter_segments("PT_LOAD"):
        if 0 <= (inside := entries[0] - segment["p_paddr"]) < segment["p_filesz"]:
            start = segment["p_offset"] + inside
            before, used, _ = data[start : start + _PVH_ENTRY_BYTES].partition(_USES_OWN_ADDRESS)
            if used and _FINDS_OWN_ADDRESS not in before:
                return "its PVH entry takes its own address from a register that nothing has set"
    return ""


def load_alignment(data: bytes) -> int:
    """Return the smallest p_align of an ELF kernel's loadable segments, in bytes."""
    return min((int(s["p_align"]) for s in _elf(data).iter_segments("PT_LOAD")), default=0)


def elf_banner(data: bytes) -> str:
    """Return an ELF kernel's version line without its first two words ("6.1.0-56-cloud-amd64 (builder ...") or ""."""
    match = _BANNER.search(data)
    return f"{match[1].decode(errors='replace')} ({match[2].decode(errors='replace')}" if match else ""


def embedded_config(data: bytes) -> bytes | None:
    """Return the configuration that CONFIG_IKCONFIG stored in an ELF kernel, or None."""
    import zlib

    start = data.find(b"IKCFG_ST\x1f\x8b")
    if start < 0:
        return None
    try:
        return zlib.decompressobj(31).decompress(data[start + 8 :])
    except zlib.error:
        return None


def _elf(data: bytes):  # type: ignore[no-untyped-def]  # pyelftools has no types
    from io import BytesIO

    from elftools.elf.elffile import ELFFile

    return ELFFile(BytesIO(data))


def _gzip(payload: bytes) -> bytes:
    import zlib

    stream = zlib.decompressobj(31)
    return _whole(stream.decompress(payload), stream.eof)


def _bzip2(payload: bytes) -> bytes:
    import bz2

    stream = bz2.BZ2Decompressor()
    return _whole(stream.decompress(payload), stream.eof)


def _xz(payload: bytes) -> bytes:
    import lzma

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return _whole(stream.decompress(payload), stream.eof)


def _lzma(payload: bytes) -> bytes:
    import lzma

    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    return _whole(stream.decompress(payload), stream.eof)


def _zstd(payload: bytes) -> bytes:
    import zstandard

    stream = zstandard.ZstdDecompressor().decompressobj()
    return _whole(stream.decompress(payload), stream.eof)


def _lz4(payload: bytes) -> bytes:
    import lz4.block

    # Legacy frame: the magic, then blocks, each with its compressed size before it; the kernel's build appends
    # the uncompressed size as the payload's last four bytes.
    end = len(payload) - 4
    parts: list[bytes] = []
    at = 4
    while at < end:
        (size,) = struct.unpack_from("<I", payload, at)
        at += 4
        if at + size > end:
            return _whole(b"", False)
        parts.append(lz4.block.decompress(payload[at : at + size], uncompressed_size=LZ4_LEGACY_BLOCK))
        at += size
    return b"".join(parts)


def _lzo(payload: bytes) -> bytes:
    tool = needs.program("lzop")
    with tempfile.TemporaryDirectory(prefix="harness-lzo-") as folder:
        packed, unpacked = Path(folder, "kernel.lzo"), Path(folder, "kernel")
        # lzop refuses the uncompressed size that the kernel's build appends.
        packed.write_bytes(payload[:-4])
        done = run([tool, "--decompress", "--quiet", f"--output={unpacked}", packed], timeout=120)
        if done.status != 0:
            raise KernelFileError(done.tail(1))
        return unpacked.read_bytes()


def _whole(data: bytes, ended: bool) -> bytes:
    if not ended:
        raise KernelFileError("the compressed stream ends early")
    return data


_DECOMPRESSORS: tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"\x5d\x00\x00", "lzma", _lzma),
    (b"\x89LZO", "lzo", _lzo),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
