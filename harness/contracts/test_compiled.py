"""What programs find through an outer map, however the verifier makes of their calls what is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.scene import Scene, jit, open_to_all
from harness.guest.api import asm
from harness.guest.api import bpf as raw
from harness.guest.api.asm import R0, R1, R2, R10

pytestmark = pytest.mark.vm(scope="module")

Code = list[asm.Instruction | asm.Label]

NOBODY = 65534

NULL = 0x7777
"""What the program returns when a lookup gave it nothing."""

SLOTS, ELEMENTS = 3, 5
"""Slots of the outer maps, of which the first is taken, and elements of the inner arrays; their masks are 3 and 7."""

POWER_OF_TWO = 4
"""As many of both have the mask 3: what is asked of the first index beyond the end would be the first element."""

SIZE = 24
"""Bytes of an element: no power of two."""


def found(outer_type: str, how: str) -> str:
    """Look up through an outer map in programs; return what each has found.

    Args:
        outer_type: The outer map's type.
        how: "masked" or "masked_power_of_two" for maps and programs of a user without privileges, "called" for a call
            that two outer maps come to, which no verifier inlines.
    """
    sizes = (POWER_OF_TWO, POWER_OF_TWO) if how == "masked_power_of_two" else (SLOTS, ELEMENTS)
    programs = loaded_by_nobody(outer_type, *sizes) if how.startswith("masked") else loaded(outer_type, how == "called")
    answers = []
    for program in programs:
        error, _, numbers, _ = raw.attempt(
            "PROG_TEST_RUN", {"prog_fd": program, "data_in": bytes(64), "data_size_in": 64}
        )
        if error:
            raise OSError(error, os.strerror(error))
        value = numbers.get("retval", 0)
        answers.append("null" if value == NULL else str(value))
    return " ".join(answers)


def loaded(outer_type: str, has_two: bool, slots: int = SLOTS, elements: int = ELEMENTS) -> list[int]:
    """Load programs that read at a key of the outer map and an element of the inner array; the first finds one."""
    inner = raw.map_create("array", 4, SIZE, elements)
    for element in range(elements):
        value = (40 + element).to_bytes(4, sys.byteorder) + bytes(SIZE - 4)
        raw.map_update(inner, element.to_bytes(4, sys.byteorder), value)
    outer, other = (raw.map_create(outer_type, 4, 4, slots, inner_map_fd=inner) for _ in range(2))
    raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
    programs = []
    # 256 is 0 in its lowest byte and under every mask.
    for key, element in ((0, 2), (0, elements), (0, 256), (1, 2), (slots, 2), (256, 2), (0xFFFFFFFF, 2)):
        code = asm.assemble(*reading(outer, other if has_two else outer, key, element))
        programs.append(
            raw.command("PROG_LOAD", prog_type="socket_filter", insns=code, insn_cnt=len(code) // 8, license="GPL")
        )
    return programs


def loaded_by_nobody(outer_type: str, slots: int = SLOTS, elements: int = ELEMENTS) -> list[int]:
    """Load them without privileges."""
    os.seteuid(NOBODY)
    try:
        return loaded(outer_type, False, slots, elements)
    finally:
        os.seteuid(0)


def reading(outer: int, other: int, key: int, element: int) -> Code:
    """Return a program that reads an element of the inner map at a key."""
    signed = key - ((key & 0x80000000) << 1)
    which: Code = [asm.ld_map(R1, outer)]
    if other != outer:
        # The packet is shorter than that, which the verifier does not know.
        which = [
            *(asm.ldx("W", R0, R1, 0), asm.jump("==", R0, 5000, "other"), asm.ld_map(R1, outer), asm.goto("either")),
            *(asm.label("other"), asm.ld_map(R1, other), asm.label("either")),
        ]
    return [
        *which,
        *(asm.st("W", R10, -4, signed), asm.mov(R2, R10), asm.add(R2, -4), asm.call("map_lookup_elem")),
        *(asm.jump("==", R0, 0, "none"), asm.mov(R1, R0), asm.st("W", R10, -8, element), asm.mov(R2, R10)),
        *(asm.add(R2, -8), asm.call("map_lookup_elem"), asm.jump("==", R0, 0, "none"), asm.ldx("W", R0, R0)),
        *(asm.exit(), asm.label("none"), *asm.return_(NULL)),
    ]


@pytest.mark.contract("compiled.finds")
def test_what_programs_find(scene: Scene, case: str, observe: Observe) -> None:
    with open_to_all(scene.bpf):
        observe(scene.guest.call(found, scene.type, case, closes=False))


_AND_NUMBER = 0x54  # BPF_ALU | BPF_AND | BPF_K, 32 bits


def masks(code: Iterable[asm.Instruction]) -> list[int]:
    return sorted(one.value for one in code if one.code == _AND_NUMBER)


@pytest.mark.contract("compiled.unmasked")
def test_what_is_masked_for_root(scene: Scene, observe: Observe) -> None:
    inner = scene.bpf.map("array", max_entries=ELEMENTS)
    outer = scene.empty(max_entries=SLOTS, inner=inner)
    with scene.bpf.prog("socket_filter", reading(outer.fd, outer.fd, 0, 2)) as program:
        observe(masks(program.translated()))


def translated_for_nobody(outer_type: str) -> bytes:
    """Return the instructions that root sees of a program that was loaded without privileges."""
    return raw.translated(loaded_by_nobody(outer_type)[0])


@pytest.mark.contract("prog.spectre_mask")
def test_what_is_masked_for_others(scene: Scene, observe: Observe) -> None:
    with jit(scene.bpf, b"1"), open_to_all(scene.bpf):
        code = scene.guest.call(translated_for_nobody, scene.type, closes=False)
        observe(masks(asm.disassemble(code, scene.bpf.byte_order)))
