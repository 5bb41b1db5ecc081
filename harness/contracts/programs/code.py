"""The instructions that programs of these contracts are made of, and what loading and running a program answers."""

from __future__ import annotations

from typing import Any

from harness.contracts.contract import Contract
from harness.contracts.scene import jit
from harness.guest.api.asm import R0, R1, R2, R3, R4, R10
from harness.testing import Bpf, BpfError, Map, asm, btf, errno_name, errno_of

Code = list[asm.Instruction | asm.Label]

RUNNER = "sched_cls"
"""The type of program that BPF_PROG_TEST_RUN runs on every kernel since 4.12, and that may return any number."""

NULL = 0x7777
"""What a program here returns when a lookup gave it nothing."""


def outer_of(bpf: Bpf, contract: Contract, template: Map, **attributes: Any) -> Map:
    """Return a new outer map of the contract's type."""
    return bpf.map(contract.outer, max_entries=4, inner=template, **attributes)


def find_inner(outer: Map, key: int = 1) -> Code:
    """Look up in the outer map; the inner map is in R0, and where there is none the program ends at "none"."""
    return [asm.st("W", R10, -4, key), *asm.lookup(outer, -4), asm.jump("==", R0, 0, "none")]


def find_element(key: int = 2) -> Code:
    """Look up in the inner map that is in R0; the element is in R0, unchecked."""
    return [asm.mov(R1, R0), asm.st("W", R10, -8, key), asm.mov(R2, R10), asm.add(R2, -8), asm.call("map_lookup_elem")]


def or_null() -> Code:
    """End the program; at "none" it returns NULL."""
    return [asm.exit(), asm.label("none"), *asm.return_(NULL)]


def read_element(offset: int = 0) -> Code:
    """Return 32 bits of element 2 of the inner map that is in R0, or NULL."""
    return [*find_element(), asm.jump("==", R0, 0, "none"), asm.ldx("W", R0, R0, offset), *or_null()]


def read_through(outer: Map, key: int = 1) -> Code:
    """Return the first 32 bits of element 2 of the inner map at `key`, or NULL."""
    return [*find_inner(outer, key), *read_element()]


def change_inner(outer: Map, helper: str, *, element: int = 2, value: int = 42, flags: int = 0) -> Code:
    """Call map_update_elem or map_delete_elem on the inner map at key 1 and return what the helper did."""
    arguments: Code = [asm.mov(R1, R0), asm.st("W", R10, -8, element), asm.mov(R2, R10), asm.add(R2, -8)]
    if helper == "map_update_elem":
        arguments += [asm.st("W", R10, -12, value), asm.mov(R3, R10), asm.add(R3, -12), asm.mov(R4, flags)]
    return [*find_inner(outer), *arguments, asm.call(helper), *or_null()]


def run(bpf: Bpf, code: Code, type_: str = RUNNER, **attributes: Any) -> object:
    """Load a program and run it once; return the signed number it returned, "null", or the name of an errno."""
    try:
        with bpf.prog(type_, code, **attributes) as program:
            return returned(program.run(*() if type_ != "syscall" else (None,)).retval)
    except BpfError as error:
        return f"{error.command} {error.name}"


def returned(retval: int) -> object:
    """Return what a program returned, as a signed number or "null"."""
    return "null" if retval == NULL else retval - ((retval & 0x80000000) << 1)


def named(answer: object) -> object:
    """Return what a helper returned, an errno by its name."""
    return errno_name(-answer) if isinstance(answer, int) and answer < 0 else answer


def load(bpf: Bpf, code: Code, type_: str = RUNNER, **attributes: Any) -> str:
    """Load a program; return "ok" or the errno's name."""
    return errno_of(bpf.prog, type_, code, log_level=0, **attributes)


def refusal(bpf: Bpf, contract: Contract, code: Code, **attributes: Any) -> str:
    """Return what the verifier says of a program that it refuses: the words of the contract that are in its log.

    Where none of them is, the whole log; "" when it accepts.
    """
    try:
        bpf.prog(RUNNER, code, **attributes)
    except BpfError as error:
        words = sorted({str(one.answer) for one in contract.ranges}, key=len, reverse=True)
        return next((text for text in words if text in error.log), error.log)
    return ""


def functions(bpf: Bpf, code: Code, *callbacks: str) -> dict[str, Any]:
    """Return the fields of PROG_LOAD that say where a program and its callbacks begin, and what types they have."""
    start, starts = 0, {"main": 0}
    for one in code:
        if isinstance(one, asm.Label):
            starts[one.name] = start
        else:
            start += one.slots
    names = ("main", *callbacks)
    types = (btf.integer("int", 4), btf.prototype(1), *(btf.function(name, 2) for name in names))
    numbers = (word for number, name in enumerate(names) for word in (starts[name], 3 + number))
    known = b"".join(word.to_bytes(4, bpf.byte_order) for word in numbers)
    return {
        "prog_btf_fd": bpf.btf(types),
        "func_info": known,
        "func_info_rec_size": 8,
        "func_info_cnt": len(names),
    }


def inlined(bpf: Bpf, code: Code) -> int:
    """Return how many instructions the verifier put into a program; only for the compiler it does."""
    with jit(bpf, b"1"), bpf.prog(RUNNER, code) as program:
        loaded = len(asm.disassemble(asm.assemble(*code)))
        return len(program.translated()) - loaded


def lookup_in_inner(bpf: Bpf, outer: Map) -> str:
    """Return whether the verifier replaces the call of a lookup in an inner map by its instructions."""
    both = inlined(bpf, [*find_inner(outer), *find_element(), asm.mov(R0, 0), *or_null()])
    outer_alone = inlined(bpf, [*find_inner(outer), asm.mov(R0, 0), *or_null()])
    return "inlined" if both > outer_alone else "called"
