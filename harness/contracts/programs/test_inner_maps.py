"""Programs that use inner maps of every type: their elements, locks and timers, and walks over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.programs.code import (
    RUNNER,
    Code,
    find_element,
    find_inner,
    functions,
    load,
    named,
    or_null,
    outer_of,
    returned,
    run,
)
from harness.contracts.scene import jit
from harness.features.map_types import RING_SIZE
from harness.guest.api.asm import R0, R1, R2, R3, R4, R5, R6, R7, R10
from harness.testing import Bpf, BpfError, Map, asm, btf, uapi

pytestmark = pytest.mark.vm(group="programs")


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
            *(asm.mov(R1, R0), *key_on_stack(R2, 32, 0x0A00000A), asm.call("map_lookup_elem")),
            *(asm.jump("==", R0, 0, "none"), asm.ldx("W", R0, R0)),
        ],
        # 10.0.0.0/8. The program looks for 10.0.0.10, which reads the same from both sides.
        lambda inner: inner.update((8).to_bytes(4, inner.commands.byte_order) + bytes([10, 0, 0, 0]), 41),
        attributes={"key_size": 8, "map_flags": uapi.NO_PREALLOC},
    ),
    "queue": Use(_POP, push_41_42, attributes=_KEYLESS),
    "stack": Use(_POP, push_41_42, attributes=_KEYLESS),
    "bloom_filter": Use(
        [asm.mov(R1, R0), *key_on_stack(R2, 41), asm.call("map_peek_elem")], push_41_42, attributes=_KEYLESS
    ),
    "ringbuf": Use(
        [asm.mov(R1, R0), *key_on_stack(R2, 1, 2), asm.mov(R3, 8), asm.mov(R4, 0), asm.call("ringbuf_output")],
        attributes={"key_size": 0, "value_size": 0, "max_entries": RING_SIZE},
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
    "devmap": Use(_REDIRECT, program="xdp"),
    "devmap_hash": Use(_REDIRECT, program="xdp"),
    "cpumap": Use(_REDIRECT, program="xdp", attributes={"max_entries": 1}),  # no more than CONFIG_NR_CPUS
    "xskmap": Use(_REDIRECT, program="xdp"),
    "sockmap": Use(
        [*_SOCKET[:2], asm.mov(R3, 0), asm.mov(R4, 0), asm.call(52)], program="sk_skb", loads=True
    ),  # sk_redirect_map
    "sockhash": Use([*_SOCKET, asm.call(72)], program="sk_skb", loads=True),  # sk_redirect_hash
    "reuseport_sockarray": Use([*_SOCKET, asm.call(82)], program="sk_reuseport", loads=True),  # sk_select_reuseport
}


@pytest.mark.contract("prog.inner_type")
def test_inner_maps_of_every_type(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    use = USES[contract.case]
    attributes = {"max_entries": 8, **use.attributes}
    inner, template = (bpf.map(contract.case, **attributes) for _ in range(2))
    outer = outer_of(bpf, contract, template)
    use.fill(inner)
    outer[1] = inner
    code: Code = [asm.mov(R6, R1), *find_inner(outer), *use.code, *or_null()]
    if use.program == "sk_reuseport":  # it may return nothing but 0 and 1
        code = [asm.mov(R6, R1), *find_inner(outer), *use.code, *asm.return_(1), asm.label("none"), *asm.return_(1)]
    observe(load(bpf, code, use.program) if use.loads else run(bpf, code, use.program))


# Values that the kernel knows the type of.


def value_types() -> tuple[btf.Type, ...]:
    """Types of values: 3 holds a lock, 6 a timer."""
    return (
        btf.integer("u32", 4),
        btf.struct_of("bpf_spin_lock", 4, ("val", 1, 0)),
        btf.struct_of("locked", 8, ("lock", 2, 0), ("number", 1, 4)),
        btf.integer("u64", 8),
        btf.struct_of("bpf_timer", 16, ("low", 4, 0), ("high", 4, 8)),
        btf.struct_of("timed", 24, ("timer", 5, 0), ("number", 4, 16)),
    )


LOCKED: dict[str, Any] = {"value_size": 8, "btf_value_type_id": 3}
TIMED: dict[str, Any] = {"value_size": 24, "btf_value_type_id": 6}


@pytest.mark.contract("prog.spin_lock")
def test_a_program_locks_an_element(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    types = bpf.btf(value_types())
    inner = bpf.map("array", max_entries=8, btf_fd=types, btf_key_type_id=1, **LOCKED)
    inner[2] = bytes(4) + (41).to_bytes(4, bpf.byte_order)
    try:
        outer = outer_of(bpf, contract, inner)
    except BpfError as error:
        observe(f"{error.command} {error.name}")
        return
    outer[1] = inner
    code: Code = [
        *(*find_inner(outer), *find_element(), asm.jump("==", R0, 0, "none"), asm.mov(R6, R0)),
        *(asm.mov(R1, R6), asm.call("spin_lock"), asm.ldx("W", R7, R6, 4)),
        *(asm.mov(R1, R6), asm.call("spin_unlock"), asm.mov(R0, R7)),
        *or_null(),
    ]
    observe(run(bpf, code))


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


@pytest.mark.contract("prog.timer", "prog.timer_in_walk")
def test_a_timer_is_of_the_inner_map_that_it_lies_in(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    types = bpf.btf(value_types())
    template, inner = (bpf.map("array", max_entries=8, btf_fd=types, btf_key_type_id=1, **TIMED) for _ in range(2))
    outer = outer_of(bpf, contract, template)
    outer[1] = inner
    outer[2] = template
    if contract.case == "other_inner":
        observe(load(bpf, init_timer(outer, of=2)))
        return
    if contract.name == "prog.timer_in_walk":
        code = init_timers(outer, of_another=contract.case == "of_another_inner")
        with jit(bpf, b"1"):
            observe(load(bpf, code, **functions(bpf, code, "each", *(["inside"] if contract.case else []))))
        return
    with bpf.prog(RUNNER, init_timer(outer)) as program:
        if contract.case == "closed":
            inner.close()
        answer = returned(program.run().retval)
    observe(named(answer))


# Walking.


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


@pytest.mark.contract("prog.for_each_inner")
def test_a_program_walks_over_an_inner_map(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    inner = bpf.map(contract.case, max_entries=3)
    outer = outer_of(bpf, contract, inner)
    outer[1] = inner
    for key in range(3):
        inner[key] = key + 1
    code = sum_of(outer)
    with jit(bpf, b"1"):  # a callback has an address only when compiled
        observe(run(bpf, code, **functions(bpf, code, "each")))


@pytest.mark.contract("prog.for_each_interpreted")
def test_an_interpreted_program_walks_over_an_inner_map(bpf: Bpf, outer: Map, observe: Observe) -> None:
    code = sum_of(outer)
    with jit(bpf, b"0"):
        observe(load(bpf, code, **functions(bpf, code, "each")))
