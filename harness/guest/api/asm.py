"""A small BPF assembler: programs as lists of readable Python calls, without a compiler.

::

    program = asm.assemble(
        asm.st("W", asm.R10, -4, 7),           # key = 7, on the stack
        asm.mov(asm.R2, asm.R10), asm.add(asm.R2, -4),
        asm.ld_map(asm.R1, outer),             # a map, or a file descriptor
        asm.call("map_lookup_elem"),
        asm.jump("==", asm.R0, 0, "missing"),
        asm.mov(asm.R0, 1), asm.exit(),
        asm.label("missing"),
        asm.mov(asm.R0, 0), asm.exit(),
    )

Pure: the host and guest functions may both import it.
"""

from __future__ import annotations

import struct
import sys

from harness.guest.api.uapi import HELPERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    ByteOrder = Literal["little", "big"]


class Register(int):
    """A BPF register; a number in its place is an immediate value."""

    def __repr__(self) -> str:
        return f"R{int(self)}"


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = (Register(number) for number in range(11))

SIZES = {"B": 0x10, "H": 0x08, "W": 0x00, "DW": 0x18}

_LD, _LDX, _ST, _STX, _ALU32, _JMP, _JMP32, _ALU64 = range(8)
_MEM, _ATOMIC = 0x60, 0xC0
_TO_REGISTER = 0x08
_ALU = {
    "add": 0x00,
    "sub": 0x10,
    "mul": 0x20,
    "div": 0x30,
    "or": 0x40,
    "and": 0x50,
    "lsh": 0x60,
    "rsh": 0x70,
    "neg": 0x80,
    "mod": 0x90,
    "xor": 0xA0,
    "mov": 0xB0,
    "arsh": 0xC0,
}
_CONDITIONS = {
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "&": 0x40,
    "!=": 0x50,
    "s>": 0x60,
    "s>=": 0x70,
    "<": 0xA0,
    "<=": 0xB0,
    "s<": 0xC0,
    "s<=": 0xD0,
}
_CALL, _EXIT = 0x80, 0x90
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _PSEUDO_FUNC, _PSEUDO_CALL = 1, 2, 4, 1

# struct bpf_insn. Its two registers are bit fields of one byte: the first one is its lower half in little-endian order,
# its upper half in big-endian order.
_INSTRUCTIONS = {"little": struct.Struct("<BBhi"), "big": struct.Struct(">BBhi")}
INSTRUCTION_SIZE = _INSTRUCTIONS["little"].size


class Label:
    """A named place in a program, as a target of jumps and calls."""

    def __init__(self, name: str) -> None:
        self.name = name


class Instruction:
    """One instruction; `target` is the label for its offset or value, "" for none."""

    def __init__(
        self, code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0, *, wide: int = 0, target: str = ""
    ) -> None:
        self.code = code
        self.dst = dst
        self.src = src
        self.offset = offset
        self.value = value
        self.wide = wide
        self.target = target

    @property
    def slots(self) -> int:
        """The number of instruction slots: two for a 64-bit load, else one."""
        return 2 if self.code == _LD | SIZES["DW"] else 1

    def encode(self, distance: int, byte_order: ByteOrder) -> bytes:
        """Return its bytes; `distance` counts from the next slot to its target."""
        pack = _INSTRUCTIONS[byte_order].pack
        registers = self.dst | self.src << 4 if byte_order == "little" else self.dst << 4 | self.src
        offset, value = self.offset, self.value
        if self.target and (self.slots == 2 or self.code == _JMP | _CALL):
            value = distance
        elif self.target:
            offset = distance
        # Immediates are given as signed or unsigned 32 bits; both mean the same bits.
        signed = (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)
        data = pack(self.code, registers, offset, signed)
        if self.slots == 2:
            data += pack(0, 0, 0, self.wide)
        return data


def assemble(*items: Instruction | Label, byte_order: ByteOrder = sys.byteorder) -> bytes:
    """Return the program's bytes.

    Args:
        *items: Instructions and labels.
        byte_order: The guest's. The default is right in the guest; :meth:`harness.remote.bpf.Bpf.assemble` knows it on
            the host.

    Raises:
        ValueError: A label is missing or duplicate, or a jump is too far.
    """
    places: dict[str, int] = {}
    at = 0
    for item in items:
        if isinstance(item, Label):
            if item.name in places:
                raise ValueError(f"the label {item.name!r} is duplicate")
            places[item.name] = at
        else:
            at += item.slots
    out = []
    at = 0
    for item in items:
        if isinstance(item, Label):
            continue
        if item.target and item.target not in places:
            raise ValueError(f"a jump goes to the label {item.target!r}, which does not exist")
        distance = places[item.target] - at - 1 if item.target else 0
        try:
            out.append(item.encode(distance, byte_order))
        except struct.error as error:
            raise ValueError(
                f"an instruction (code {item.code:#x}, to {item.target!r}) does not fit: {error}"
            ) from error
        at += item.slots
    return b"".join(out)


