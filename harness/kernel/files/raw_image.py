"""Kernel images that QEMU loads as they are: the `Image` of arm64 and riscv64, s390x's `bzImage` and armhf's `zImage`.

Pure: bytes in, records out. An `Image` has a header of 64 bytes (Linux `Documentation/arch/arm64/booting.rst` and
`Documentation/arch/riscv/boot-image-header.rst`). With CONFIG_EFI that is also the header of a PE file, whose sections
say how long the file is. s390x's has its parameters at a fixed place (struct parmarea of
`arch/s390/include/asm/setup.h`), and a trailer (`arch/s390/boot/vmlinux.lds.S`). A `zImage` has a header (Linux
`arch/arm/boot/compressed/head.S`) and a table that says where its compressed kernel ends (`vmlinux.lds.S` there).
"""

from __future__ import annotations

import struct

from harness.errors import KernelFileError
from harness.util import architecture
from harness.util.architecture import Architecture

HEAD_SIZE = 1 << 17
"""Bytes at the beginning of a file that tell any image."""

_S390 = b"S390EP"
_S390_AT = 0x10008
_KERNEL_VERSION_AT = 0x10428
_TRAILER = b"\0\0\0\x20zIPL"

_ZIMAGE = b"\x18\x28\x6f\x01"
_ZIMAGE_AT = 36
_TABLE_AT = 56
_SIZES = b"KLSZ"


def architecture_of(data: bytes) -> Architecture | None:
    """Return the architecture of an image, by the magic in its header; None when it is another kind of file.

    Args:
        data: At least the first HEAD_SIZE bytes of the file.
    """

    def is_there(one: Architecture) -> bool:
        return bool(one.magic) and data.startswith(one.magic.encode(), one.magic_at)

    return next(filter(is_there, architecture.known().values()), None)


def banner(data: bytes) -> str:
    """Return the version line that an image of s390x has beside the compressed kernel; "" for other images.

    Args:
        data: The whole file.
    """
    if not data.startswith(_S390, _S390_AT):
        return ""
    at = int.from_bytes(data[_KERNEL_VERSION_AT : _KERNEL_VERSION_AT + 8], "big")
    return data[at : at + 512].split(b"\0", 1)[0].decode(errors="replace") if at else ""


def payload_end(data: bytes) -> int:
    """Return where the compressed kernel in a `zImage` ends, in bytes; 0 for other images, and where it does not say.

    The last four bytes before it are the size of what it unpacks to.

    Args:
        data: The whole file.
    """
    if not data.startswith(_ZIMAGE, _ZIMAGE_AT):
        return 0
    try:
        (table,) = struct.unpack_from("<I", data, _TABLE_AT)
        tag, size_at = struct.unpack_from("<4sI", data, table + 4)
    except struct.error:
        return 0
    return size_at + 4 if tag == _SIZES and size_at + 4 <= len(data) else 0


def is_zboot(data: bytes) -> bool:
    """Return whether a file is a compressed image that EFI firmware unpacks (CONFIG_EFI_ZBOOT).

    Args:
        data: At least the first 8 bytes of the file.
    """
    return data[:2] == b"MZ" and data[4:8] == b"zimg"


def check(data: bytes, name: str) -> None:
    """Check that an image is complete.

    Args:
        data: The whole file.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is damaged or cut short.
    """
    if data.startswith(_S390, _S390_AT):
        if not data.endswith(_TRAILER):
            raise KernelFileError(
                f"{name} is cut short: it does not end with the trailer of s390x's images",
                expected="a whole image, of Linux 5.3 or later",
                hint="fetch or build it again",
            )
        return
    try:
        (pe,) = struct.unpack_from("<I", data, 60)
        if data[:2] != b"MZ" or pe == 0:
            return  # built without CONFIG_EFI: the header does not say how long the file is
        if data[pe : pe + 4] != b"PE\0\0":
            raise KernelFileError(f"{name} is damaged: its header names no PE header", expected="a whole Image")
        (sections,) = struct.unpack_from("<H", data, pe + 6)
        (optional,) = struct.unpack_from("<H", data, pe + 20)
        table = pe + 24 + optional
        # SizeOfRawData and PointerToRawData of each section
        ends = [sum(struct.unpack_from("<II", data, table + 40 * number + 16)) for number in range(sections)]
    except struct.error as error:
        raise KernelFileError(f"{name} ends inside its header", expected="a whole Image") from error
    if max(ends, default=0) > len(data):
        raise KernelFileError(
            f"{name} is cut short: its sections end at byte {max(ends)}, the file has {len(data)}",
            expected="a whole Image",
            hint="fetch or build it again",
        )
