"""What sequences of operations on an outer map are made of: kinds of inner maps, and a program that looks up.

Pure: the host and guest functions may both import it. Imports its neighbour, the assembler.
"""

from __future__ import annotations

from harness.guest.api import asm

KINDS: tuple[tuple[str, int, int], ...] = (("hash", 4, 8), ("hash", 4, 16), ("hash", 8, 8), ("array", 4, 8))
"""Inner maps that a sequence may create: type, value size, max_entries. The template is of the first kind."""

COUNTED = (0, 1)
"""The kinds whose elements are read back after each step."""

NULL, MISSING = 0x7777, 0x7778
"""What the program returns when it found no inner map, or no element in it."""


def reader(outer: int) -> list[asm.Instruction | asm.Label]:
    """Return a program that looks up the key that its packet begins with, then element 0 of what it found."""
    return [
        asm.ldx("W", asm.R2, asm.R1, 0),
        asm.ldx("W", asm.R3, asm.R1, 4),
        asm.mov(asm.R4, asm.R2),
        asm.add(asm.R4, 4),
        asm.jump(">", asm.R4, asm.R3, "null"),
        asm.ldx("W", asm.R5, asm.R2, 0),
        asm.stx("W", asm.R10, -4, asm.R5),
        *asm.lookup(outer, -4),
        asm.jump("==", asm.R0, 0, "null"),
        asm.mov(asm.R1, asm.R0),
        asm.st("W", asm.R10, -8, 0),
        asm.mov(asm.R2, asm.R10),
        asm.add(asm.R2, -8),
        asm.call("map_lookup_elem"),
        asm.jump("==", asm.R0, 0, "missing"),
        asm.ldx("W", asm.R0, asm.R0),
        asm.exit(),
        asm.label("null"),
        *asm.return_(NULL),
        asm.label("missing"),
        *asm.return_(MISSING),
    ]