def disassemble(data: bytes, byte_order: ByteOrder = sys.byteorder) -> list[Instruction]:
    """Return the instructions of a program's bytes, with jumps as offsets; `byte_order` as for :func:`assemble`."""
    found = []
    slots = iter(_INSTRUCTIONS[byte_order].iter_unpack(data))
    for code, registers, offset, value in slots:
        wide = next(slots)[3] if code == _LD | SIZES["DW"] else 0
        low, high = registers & 15, registers >> 4
        dst, src = (low, high) if byte_order == "little" else (high, low)
        found.append(Instruction(code, dst, src, offset, value, wide=wide))
    return found


def label(name: str) -> Label:
    """Mark this place of the program."""
    return Label(name)


def _alu(kind: int, name: str, dst: Register, value: Register | int) -> Instruction:
    if isinstance(value, Register):
        return Instruction(kind | _ALU[name] | _TO_REGISTER, dst, value)
    return Instruction(kind | _ALU[name], dst, value=value)


def mov(dst: Register, value: Register | int) -> Instruction:
    """Copy a register or a sign-extended 32-bit number into `dst`."""
    return _alu(_ALU64, "mov", dst, value)


def add(dst: Register, value: Register | int) -> Instruction:
    """Add to `dst`."""
    return _alu(_ALU64, "add", dst, value)


def alu(name: str, dst: Register, value: Register | int = 0) -> Instruction:
    """Do 64-bit arithmetic: add, sub, mul, div, or, and, lsh, rsh, neg, mod, xor, mov, arsh."""
    return _alu(_ALU64, name, dst, value)


def alu32(name: str, dst: Register, value: Register | int = 0) -> Instruction:
    """Do 32-bit arithmetic; the upper half of `dst` becomes zero."""
    return _alu(_ALU32, name, dst, value)


def ld_imm64(dst: Register, value: int) -> Instruction:
    """Load a 64-bit number."""
    high = value >> 32 & 0xFFFFFFFF
    return Instruction(_LD | SIZES["DW"], dst, value=value, wide=high - ((high & 0x80000000) << 1))


def ld_map(dst: Register, of: Any) -> Instruction:
    """Load the address of a map, given as an object with an `fd` or as a file descriptor."""
    return Instruction(_LD | SIZES["DW"], dst, _PSEUDO_MAP_FD, value=getattr(of, "fd", of))


def ld_map_value(dst: Register, of: Any, offset: int = 0) -> Instruction:
    """Load the address of a map's value, `offset` bytes into it (5.2 and later, arrays of one element)."""
    return Instruction(_LD | SIZES["DW"], dst, _PSEUDO_MAP_VALUE, value=getattr(of, "fd", of), wide=offset)


def ld_function(dst: Register, target: str) -> Instruction:
    """Load the address of a function of the program, for a helper that calls back (5.13 and later)."""
    return Instruction(_LD | SIZES["DW"], dst, _PSEUDO_FUNC, target=target)


def ldx(size: str, dst: Register, src: Register, offset: int = 0) -> Instruction:
    """Read memory at `src` + `offset`; `size` is B, H, W or DW."""
    return Instruction(_LDX | _MEM | SIZES[size], dst, src, offset)


def stx(size: str, dst: Register, offset: int, src: Register) -> Instruction:
    """Write the register `src` to memory at `dst` + `offset`."""
    return Instruction(_STX | _MEM | SIZES[size], dst, src, offset)


def st(size: str, dst: Register, offset: int, value: int) -> Instruction:
    """Write a number to memory at `dst` + `offset`."""
    return Instruction(_ST | _MEM | SIZES[size], dst, 0, offset, value)


def atomic_add(size: str, dst: Register, offset: int, src: Register) -> Instruction:
    """Add the register `src` to memory at `dst` + `offset`, atomically; `size` is W or DW."""
    return Instruction(_STX | _ATOMIC | SIZES[size], dst, src, offset)


def jump(condition: str, left: Register, right: Register | int, target: str) -> Instruction:
    """Jump to a label if the comparison of `left` with `right` holds: == != > >= < <= s> s>= s< s<= &."""
    if isinstance(right, Register):
        return Instruction(_JMP | _CONDITIONS[condition] | _TO_REGISTER, left, right, target=target)
    return Instruction(_JMP | _CONDITIONS[condition], left, value=right, target=target)


def goto(target: str) -> Instruction:
    """Jump to a label."""
    return Instruction(_JMP, target=target)


def call(helper: str | int) -> Instruction:
    """Call a helper, by its name without bpf_ or by its number."""
    return Instruction(_JMP | _CALL, value=HELPERS[helper] if isinstance(helper, str) else helper)


def call_local(target: str) -> Instruction:
    """Call a function of the program (4.16 and later)."""
    return Instruction(_JMP | _CALL, src=_PSEUDO_CALL, target=target)


def exit() -> Instruction:  # noqa: A001 - the instruction's name
    """Return R0."""
    return Instruction(_JMP | _EXIT)


def return_(value: int) -> tuple[Instruction, Instruction]:
    """Return a number: `*return_(0)`."""
    return mov(R0, value), exit()


def lookup(of: Any, offset: int) -> tuple[Instruction, ...]:
    """Look up the key on the stack at R10 + `offset` in a map; the result is in R0."""
    return ld_map(R1, of), mov(R2, R10), add(R2, offset), call("map_lookup_elem")
