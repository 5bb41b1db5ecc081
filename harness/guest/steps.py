"""What sequences of operations on an outer map are made of: the operations, kinds of inner maps, and a program.

Of each operation, what it does is in harness.guest.sequences (`step_NAME`), what the kernel will answer in
harness.contracts.sequences.model (`_NAME`); the rest is here.

Pure: the host and guest functions may both import it.
"""

from __future__ import annotations

import itertools

from harness.guest.api import asm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Operation:
    """An operation of a sequence.

    Attributes:
        name: Its name.
        numbers: What its numbers are, one after the other and then again from the first: "key", "value", "flags",
            "kind" of an inner map, "map" that has to be open, "id" of one that need not be.
        uses_outer: Whether the outer map has to be open.
        line: It as a line of Python: {0} is its first number, {outer} the outer map, {map} the first of its maps,
            {pairs} keys and maps, {numbers} all numbers; "" where the line gives something a name.
    """

    def __init__(self, name: str, numbers: str = "", line: str = "", *, uses_outer: bool = False) -> None:
        self.name = name
        self.numbers = numbers.split()
        self.line = line
        self.uses_outer = uses_outer or "{outer}" in line

    def maps(self, numbers: Sequence[int]) -> list[int]:
        """Return the maps among its numbers that have to be open."""
        return [number for what, number in zip(itertools.cycle(self.numbers), numbers) if what == "map"]


OPERATIONS = {
    one.name: one
    for one in (
        Operation("create", "kind"),
        Operation("close", "map"),
        Operation("reopen", "id"),
        Operation("close_outer", uses_outer=True),
        Operation("reopen_outer"),
        Operation("insert", "key map flags", "{outer}.update({0}, {map}, {2})"),
        Operation("delete", "key", "{outer}.delete({0})"),
        Operation("lookup", "key", "{outer}.lookup({0})"),
        Operation("keys", "", "{outer}.keys()"),
        Operation("batch_insert", "key map", "{outer}.update_batch([{pairs}])"),
        Operation("batch_delete", "key", "{outer}.delete_batch({numbers})"),
        Operation("batch_read", "", "{outer}.lookup_batch(16)"),
        Operation("batch_take", "", "{outer}.lookup_and_delete_batch(16)"),
        Operation("write", "map key value", "{map}.update({1}, {2})"),
        Operation("read", "map key", "{map}.lookup({1})"),
        Operation("erase", "map key", "{map}.delete({1})"),
        Operation("freeze", "map", "{map}.freeze()"),
        Operation("freeze_outer", "", "{outer}.freeze()"),
        Operation("load", uses_outer=True),
        Operation("unload", "", "prog.close()"),
        Operation("run", "key", "prog.run(bytes([0, 0, {0}]) + bytes(61))"),
    )
}

KINDS: tuple[tuple[str, int, int], ...] = (("hash", 4, 8), ("hash", 4, 16), ("hash", 8, 8), ("array", 4, 8))
"""Inner maps that a sequence may create: type, value size, max_entries. The template is of the first kind."""

COUNTED = (0, 1)
"""The kinds whose elements are read back after each step."""

NULL, MISSING = 0x7777, 0x7778
"""The program's result when it found no inner map, or no element in it."""


def reader(outer: int) -> list[asm.Instruction | asm.Label]:
    """Return a program that looks up a key from its packet, then element 0 of the found map.

    The key lies at byte 2. Without CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS the verifier takes packets to begin 2 bytes
    (NET_IP_ALIGN) behind a multiple of 4, and refuses what is not aligned (check_pkt_ptr_alignment()).
    """
    return [
        asm.ldx("W", asm.R2, asm.R1, 0),
        asm.ldx("W", asm.R3, asm.R1, 4),
        asm.mov(asm.R4, asm.R2),
        asm.add(asm.R4, 6),
        asm.jump(">", asm.R4, asm.R3, "null"),
        asm.ldx("W", asm.R5, asm.R2, 2),
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
