"""The assembler: bytes that clang and the kernel agree on."""

from __future__ import annotations

from typing import Literal

import pytest

from harness.guest.api import asm
from harness.guest.api.asm import R0, R1, R2, R10

# What llvm-mc --show-encoding prints of each, with -triple bpfel and with -triple bpfeb.
ENCODED = (
    (asm.alu32("mov", R0, 7), "b4 00 00 00 07 00 00 00", "b4 00 00 00 00 00 00 07"),
    (asm.mov(R0, -1), "b7 00 00 00 ff ff ff ff", "b7 00 00 00 ff ff ff ff"),
    (asm.mov(R2, R10), "bf a2 00 00 00 00 00 00", "bf 2a 00 00 00 00 00 00"),
    (asm.add(R2, -4), "07 02 00 00 fc ff ff ff", "07 20 00 00 ff ff ff fc"),
    (asm.st("W", R10, -4, 7), "62 0a fc ff 07 00 00 00", "62 a0 ff fc 00 00 00 07"),
    (asm.stx("DW", R10, -8, R1), "7b 1a f8 ff 00 00 00 00", "7b a1 ff f8 00 00 00 00"),
    (asm.ldx("W", R1, R0, 4), "61 01 04 00 00 00 00 00", "61 10 00 04 00 00 00 00"),
    (asm.atomic_add("DW", R0, 0, R1), "db 10 00 00 00 00 00 00", "db 01 00 00 00 00 00 00"),
    (asm.call("map_lookup_elem"), "85 00 00 00 01 00 00 00", "85 00 00 00 00 00 00 01"),
    (asm.exit(), "95 00 00 00 00 00 00 00", "95 00 00 00 00 00 00 00"),
    (
        asm.ld_imm64(R1, 0x1122334455667788),
        "18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11",
        "18 10 00 00 55 66 77 88 00 00 00 00 11 22 33 44",
    ),
    (
        asm.ld_map(R1, 5),
        "18 11 00 00 05 00 00 00 00 00 00 00 00 00 00 00",
        "18 11 00 00 00 00 00 05 00 00 00 00 00 00 00 00",
    ),
)


@pytest.mark.parametrize("order", ["little", "big"])
def test_instructions_are_encoded_as_clang_encodes_them(order: Literal["little", "big"]) -> None:
    expected = [little if order == "little" else big for _, little, big in ENCODED]
    assert [asm.assemble(one, byte_order=order).hex(" ") for one, _, _ in ENCODED] == expected


def test_a_jump_counts_slots_and_not_instructions() -> None:
    code = asm.assemble(asm.jump("==", R0, 0, "out"), asm.ld_map(R1, 3), asm.goto("out"), asm.label("out"), asm.exit())
    assert code[2:4] == (3).to_bytes(2, "little")
    assert code[8 + 16 + 2 : 8 + 16 + 4] == b"\0\0"


def test_a_jump_may_go_back() -> None:
    code = asm.assemble(asm.label("again"), asm.mov(R0, 0), asm.goto("again"))
    assert code[10:12] == (-2).to_bytes(2, "little", signed=True)


def test_a_map_is_anything_with_a_descriptor() -> None:
    class Held:
        fd = 9

    assert asm.assemble(asm.ld_map(R1, Held())) == asm.assemble(asm.ld_map(R1, 9))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((asm.goto("nowhere"),), "nowhere"),
        ((asm.label("twice"), asm.label("twice")), "twice"),
        ((asm.ldx("W", R1, R0, 1 << 16),), "does not fit"),
    ],
)
def test_what_cannot_be_assembled_is_refused_by_name(
    items: tuple[asm.Instruction | asm.Label, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        asm.assemble(*items)


@pytest.mark.parametrize("order", ["little", "big"])
def test_what_is_disassembled_assembles_to_the_same_bytes(order: Literal["little", "big"]) -> None:
    items = (asm.ld_imm64(R1, 0x1122334455667788), asm.call(1), asm.jump("==", R0, 0, "out"), asm.mov(R2, R10))
    code = asm.assemble(*items, asm.label("out"), byte_order=order)
    again = asm.disassemble(code, order)
    assert (again[3].dst, again[3].src) == (R2, R10)
    assert asm.assemble(*again, byte_order=order) == code
