"""Kernel images: each compression, and each way in which a file is not a kernel."""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
from collections.abc import Callable

import lz4.block
import pytest
import zstandard

from harness.errors import KernelFileError
from harness.kernel.files import bzimage as bzimages
from harness.util import architecture
from tests.needs import needs_program
from tests.unit.kernel.kernel_fakes import EM_AARCH64, bzimage, elf, gzipped

KERNEL = elf(content=b"text " * 5000)


def sized(compressed: bytes) -> bytes:
    """What the kernel's build makes of compressed data: the uncompressed size is appended."""
    return compressed + struct.pack("<I", len(KERNEL))


def lz4_legacy(data: bytes) -> bytes:
    blocks = [data[at : at + 20000] for at in range(0, len(data), 20000)]
    packed = [lz4.block.compress(block, store_size=False) for block in blocks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in packed)


def lzo(data: bytes) -> bytes:
    needs_program("lzop")
    return subprocess.run(["lzop", "-9", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


COMPRESSIONS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzipped(KERNEL),
    "bzip2": lambda: sized(bz2.compress(KERNEL)),
    "lzma": lambda: sized(lzma.compress(KERNEL, format=lzma.FORMAT_ALONE)),
    "xz": lambda: sized(lzma.compress(KERNEL, check=lzma.CHECK_CRC32)),
    "lz4": lambda: sized(lz4_legacy(KERNEL)),
    "zstd": lambda: sized(zstandard.ZstdCompressor().compress(KERNEL)),
    "lzo": lambda: sized(lzo(KERNEL)),
}
every_compression = pytest.mark.parametrize("compression", COMPRESSIONS)


@every_compression
def test_every_compression_that_a_kernel_offers_is_unpacked(compression: str) -> None:
    assert bzimages.extract_vmlinux(bzimage(COMPRESSIONS[compression]()), "image") == (KERNEL, compression)


@every_compression
def test_a_damaged_payload_is_refused(compression: str) -> None:
    packed = bytearray(COMPRESSIONS[compression]())
    middle = len(packed) // 2
    packed[middle : middle + 40] = bytes(40)
    with pytest.raises(KernelFileError, match="damaged"):
        bzimages.extract_vmlinux(bzimage(bytes(packed)), "image")


@every_compression
def test_a_payload_that_ends_early_is_refused(compression: str) -> None:
    packed = COMPRESSIONS[compression]()
    with pytest.raises(KernelFileError, match="damaged"):
        bzimages.extract_vmlinux(bzimage(packed[: len(packed) * 2 // 3]), "image")


def test_a_bzimage_cut_in_half_says_where_it_should_end() -> None:
    image = bzimage(gzipped(KERNEL))
    with pytest.raises(KernelFileError, match=r"cut short: its payload should end at byte \d+, the file has \d+"):
        bzimages.extract_vmlinux(image[: len(image) // 2 + 1300], "image")
    with pytest.raises(KernelFileError, match="ends inside its setup header"):
        bzimages.extract_vmlinux(image[:0x230], "image")


def test_a_payload_of_another_kernels_size_is_refused() -> None:
    packed = lz4_legacy(KERNEL) + struct.pack("<I", len(KERNEL) + 1)
    with pytest.raises(KernelFileError, match="unpacks to"):
        bzimages.extract_vmlinux(bzimage(packed), "image")


def test_an_unknown_compression_is_named_by_its_first_bytes() -> None:
    with pytest.raises(KernelFileError, match="50 4b 03 04"):
        bzimages.extract_vmlinux(bzimage(b"PK\x03\x04" + bytes(100)), "image")


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", bytes(4096)])
def test_other_files_than_kernels_are_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="not a kernel image"):
        bzimages.image_kind(data, "file")


def test_an_old_boot_protocol_is_refused() -> None:
    with pytest.raises(KernelFileError, match=r"boot protocol 2\.04"):
        bzimages.setup_header(bzimage(b"", protocol=0x0204), "image")


def test_release_and_banner_are_read_from_the_header() -> None:
    header = bzimages.setup_header(
        bzimage(b"x", release="6.1.0-56-cloud-amd64", build="#1 SMP Debian 6.1.192-2"), "image"
    )
    assert header.release == "6.1.0-56-cloud-amd64"
    assert header.banner.endswith("Debian 6.1.192-2")


def test_a_vmlinux_for_another_architecture_is_refused() -> None:
    with pytest.raises(KernelFileError, match="AArch64"):
        bzimages.check_elf(elf(machine=EM_AARCH64), "vmlinux")
    with pytest.raises(KernelFileError, match=r"is for x64\n  expected: a kernel for ppc64el"):
        bzimages.check_elf(elf(), "vmlinux", architecture.require("ppc64el"))


def test_a_vmlinux_is_an_image_where_qemu_boots_it() -> None:
    data = elf(machine=21, pvh=False)
    ppc64el = architecture.require("ppc64el")
    assert bzimages.architecture_of(data, "vmlinux") is ppc64el
    bzimages.require_architecture(data, "vmlinux", ppc64el)
    bzimages.check_elf(data, "vmlinux", ppc64el)


@pytest.mark.parametrize("keep", [0.95, 0.5, 0.0])
def test_a_truncated_vmlinux_is_refused(keep: float) -> None:
    with pytest.raises(KernelFileError):
        bzimages.check_elf(KERNEL[: max(4, int(len(KERNEL) * keep))], "vmlinux")


def test_an_object_file_is_not_a_vmlinux() -> None:
    data = bytearray(elf())
    struct.pack_into("<H", data, 56, 0)
    with pytest.raises(KernelFileError, match="no program headers"):
        bzimages.check_elf(bytes(data), "file.o")


def test_alignment() -> None:
    assert bzimages.load_alignment(elf(align=0x1000)) == 0x1000


# What objdump shows of v6.11.11 and of v6.13.7: the address in %rbp is that of the call, or is whatever was there.
USES_ADDRESS = bytes.fromhex("4889eb 4881eb00000001 48891d00000000")
FINDS_ADDRESS = bytes.fromhex("fc e800000000 5d 83ed0b")


def test_what_qemu_cannot_boot_directly() -> None:
    assert bzimages.pvh_problem(elf(pvh=False)) == "it has no PVH entry (CONFIG_PVH)"
    assert bzimages.pvh_problem(elf(content=bytes(16))) == ""
    assert bzimages.pvh_problem(elf(content=FINDS_ADDRESS + bytes(16) + USES_ADDRESS)) == ""
    assert "register that nothing has set" in bzimages.pvh_problem(elf(content=bytes(16) + USES_ADDRESS))
    assert bzimages.pvh_problem(elf(content=bytes(300) + USES_ADDRESS)) == ""


def test_banner_and_configuration_inside_a_vmlinux() -> None:
    data = elf(content=b"IKCFG_ST" + gzipped(b"CONFIG_X=y\n") + b"IKCFG_ED", release="6.2.3")
    assert bzimages.elf_banner(data).startswith("6.2.3 (fake@host")
    assert bzimages.embedded_config(data) == b"CONFIG_X=y\n"
    assert bzimages.embedded_config(elf()) is None
    assert bzimages.elf_banner(b"nothing") == ""
