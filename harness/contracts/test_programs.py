"""Programs that use outer maps: what the verifier accepts, what it says, and what a run finds.

A test that is called hazardous loads or inserts and never runs: kernels that accept such a program would let it touch
memory that is not the map's.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.contracts.scene import jit
from harness.guest.api.asm import R0, R1, R2, R3, R4, R5, R6, R7, R10
from harness.testing import Bpf, BpfError, Map, asm, btf, errno_name, errno_of, uapi

Code = list[asm.Instruction | asm.Label]

RUNNER = "sched_cls"
"""The type of program that BPF_PROG_TEST_RUN runs on every kernel since 4.12, and that may return any number."""

NULL = 0x7777
"""What a program here returns when a lookup gave it nothing."""

CURRENT_CPU = 0xFFFFFFFF
"""BPF_F_CURRENT_CPU."""


def outer_of(bpf: Bpf, contract: Contract, template: Map, **attributes: Any) -> Map:
    return bpf.map(contract.outer, max_entries=4, inner=template, **attributes)


def find_inner(outer: Map, key: int = 1) -> Code:
    """Look up in the outer map; the inner map is in R0, and where there is none the program ends at "none"."""
    return [asm.st("W", R10, -4, key), *asm.lookup(outer, -4), asm.jump("==", R0, 0, "none")]


def find_element(key: int = 2) -> Code:
    """Look up in the inner map that is in R0; the element is in R0, unchecked."""
    return [asm.mov(R1, R0), asm.st("W", R10, -8, key), asm.mov(R2, R10), asm.add(R2, -8), asm.call("map_lookup_elem")]


def or_null() -> Code:
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
    return "null" if retval == NULL else retval - ((retval & 0x80000000) << 1)


def named(answer: object) -> object:
    """Return what a helper returned, an errno by its name."""
    return errno_name(-answer) if isinstance(answer, int) and answer < 0 else answer


def load(bpf: Bpf, code: Code, type_: str = RUNNER, **attributes: Any) -> str:
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


class Stage:
    """What a contract is observed on; the maps are made when they are first used.

    Attributes:
        bpf: Makes them.
        contract: The contract; contracts of one outer map that change nothing may take the same stage by turns.
    """

    def __init__(self, bpf: Bpf, contract: Contract) -> None:
        self.bpf = bpf
        self.contract = contract

    @functools.cached_property
    def template(self) -> Map:
        """The outer map's template."""
        return self.bpf.map("hash", max_entries=8)

    @functools.cached_property
    def inner(self) -> Map:
        """The inner map; its element 2 is 41."""
        inner = self.bpf.map("hash", max_entries=8)
        inner[2] = 41
        return inner

    @functools.cached_property
    def outer(self) -> Map:
        """The outer map; the inner map is at key 1."""
        outer = outer_of(self.bpf, self.contract, self.template)
        outer[1] = self.inner
        return outer


Answer = Callable[[Stage], object]
"""Returns what is observed of the contract that a stage is for."""


def observe_on_stages(bpf: Bpf, observe_each: ObserveEach, answers: Mapping[str, Answer]) -> None:
    """Observe contracts by their names, each on a stage of its own."""
    observe_each(lambda contract: answers[contract.name](Stage(bpf, contract)))


def observe_on_one_stage(bpf: Bpf, observe_each: ObserveEach, answers: Mapping[str, Answer]) -> None:
    """Observe contracts of one outer map that leave its elements as they are."""
    stages: dict[str, Stage] = {}

    def answer(contract: Contract) -> object:
        stage = stages.setdefault(contract.outer, Stage(bpf, contract))
        stage.contract = contract
        return answers[contract.name](stage)

    observe_each(answer)


# Lookups.


