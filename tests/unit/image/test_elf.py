"""What starts a compiled program, by its headers."""

from __future__ import annotations

import struct
import sys
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment
from hypothesis import given
from hypothesis import strategies as st

from harness.image import elf

LOADER = "/lib/ld.so.1"


def program(*, wide: bool, order: str, loader: str = LOADER, kind: int = 3, number: int = 22) -> bytes:
    """Return a program of headers alone: one segment that is loaded, and one that names its loader."""
    header, each = (64, 56) if wide else (52, 32)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    address = "Q" if wide else "I"
    fields = f"{order}HHI{address * 3}IHHHHHH"
    head = ident + struct.pack(fields, kind, number, 1, 0, header, 0, 0, header, each, 2, 0, 0, 0)
    begin, size = header + 2 * each, len(loader) + 1
    if wide:
        segments = [
            struct.pack(f"{order}IIQQQQQQ", what, 4, begin, 0, 0, size if what == 3 else 0, 0, 1) for what in (1, 3)
        ]
    else:
        segments = [
            struct.pack(f"{order}IIIIIIII", what, begin, 0, 0, size if what == 3 else 0, 0, 4, 1) for what in (1, 3)
        ]
    return head + b"".join(segments) + loader.encode() + b"\0"


def starter(folder: Path, data: bytes) -> tuple[int, str] | None:
    path = folder / "program"
    path.write_bytes(data)
    return elf.starter(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [True, False])
def test_the_loader_and_the_architecture_are_read_as_the_library_reads_them(
    tmp_path: Path, wide: bool, order: str
) -> None:
    data = program(wide=wide, order=order)
    assert starter(tmp_path, data) == (22, LOADER)
    read = ELFFile(BytesIO(data))
    loaders = [one.get_interp_name() for one in read.iter_segments() if isinstance(one, InterpSegment)]
    assert (loaders, read.header.e_machine) == ([LOADER], "EM_S390")


def test_this_python_is_a_program() -> None:
    path = Path(sys.executable).resolve()
    found = elf.starter(path)
    assert found is not None
    assert found[0] == elf.read_header(path).number
    assert Path(found[1]).exists()


def test_a_loader_whose_name_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert starter(tmp_path, program(wide=True, order="<")[:-3]) == (22, "")


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", program(wide=True, order="<", kind=1), b"\x7fELF"])
def test_what_is_no_linked_program_has_none(tmp_path: Path, data: bytes) -> None:
    assert starter(tmp_path, data) is None


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("field", [32, 64 + 56 + 8])
def test_an_offset_that_no_file_has_is_damage(tmp_path: Path, field: int, offset: int) -> None:
    data = bytearray(program(wide=True, order="<"))
    struct.pack_into("<Q", data, field, offset)
    assert starter(tmp_path, bytes(data)) in (None, (22, ""))


@given(
    st.booleans(),
    st.sampled_from("<>"),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8),
    st.integers(0, 300),
)
def test_damaged_headers_never_raise(
    tmp_path_factory: pytest.TempPathFactory, wide: bool, order: str, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(program(wide=wide, order=order))
    for place, value in changes:
        if place < len(data):
            data[place] = value
    starter(tmp_path_factory.getbasetemp(), bytes(data[:length]))
