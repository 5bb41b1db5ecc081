"""Kernel images that are not compressed, such as arm64's `Image`: a header of 64 bytes, then the kernel.

Pure: bytes in, records out. The layout is that of Linux `Documentation/arch/arm64/booting.rst`. With CONFIG_EFI the
header is also that of a PE file, whose sections say how long the file is.
"""

from __future__ import annotations

import struct

from harness.errors import KernelFileError
from harness.util import architecture
from harness.util.architecture import Architecture

_MAGIC_AT = 56


def architecture_of(data: bytes) -> Architecture | None:
    """Return the architecture of an image, by the magic in its header; None when it is another kind of file.

    Args:
        data: At least the first 64 bytes of the file.
    """
    magic = data[_MAGIC_AT : _MAGIC_AT + 4]
    return next((one for one in architecture.known().values() if one.magic and one.magic.encode() == magic), None)


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