def lookup(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    return run(bpf, read_through(outer))


def lookup_missing(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    return run(bpf, read_through(outer, {"empty": 3, "beyond": 9}[contract.case]))


def lookup_missing_element(stage: Stage) -> object:
    bpf, outer, template = stage.bpf, stage.outer, stage.template
    outer[1] = template
    return run(bpf, read_through(outer))


def swapped_inner(stage: Stage) -> object:
    bpf, outer, inner, template = stage.bpf, stage.outer, stage.inner, stage.template
    template[2] = 42
    seen = []
    with bpf.prog(RUNNER, read_through(outer)) as program:
        for held in (inner, template, inner):
            outer[1] = held
            seen.append(returned(program.run().retval))
    return seen


def removed_inner(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    with bpf.prog(RUNNER, read_through(outer)) as program:
        before = returned(program.run().retval)
        del outer[1]
        return [before, returned(program.run().retval)]


def closed(stage: Stage) -> object:
    bpf, contract, outer, inner, template = stage.bpf, stage.contract, stage.outer, stage.inner, stage.template
    with bpf.prog(RUNNER, read_through(outer)) as program:
        template.close()
        if contract.case in ("inner", "all"):
            inner.close()
        if contract.case in ("outer", "all"):
            outer.close()
        return returned(program.run().retval)


def template_closed_before_load(stage: Stage) -> object:
    bpf, outer, template = stage.bpf, stage.outer, stage.template
    template.close()
    return run(bpf, read_through(outer))


def one_inner_at_two_keys(stage: Stage) -> object:
    bpf, outer, inner = stage.bpf, stage.outer, stage.inner
    outer[2] = inner
    with bpf.prog(RUNNER, change_inner(outer, "map_update_elem")) as program:
        program.run()
    return run(bpf, read_through(outer, 2))


def two_outers(stage: Stage) -> object:
    bpf, outer, inner, template = stage.bpf, stage.outer, stage.inner, stage.template
    other = bpf.map({"hash_of_maps": "array_of_maps"}.get(outer.type, "hash_of_maps"), max_entries=4, inner=template)
    other[1] = inner
    other[2] = template
    code: Code = [
        *find_inner(outer),
        asm.mov(R6, R0),
        *find_inner(other),
        asm.mov(R7, R0),
        asm.mov(R0, 0),
        asm.jump("!=", R6, R7, "out"),
        asm.mov(R0, 1),
        asm.label("out"),
        *or_null(),
    ]
    return run(bpf, code)


def either_outer(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    wide = bpf.map("array", value_size=64, max_entries=8)
    other = outer_of(bpf, contract, wide)
    wide[2] = struct.pack("<I60x", 43)
    other[1] = wide
    code: Code = [
        asm.ldx("W", R6, R1, 0),  # __sk_buff.len: 64 here, which the verifier does not know
        asm.st("W", R10, -4, 1),
        asm.mov(R2, R10),
        asm.add(R2, -4),
        asm.jump(">", R6, 32, "other"),
        asm.ld_map(R1, outer),
        asm.goto("look"),
        asm.label("other"),
        asm.ld_map(R1, other),
        asm.label("look"),
        asm.call("map_lookup_elem"),
        asm.jump("==", R0, 0, "none"),
        *read_element(),
    ]
    return run(bpf, code)


def spilled_inner(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    code: Code = [
        *find_inner(outer),
        asm.stx("DW", R10, -16, R0),
        asm.call("get_prandom_u32"),
        asm.ldx("DW", R0, R10, -16),
        *read_element(),
    ]
    return run(bpf, code)


def subprogram(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    code: Code = [
        *find_inner(outer),
        asm.mov(R1, R0),
        asm.call_local("read"),
        *or_null(),
        asm.label("read"),
        asm.mov(R0, R1),
        *find_element(),
        asm.jump("==", R0, 0, "nothing"),
        asm.ldx("W", R0, R0),
        asm.exit(),
        asm.label("nothing"),
        *asm.return_(NULL),
    ]
    return run(bpf, code)


def tail_called(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    programs = bpf.map("prog_array")
    programs[0] = bpf.prog(RUNNER, read_through(outer))
    return run(bpf, [asm.ld_map(R2, programs), asm.mov(R3, 0), asm.call("tail_call"), *asm.return_(NULL)])


def compiled_or_interpreted(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    try:
        with (
            jit(bpf, b"1" if contract.name == "prog.jit" else b"0"),
            bpf.prog(RUNNER, read_through(outer)) as program,
        ):
            how = "compiled" if program.info()["jited_prog_len"] else "interpreted"
            return [how, returned(program.run().retval)]
    except BpfError as error:
        return error.name


FINDING: dict[str, Answer] = {
    "prog.lookup": lookup,
    "prog.lookup_missing": lookup_missing,
    "prog.lookup_missing_element": lookup_missing_element,
    "prog.swapped_inner": swapped_inner,
    "prog.removed_inner": removed_inner,
    "prog.closed": closed,
    "prog.template_closed_before_load": template_closed_before_load,
    "prog.one_inner_at_two_keys": one_inner_at_two_keys,
    "prog.two_outers": two_outers,
    "prog.either_outer": either_outer,
    "prog.spilled_inner": spilled_inner,
    "prog.subprogram": subprogram,
    "prog.tail_called": tail_called,
    "prog.interpreter": compiled_or_interpreted,
    "prog.jit": compiled_or_interpreted,
}


@pytest.mark.contract(*FINDING, together=True)
@pytest.mark.usefixtures("replaces")
def test_what_a_program_finds(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, FINDING)


# Writing.


def update_inner(stage: Stage) -> object:
    bpf, outer, inner = stage.bpf, stage.outer, stage.inner
    answer = run(bpf, change_inner(outer, "map_update_elem", element=3))
    return [answer, inner[3]]


def delete_inner(stage: Stage) -> object:
    bpf, outer, inner = stage.bpf, stage.outer, stage.inner
    answer = run(bpf, change_inner(outer, "map_delete_elem"))
    return [answer, errno_of(inner.lookup, 2)]


def helper_errno(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    code = {
        "noexist": change_inner(outer, "map_update_elem", flags=uapi.NOEXIST),
        "exist": change_inner(outer, "map_update_elem", element=3, flags=uapi.EXIST),
        "flags_3": change_inner(outer, "map_update_elem", flags=3),
        "delete_missing": change_inner(outer, "map_delete_elem", element=3),
    }[contract.case]
    answer = run(bpf, code)
    return named(answer)


def store_to_element(stage: Stage) -> object:
    bpf, outer, inner = stage.bpf, stage.outer, stage.inner
    code: Code = [
        *find_inner(outer),
        *find_element(),
        asm.jump("==", R0, 0, "none"),
        asm.mov(R1, 100),
        asm.atomic_add("W", R0, 0, R1),
        asm.mov(R0, 0),
        *or_null(),
    ]
    run(bpf, code)
    return inner[2]


def real_max_entries(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    small = bpf.map("hash", max_entries=1)
    small[2] = 41
    outer[1] = small
    answer = run(bpf, change_inner(outer, "map_update_elem", element=3))
    return named(answer)


def frozen(stage: Stage) -> object:
    bpf, contract, outer, inner = stage.bpf, stage.contract, stage.outer, stage.inner
    {"outer": outer, "inner": inner}[contract.case].freeze()
    answer = run(bpf, change_inner(outer, "map_update_elem"))
    return [answer, inner[2]]


WRITING: dict[str, Answer] = {
    "prog.update_inner": update_inner,
    "prog.delete_inner": delete_inner,
    "prog.helper_errno": helper_errno,
    "prog.store_to_element": store_to_element,
    "prog.real_max_entries": real_max_entries,
    "prog.frozen": frozen,
}


@pytest.mark.contract(*WRITING, together=True)
def test_what_a_program_writes(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, WRITING)


# What an inner map is used for.


@dataclass(frozen=True)
class Use:
    """How a program uses an inner map of some type.

    Attributes:
        code: What it does with the inner map in R0 and the context in R6.
        fill: Puts something into the inner map.
        program: Its type.
        loads: Whether it is loaded and not run: what it needs to run is not a test's to make.
        attributes: Of the inner map.
    """

    code: Code
    fill: Callable[[Map], None] = lambda _: None
    program: str = RUNNER
    loads: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)


def key_on_stack(register: asm.Register, *words: int) -> Code:
    """Write 32-bit words to the stack and let a register point to them."""
    stores: Code = [asm.st("W", R10, -32 + 4 * at, word) for at, word in enumerate(words)]
    return [*stores, asm.mov(register, R10), asm.add(register, -32)]


def put_41(inner: Map) -> None:
    inner[2] = 41


def push_41_42(inner: Map) -> None:
    inner.update(b"", 41)
    inner.update(b"", 42)


_KEYLESS = {"key_size": 0, "value_size": 4, "max_entries": 8}
_READ: Code = [*find_element(), asm.jump("==", R0, 0, "none"), asm.ldx("W", R0, R0)]
_POP: Code = [
    *(asm.mov(R1, R0), *key_on_stack(R2, 0), asm.call("map_pop_elem")),
    *(asm.jump("!=", R0, 0, "none"), asm.ldx("W", R0, R10, -32)),
]
# With an empty slot a redirection returns the low bits of its flags: 2 is XDP_PASS.
_REDIRECT: Code = [asm.mov(R1, R0), asm.mov(R2, 0), asm.mov(R3, 2), asm.call("redirect_map")]
_SOCKET: Code = [asm.mov(R1, R6), asm.mov(R2, R0), *key_on_stack(R3, 0), asm.mov(R4, 0)]

USES = {
    **dict.fromkeys(
        ("hash", "lru_hash", "percpu_hash", "lru_percpu_hash", "array", "percpu_array"), Use(_READ, put_41)
    ),
    "lpm_trie": Use(
        [
            *(asm.mov(R1, R0), *key_on_stack(R2, 32, 0x0100000A), asm.call("map_lookup_elem")),
            *(asm.jump("==", R0, 0, "none"), asm.ldx("W", R0, R0)),
        ],
        lambda inner: inner.update(struct.pack("<I4B", 8, 10, 0, 0, 0), 41),
        attributes={"key_size": 8, "map_flags": uapi.NO_PREALLOC},
    ),
    "queue": Use(_POP, push_41_42, attributes=_KEYLESS),
    "stack": Use(_POP, push_41_42, attributes=_KEYLESS),
    "bloom_filter": Use(
        [asm.mov(R1, R0), *key_on_stack(R2, 41), asm.call("map_peek_elem")], push_41_42, attributes=_KEYLESS
    ),
    "ringbuf": Use(
        [asm.mov(R1, R0), *key_on_stack(R2, 1, 2), asm.mov(R3, 8), asm.mov(R4, 0), asm.call("ringbuf_output")],
        attributes={"key_size": 0, "value_size": 0, "max_entries": 4096},
    ),
    "perf_event_array": Use(
        [
            *(asm.mov(R1, R6), asm.mov(R2, R0), asm.alu32("mov", R3, -1), *key_on_stack(R4, 1, 2)),
            *(asm.mov(R5, 8), asm.call("perf_event_output")),
        ]
    ),
    "cgroup_array": Use([asm.mov(R1, R6), asm.mov(R2, R0), asm.mov(R3, 0), asm.call(33)]),  # skb_under_cgroup
    "stack_trace": Use(
        [asm.mov(R1, R6), asm.mov(R2, R0), asm.mov(R3, 0), asm.call("get_stackid")],
        program="tracepoint",
        loads=True,
        attributes={"value_size": 8 * 16},
    ),
    **dict.fromkeys(("devmap", "devmap_hash", "cpumap", "xskmap"), Use(_REDIRECT, program="xdp")),
    "sockmap": Use(
        [*_SOCKET[:2], asm.mov(R3, 0), asm.mov(R4, 0), asm.call(52)], program="sk_skb", loads=True
    ),  # sk_redirect_map
    "sockhash": Use([*_SOCKET, asm.call(72)], program="sk_skb", loads=True),  # sk_redirect_hash
    "reuseport_sockarray": Use([*_SOCKET, asm.call(82)], program="sk_reuseport", loads=True),  # sk_select_reuseport
}


def inner_type(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    use = USES[contract.case]
    attributes = {"max_entries": 8, **use.attributes}
    inner, template = (bpf.map(contract.case, **attributes) for _ in range(2))
    outer = outer_of(bpf, contract, template)
    use.fill(inner)
    outer[1] = inner
    code: Code = [asm.mov(R6, R1), *find_inner(outer), *use.code, *or_null()]
    if use.program == "sk_reuseport":  # it may return nothing but 0 and 1
        code = [asm.mov(R6, R1), *find_inner(outer), *use.code, *asm.return_(1), asm.label("none"), *asm.return_(1)]
    return load(bpf, code, use.program) if use.loads else run(bpf, code, use.program)


INNER_TYPES: dict[str, Answer] = {
    "prog.inner_type": inner_type,
}


@pytest.mark.contract(*INNER_TYPES, together=True)
def test_inner_maps_of_every_type(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, INNER_TYPES)


# Values that the kernel knows the type of.


def value_types() -> bytes:
    """Types of values: 3 holds a lock, 6 a timer."""
    return btf.encode(
        btf.integer("u32", 4),
        btf.struct_of("bpf_spin_lock", 4, ("val", 1, 0)),
        btf.struct_of("locked", 8, ("lock", 2, 0), ("number", 1, 4)),
        btf.integer("u64", 8),
        btf.struct_of("bpf_timer", 16, ("low", 4, 0), ("high", 4, 8)),
        btf.struct_of("timed", 24, ("timer", 5, 0), ("number", 4, 16)),
    )


LOCKED: dict[str, Any] = {"value_size": 8, "btf_value_type_id": 3}
TIMED: dict[str, Any] = {"value_size": 24, "btf_value_type_id": 6}


def spin_lock(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    types = bpf.btf(value_types())
    inner = bpf.map("array", max_entries=8, btf_fd=types, btf_key_type_id=1, **LOCKED)
    inner[2] = struct.pack("<II", 0, 41)
    try:
        outer = outer_of(bpf, contract, inner)
    except BpfError as error:
        return f"{error.command} {error.name}"
    outer[1] = inner
    code: Code = [
        *(*find_inner(outer), *find_element(), asm.jump("==", R0, 0, "none"), asm.mov(R6, R0)),
        *(asm.mov(R1, R6), asm.call("spin_lock"), asm.ldx("W", R7, R6, 4)),
        *(asm.mov(R1, R6), asm.call("spin_unlock"), asm.mov(R0, R7)),
        *or_null(),
    ]
    return run(bpf, code)


def init_timer(outer: Map, *, of: int = 1) -> Code:
    """Initialise the timer in element 2 of the inner map at key 1, for the inner map at key `of`."""
    return [
        *find_inner(outer, of),
        asm.mov(R7, R0),
        *find_inner(outer),
        *([asm.mov(R7, R0)] if of == 1 else []),
        *(*find_element(), asm.jump("==", R0, 0, "none"), asm.mov(R1, R0), asm.mov(R2, R7)),
        *(asm.mov(R3, 1), asm.call("timer_init")),  # CLOCK_MONOTONIC
        *or_null(),
    ]


def walk(callback: str) -> Code:
    """Walk over the inner map that is in R1 with a callback, whose context is what lies at -16 of this frame."""
    return [
        *(asm.ld_function(R2, callback), asm.mov(R3, R10), asm.add(R3, -16), asm.mov(R4, 0)),
        asm.call("for_each_map_elem"),
        *asm.return_(0),
    ]


def init_timers(outer: Map, *, of_another: bool) -> Code:
    """Initialise timers in a walk over the inner map at key 1, with the map that the walk's callback is given.

    Args:
        outer: The outer map.
        of_another: Whether the timers are those of the inner map at key 2, which the callback walks over in its turn.
    """
    init: Code = [asm.mov(R1, R3), asm.mov(R3, 1), asm.call("timer_init"), *asm.return_(0)]
    each: Code = [asm.mov(R2, R1), *init]
    if of_another:
        each = [asm.stx("DW", R10, -16, R1), asm.ldx("DW", R1, R4, 0), *walk("inside")]
        each += [asm.label("inside"), asm.ldx("DW", R2, R4, 0), *init]
    return [
        *(*find_inner(outer), asm.mov(R6, R0), *find_inner(outer, 2), asm.stx("DW", R10, -16, R0)),
        *(asm.mov(R1, R6), *walk("each")),
        *(asm.label("none"), *asm.return_(0)),
        *(asm.label("each"), *each),
    ]


def timer(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    types = bpf.btf(value_types())
    template, inner = (bpf.map("array", max_entries=8, btf_fd=types, btf_key_type_id=1, **TIMED) for _ in range(2))
    outer = outer_of(bpf, contract, template)
    outer[1] = inner
    outer[2] = template
    if contract.case == "other_inner":
        return load(bpf, init_timer(outer, of=2))
    if contract.name == "prog.timer_in_walk":
        code = init_timers(outer, of_another=contract.case == "of_another_inner")
        return load(bpf, code, **functions(bpf, code, "each", *(["inside"] if contract.case else [])))
    with bpf.prog(RUNNER, init_timer(outer)) as program:
        if contract.case == "closed":
            inner.close()
        answer = returned(program.run().retval)
    return named(answer)


TYPED_VALUES: dict[str, Answer] = {
    "prog.spin_lock": spin_lock,
    "prog.timer": timer,
    "prog.timer_in_walk": timer,
}


@pytest.mark.contract(*TYPED_VALUES, together=True)
def test_values_of_known_types(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, TYPED_VALUES)


# What the verifier refuses.


def without_null_check(outer: Map) -> Code:
    return [asm.st("W", R10, -4, 1), *asm.lookup(outer, -4), *find_element(), *asm.return_(0)]


def unchecked_element(outer: Map) -> Code:
    return [*find_inner(outer), *find_element(), asm.ldx("W", R0, R0), *or_null()]


def beyond_value(outer: Map, offset: int = 4) -> Code:
    """Read four bytes of an element at an offset."""
    return [*find_inner(outer), *read_element(offset)]


def short_key(outer: Map) -> Code:
    """Give two bytes of a key to a map with keys of four."""
    return [
        *find_inner(outer),
        asm.mov(R1, R0),
        asm.st("H", R10, -8, 2),
        asm.mov(R2, R10),
        asm.add(R2, -8),
        asm.call("map_lookup_elem"),
        *asm.return_(0),
        asm.label("none"),
        *asm.return_(NULL),
    ]


def moved(outer: Map, how: str) -> Code:
    steps: dict[str, Code] = {
        "number": [asm.add(R0, 8)],
        "register": [asm.mov(R6, 8), asm.alu("add", R0, R6)],
        "and": [asm.alu("and", R0, -8)],
    }
    return [*find_inner(outer), *steps[how], *find_element(), *asm.return_(0), asm.label("none"), *asm.return_(NULL)]


def stored_in_map(outer: Map, element: Map) -> Code:
    """Put the inner map's address into an array, read it back and use it."""
    return [
        *find_inner(outer),
        asm.mov(R6, R0),
        asm.st("W", R10, -4, 0),
        *asm.lookup(element, -4),
        asm.jump("==", R0, 0, "none"),
        asm.stx("DW", R0, 0, R6),
        asm.ldx("DW", R0, R0, 0),
        *find_element(),
        *asm.return_(0),
        asm.label("none"),
        *asm.return_(NULL),
    ]


def refused_program(bpf: Bpf, contract: Contract, outer: Map) -> Code:
    """Return the program of a case."""
    behind: Code = [*or_null()]
    match contract.case.removesuffix("-btf"):
        case "no_null_check":
            return without_null_check(outer)
        case "unchecked_element":
            return unchecked_element(outer)
        case "past_value":
            return beyond_value(outer, 4)
        case "before_value":
            return beyond_value(outer, -4)
        case "short_key":
            return short_key(outer)
        case "add_number":
            return moved(outer, "number")
        case "add_register":
            return moved(outer, "register")
        case "and":
            return moved(outer, "and")
        case "store":
            return [*find_inner(outer), asm.st("DW", R0, 0, 0), *behind]
        case "store_far":
            return [*find_inner(outer), asm.st("W", R0, 24, 0), *behind]
        case "atomic":
            return [*find_inner(outer), asm.mov(R1, 1), asm.atomic_add("DW", R0, 0, R1), *behind]
        case "load":
            return [*find_inner(outer), asm.ldx("DW", R0, R0, 0), asm.mov(R0, 0), *behind]
        case "through_map":
            return stored_in_map(outer, bpf.map("array", value_size=8))
        case "direct_value":
            return [asm.ld_map_value(R1, outer), asm.ldx("W", R0, R1), asm.exit()]
        case "as_key":
            return [*find_inner(outer), asm.mov(R2, R0), asm.ld_map(R1, outer), asm.call("map_lookup_elem"), *behind]
        case case:
            raise ValueError(case)


def refused(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    return load(bpf, refused_program(bpf, contract, outer))


def refused_with(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    return refusal(bpf, contract, refused_program(bpf, contract, outer))


def on_outer(outer: Map, helper: str) -> Code:
    """Call a helper with the outer map itself; R6 is the context."""
    key = [asm.st("DW", R10, -8, 1), asm.mov(R2, R10), asm.add(R2, -8)]
    first, context_first = [asm.ld_map(R1, outer)], [asm.mov(R1, R6), asm.ld_map(R2, outer)]
    arguments: dict[str, Code] = {
        "map_update_elem": [*first, *key, asm.mov(R3, R2), asm.mov(R4, 0)],
        "map_delete_elem": [*first, *key],
        "map_push_elem": [*first, *key, asm.mov(R3, 0)],
        "map_pop_elem": [*first, *key],
        "map_peek_elem": [*first, *key],
        "map_lookup_percpu_elem": [*first, *key, asm.mov(R3, 0)],
        "tail_call": [*context_first, asm.mov(R3, 0)],
        "perf_event_output": [
            *context_first,
            *(asm.ld_imm64(R3, CURRENT_CPU), asm.st("DW", R10, -8, 1), asm.mov(R4, R10), asm.add(R4, -8)),
            asm.mov(R5, 8),
        ],
        "ringbuf_output": [*first, *key, asm.mov(R3, 8), asm.mov(R4, 0)],
        "skb_under_cgroup": [*context_first, asm.mov(R3, 0)],
        "for_each_map_elem": [*first, asm.ld_function(R2, "each"), asm.mov(R3, 0), asm.mov(R4, 0)],
    }
    number = {"skb_under_cgroup": 33}.get(helper, helper)
    tail: Code = [asm.label("each"), *asm.return_(0)] if helper == "for_each_map_elem" else []
    return [asm.mov(R6, R1), *arguments[helper], asm.call(number), *asm.return_(0), *tail]


def described(bpf: Bpf, contract: Contract, code: Code) -> dict[str, Any]:
    return functions(bpf, code, "each") if contract.case == "for_each_map_elem" else {}


def outer_in(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    code = on_outer(outer, contract.case)
    return load(bpf, code, **described(bpf, contract, code))


def outer_in_with(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    code = on_outer(outer, contract.case)
    return refusal(bpf, contract, code, **described(bpf, contract, code))


REFUSED: dict[str, Answer] = {
    "prog.refused": refused,
    "prog.refused_with": refused_with,
    "prog.outer_in": outer_in,
    "prog.outer_in_with": outer_in_with,
}


@pytest.mark.contract(*REFUSED, together=True)
def test_what_the_verifier_refuses(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_one_stage(bpf, observe_each, REFUSED)


# Flags of maps.


def flag_on_outer(stage: Stage) -> object:
    bpf, contract, template = stage.bpf, stage.contract, stage.template
    outer = outer_of(bpf, contract, template, map_flags=flags_of(contract))
    outer[1] = template
    return [run(bpf, change_inner(outer, "map_update_elem")), template[2]]


def flags_of(contract: Contract) -> int:
    return {
        "rdonly_prog": uapi.RDONLY_PROG,
        "wronly_prog": uapi.WRONLY_PROG,
        "no_prealloc": uapi.NO_PREALLOC,
    }[contract.case.partition("-")[0]]


def flag_on_inner(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    inner = bpf.map("hash", max_entries=8, map_flags=flags_of(contract))
    outer = outer_of(bpf, contract, inner)
    outer[1] = inner
    found: Code = [*find_inner(outer), *find_element(), asm.jump("==", R0, 0, "none")]
    code = {
        "update": change_inner(outer, "map_update_elem"),
        "delete": change_inner(outer, "map_delete_elem"),
        "store": [*found, asm.st("W", R0, 0, 7), *or_null()],
        "read": read_through(outer),
    }[contract.case.partition("-")[2]]
    return refusal(bpf, contract, code)


def perf_event_no_prealloc(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    lazy = {contract.case: uapi.NO_PREALLOC}
    outer = outer_of(bpf, contract, bpf.map("hash", map_flags=lazy.get("inner", 0)), map_flags=lazy.get("outer", 0))
    return load(bpf, read_through(outer), "perf_event")


FLAGGED: dict[str, Answer] = {
    "prog.flag_on_outer": flag_on_outer,
    "prog.flag_on_inner": flag_on_inner,
    "prog.perf_event_no_prealloc": perf_event_no_prealloc,
}


@pytest.mark.contract(*FLAGGED, together=True)
def test_flags_of_maps(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, FLAGGED)


# Walking.


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
    known = b"".join(struct.pack("<II", starts[name], 3 + number) for number, name in enumerate(names))
    return {
        "prog_btf_fd": bpf.btf(btf.encode(*types)),
        "func_info": known,
        "func_info_rec_size": 8,
        "func_info_cnt": len(names),
    }


def sum_of(outer: Map) -> Code:
    """Walk over the inner map at key 1 and return the sum of its elements."""
    return [
        *find_inner(outer),
        asm.mov(R1, R0),
        asm.st("DW", R10, -16, 0),
        asm.ld_function(R2, "each"),
        asm.mov(R3, R10),
        asm.add(R3, -16),
        asm.mov(R4, 0),
        asm.call("for_each_map_elem"),
        asm.ldx("W", R0, R10, -16),
        *or_null(),
        asm.label("each"),
        asm.ldx("W", R5, R3, 0),  # the value
        asm.ldx("W", R0, R4, 0),  # the context: the sum
        asm.alu("add", R0, R5),
        asm.stx("W", R4, 0, R0),
        *asm.return_(0),
    ]


def for_each_inner(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    inner = bpf.map(contract.case, max_entries=3)
    outer = outer_of(bpf, contract, inner)
    outer[1] = inner
    for key in range(3):
        inner[key] = key + 1
    code = sum_of(outer)
    return run(bpf, code, **functions(bpf, code, "each"))


def for_each_interpreted(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    code = sum_of(outer)
    with jit(bpf, b"0"):
        return load(bpf, code, **functions(bpf, code, "each"))


# Inlining.


def inlined(bpf: Bpf, code: Code) -> int:
    """Return how many instructions the verifier put into a program; only for the compiler it does."""
    with jit(bpf, b"1"), bpf.prog(RUNNER, code) as program:
        loaded = len(asm.disassemble(asm.assemble(*code)))
        return len(program.translated()) - loaded


def lookup_in_inner(bpf: Bpf, outer: Map) -> str:
    """Tell whether the verifier replaces the call of a lookup in an inner map by its instructions."""
    both = inlined(bpf, [*find_inner(outer), *find_element(), asm.mov(R0, 0), *or_null()])
    outer_alone = inlined(bpf, [*find_inner(outer), asm.mov(R0, 0), *or_null()])
    return "inlined" if both > outer_alone else "called"


def inlined_outer(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    return "inlined" if inlined(bpf, [*find_inner(outer), asm.mov(R0, 0), *or_null()]) else "called"


def inlined_inner(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    type_, _, flag = contract.case.partition("-")
    inner = bpf.map(type_, max_entries=8, map_flags=uapi.INNER_MAP if flag else 0)
    outer = outer_of(bpf, contract, inner)
    return lookup_in_inner(bpf, outer)


WALKED_AND_INLINED: dict[str, Answer] = {
    "prog.for_each_inner": for_each_inner,
    "prog.for_each_interpreted": for_each_interpreted,
    "prog.inlined_outer": inlined_outer,
    "prog.inlined_inner": inlined_inner,
}


@pytest.mark.contract(*WALKED_AND_INLINED, together=True)
def test_walks_and_inlined_lookups(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, WALKED_AND_INLINED)


# Types of programs.


def sleepable(stage: Stage) -> object:
    bpf, outer = stage.bpf, stage.outer
    return run(bpf, read_through(outer), "syscall", prog_flags=uapi.SLEEPABLE)


_ATTACHED: dict[str, dict[str, Any]] = {
    "cgroup_sock_addr": {"expected_attach_type": "cgroup_inet4_connect"},
    "cgroup_sockopt": {"expected_attach_type": "cgroup_getsockopt"},
    "sk_lookup": {"expected_attach_type": "sk_lookup"},
    "syscall": {"prog_flags": uapi.SLEEPABLE},
    "netfilter": {"expected_attach_type": "netfilter"},
    "cgroup_skb": {"expected_attach_type": "cgroup_inet_egress"},
}


def program_type(stage: Stage) -> object:
    bpf, contract, outer = stage.bpf, stage.contract, stage.outer
    # Every type may return 0 or 1; some may return no other number.
    code: Code = [
        *find_inner(outer),
        *find_element(),
        asm.jump("==", R0, 0, "none"),
        *asm.return_(1),
        asm.label("none"),
        *asm.return_(1),
    ]
    return load(bpf, code, contract.case, **_ATTACHED.get(contract.case, {}))


PROGRAM_TYPES: dict[str, Answer] = {
    "prog.sleepable": sleepable,
    "prog.type": program_type,
}


@pytest.mark.contract(*PROGRAM_TYPES, together=True)
def test_types_of_programs(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_one_stage(bpf, observe_each, PROGRAM_TYPES)


# Hazardous: these load, and never run.


def constant_key(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    flags = uapi.INNER_MAP if contract.case == "array_with_inner_map_flag" else 0
    type_ = contract.case.partition("_with")[0]
    outer = outer_of(bpf, contract, bpf.map(type_, max_entries=8, map_flags=flags))
    return load(bpf, unchecked_element(outer))


def percpu_array_bounds(stage: Stage) -> object:
    bpf, contract = stage.bpf, stage.contract
    outer = outer_of(bpf, contract, bpf.map("percpu_array", max_entries=8))
    how = lookup_in_inner(bpf, outer)
    return [errno_of(outer.update, 1, bpf.map("percpu_array", max_entries=1)), how]


HAZARDOUS: dict[str, Answer] = {"prog.constant_key": constant_key, "prog.percpu_array_bounds": percpu_array_bounds}


@pytest.mark.contract(*HAZARDOUS, together=True)
def test_what_is_hazardous_and_never_run(bpf: Bpf, observe_each: ObserveEach) -> None:
    observe_on_stages(bpf, observe_each, HAZARDOUS)
