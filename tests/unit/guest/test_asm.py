"""The assembler: bytes that clang and the kernel agree on."""

from __future__ import annotations

import pytest

from harness.guest.api import asm
from harness.guest.api.asm import R0, R1, R2, R10


def test_instructions_are_encoded_as_clang_encodes_them() -> None:
    # llvm-mc -triple bpfel --show-encoding, one line each.
    expected = {
        "b4 00 00 00 07 00 00 00": asm.alu32("mov", R0, 7),
        "b7 00 00 00 ff ff ff ff": asm.mov(R0, -1),
        "bf a2 00 00 00 00 00 00": asm.mov(R2, R10),
        "07 02 00 00 fc ff ff ff": asm.add(R2, -4),
        "62 0a fc ff 07 00 00 00": asm.st("W", R10, -4, 7),
        "7b 1a f8 ff 00 00 00 00": asm.stx("DW", R10, -8, R1),
        "61 01 04 00 00 00 00 00": asm.ldx("W", R1, R0, 4),
        "db 10 00 00 00 00 00 00": asm.atomic_add("DW", R0, 0, R1),
        "85 00 00 00 01 00 00 00": asm.call("map_lookup_elem"),
        "95 00 00 00 00 00 00 00": asm.exit(),
        "18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11": asm.ld_imm64(R1, 0x1122334455667788),
        "18 11 00 00 05 00 00 00 00 00 00 00 00 00 00 00": asm.ld_map(R1, 5),
    }
    assert {text: asm.assemble(instruction).hex(" ") for text, instruction in expected.items()} == {
        text: text for text in expected
    }


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


def test_what_is_disassembled_assembles_to_the_same_bytes() -> None:
    code = asm.assemble(
        asm.ld_imm64(R1, 0x1122334455667788), asm.call(1), asm.jump("==", R0, 0, "out"), asm.label("out")
    )
    again = asm.disassemble(code)
    assert asm.assemble(*again) == code
