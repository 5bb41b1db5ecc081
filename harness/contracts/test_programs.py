"""Programs that use outer maps: what the verifier accepts, what it says, and what a run finds.

A test that is called hazardous loads or inserts and never runs: kernels that accept such a program would let it touch
memory that is not the map's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.scene import Scene, jit
from harness.features.parts import ATTACHED
from harness.guest.api.asm import R0, R1, R2, R3, R4, R5, R6, R7, R10
from harness.testing import Bpf, BpfError, Map, asm, btf, errno_name, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")

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


@pytest.fixture
def bpf(scene: Scene) -> Bpf:
    """The bpf system call, in the guest process that these tests share."""
    return scene.bpf


@pytest.fixture
def template(bpf: Bpf) -> Map:
    """The outer map's template."""
    return bpf.map("hash", max_entries=8)


@pytest.fixture
def inner(bpf: Bpf) -> Map:
    """The inner map; its element 2 is 41."""
    inner = bpf.map("hash", max_entries=8)
    inner[2] = 41
    return inner


def outer_with(bpf: Bpf, type_: str, template: Map, inner: Map) -> Map:
    outer = bpf.map(type_, max_entries=4, inner=template)
    outer[1] = inner
    return outer


@pytest.fixture
def outer(scene: Scene, bpf: Bpf, template: Map, inner: Map) -> Map:
    """The outer map; the inner map is at key 1."""
    return outer_with(bpf, scene.type, template, inner)


@pytest.fixture
def shared_outer(scene: Scene) -> Map:
    """An outer map with an inner map at key 1, the same for all tests that leave its elements as they are."""
    return scene.once(outer_with, scene.type, scene.template, scene.inner)


# Lookups.


@pytest.mark.contract("prog.lookup")
def test_a_program_reads_an_element_of_an_inner_map(bpf: Bpf, outer: Map, observe: Observe) -> None:
    observe(run(bpf, read_through(outer)))


@pytest.mark.contract("prog.lookup_missing")
def test_a_key_without_an_inner_map_gives_null(bpf: Bpf, case: str, outer: Map, observe: Observe) -> None:
    observe(run(bpf, read_through(outer, {"empty": 3, "beyond": 9}[case])))


@pytest.mark.contract("prog.lookup_missing_element")
@pytest.mark.usefixtures("replaces")
def test_an_inner_map_without_the_element_gives_null(bpf: Bpf, outer: Map, template: Map, observe: Observe) -> None:
    outer[1] = template
    observe(run(bpf, read_through(outer)))


@pytest.mark.contract("prog.swapped_inner")
@pytest.mark.usefixtures("replaces")
def test_a_replaced_inner_map_is_found_at_once(
    bpf: Bpf, outer: Map, inner: Map, template: Map, observe: Observe
) -> None:
    template[2] = 42
    seen = []
    with bpf.prog(RUNNER, read_through(outer)) as program:
        for held in (inner, template, inner):
            outer[1] = held
            seen.append(returned(program.run().retval))
    observe(seen)


@pytest.mark.contract("prog.removed_inner")
def test_a_removed_inner_map_is_no_longer_found(bpf: Bpf, outer: Map, observe: Observe) -> None:
    with bpf.prog(RUNNER, read_through(outer)) as program:
        before = returned(program.run().retval)
        del outer[1]
        observe([before, returned(program.run().retval)])


@pytest.mark.contract("prog.closed")
def test_a_program_finds_maps_whose_descriptors_are_closed(
    bpf: Bpf, case: str, outer: Map, inner: Map, template: Map, observe: Observe
) -> None:
    with bpf.prog(RUNNER, read_through(outer)) as program:
        template.close()
        if case in ("inner", "all"):
            inner.close()
        if case in ("outer", "all"):
            outer.close()
        observe(returned(program.run().retval))


@pytest.mark.contract("prog.template_closed_before_load")
def test_a_program_loads_without_the_template(bpf: Bpf, outer: Map, template: Map, observe: Observe) -> None:
    template.close()
    observe(run(bpf, read_through(outer)))


@pytest.mark.contract("prog.one_inner_at_two_keys")
def test_an_inner_map_at_two_keys_is_one_map(bpf: Bpf, outer: Map, inner: Map, observe: Observe) -> None:
    outer[2] = inner
    with bpf.prog(RUNNER, change_inner(outer, "map_update_elem")) as program:
        program.run()
    observe(run(bpf, read_through(outer, 2)))


@pytest.mark.contract("prog.two_outers")
def test_two_outer_maps_hold_one_inner_map(bpf: Bpf, outer: Map, inner: Map, template: Map, observe: Observe) -> None:
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
    observe(run(bpf, code))


@pytest.mark.contract("prog.either_outer")
def test_one_call_looks_up_in_either_of_two_outer_maps(
    bpf: Bpf, contract: Contract, outer: Map, observe: Observe
) -> None:
    wide = bpf.map("array", value_size=64, max_entries=8)
    other = outer_of(bpf, contract, wide)
    wide[2] = (43).to_bytes(4, bpf.byte_order) + bytes(60)
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
    observe(run(bpf, code))


@pytest.mark.contract("prog.spilled_inner")
def test_an_inner_map_may_be_spilled_to_the_stack(bpf: Bpf, outer: Map, observe: Observe) -> None:
    code: Code = [
        *find_inner(outer),
        asm.stx("DW", R10, -16, R0),
        asm.call("get_prandom_u32"),
        asm.ldx("DW", R0, R10, -16),
        *read_element(),
    ]
    observe(run(bpf, code))


@pytest.mark.contract("prog.subprogram")
def test_an_inner_map_may_be_handed_to_a_subprogram(bpf: Bpf, outer: Map, observe: Observe) -> None:
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
    observe(run(bpf, code))


@pytest.mark.contract("prog.tail_called")
def test_a_tail_called_program_looks_up(bpf: Bpf, outer: Map, observe: Observe) -> None:
    programs = bpf.map("prog_array")
    programs[0] = bpf.prog(RUNNER, read_through(outer))
    observe(run(bpf, [asm.ld_map(R2, programs), asm.mov(R3, 0), asm.call("tail_call"), *asm.return_(NULL)]))


@pytest.mark.contract("prog.interpreter", "prog.jit")
def test_a_program_is_compiled_or_interpreted(bpf: Bpf, contract: Contract, outer: Map, observe: Observe) -> None:
    try:
        with (
            jit(bpf, b"1" if contract.name == "prog.jit" else b"0"),
            bpf.prog(RUNNER, read_through(outer)) as program,
        ):
            how = "compiled" if program.info()["jited_prog_len"] else "interpreted"
            observe([how, returned(program.run().retval)])
            return
    except BpfError as error:
        observe(error.name)


# Writing.


@pytest.mark.contract("prog.update_inner")
def test_a_program_updates_an_inner_map(bpf: Bpf, outer: Map, inner: Map, observe: Observe) -> None:
    answer = run(bpf, change_inner(outer, "map_update_elem", element=3))
    observe([answer, inner[3]])


@pytest.mark.contract("prog.delete_inner")
def test_a_program_deletes_from_an_inner_map(bpf: Bpf, outer: Map, inner: Map, observe: Observe) -> None:
    answer = run(bpf, change_inner(outer, "map_delete_elem"))
    observe([answer, errno_of(inner.lookup, 2)])


@pytest.mark.contract("prog.helper_errno")
def test_helpers_return_errnos(bpf: Bpf, case: str, outer: Map, observe: Observe) -> None:
    code = {
        "noexist": change_inner(outer, "map_update_elem", flags=uapi.NOEXIST),
        "exist": change_inner(outer, "map_update_elem", element=3, flags=uapi.EXIST),
        "flags_3": change_inner(outer, "map_update_elem", flags=3),
        "delete_missing": change_inner(outer, "map_delete_elem", element=3),
    }[case]
    answer = run(bpf, code)
    observe(named(answer))


@pytest.mark.contract("prog.store_to_element")
def test_a_program_adds_to_an_element(bpf: Bpf, outer: Map, inner: Map, observe: Observe) -> None:
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
    observe(inner[2])


@pytest.mark.contract("prog.real_max_entries")
def test_the_inner_maps_own_max_entries_count(bpf: Bpf, outer: Map, observe: Observe) -> None:
    small = bpf.map("hash", max_entries=1)
    small[2] = 41
    outer[1] = small
    answer = run(bpf, change_inner(outer, "map_update_elem", element=3))
    observe(named(answer))


@pytest.mark.contract("prog.frozen")
def test_a_program_writes_where_maps_are_frozen(bpf: Bpf, case: str, outer: Map, inner: Map, observe: Observe) -> None:
    {"outer": outer, "inner": inner}[case].freeze()
    answer = run(bpf, change_inner(outer, "map_update_elem"))
    observe([answer, inner[2]])


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


@pytest.mark.contract("prog.refused")
def test_what_the_verifier_refuses(bpf: Bpf, contract: Contract, shared_outer: Map, observe: Observe) -> None:
    observe(load(bpf, refused_program(bpf, contract, shared_outer)))


@pytest.mark.contract("prog.refused_with")
def test_why_the_verifier_refuses_it(bpf: Bpf, contract: Contract, shared_outer: Map, observe: Observe) -> None:
    observe(refusal(bpf, contract, refused_program(bpf, contract, shared_outer)))


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


@pytest.mark.contract("prog.outer_in")
def test_helpers_on_the_outer_map_itself(bpf: Bpf, contract: Contract, shared_outer: Map, observe: Observe) -> None:
    code = on_outer(shared_outer, contract.case)
    observe(load(bpf, code, **described(bpf, contract, code)))


@pytest.mark.contract("prog.outer_in_with")
def test_why_helpers_on_the_outer_map_are_refused(
    bpf: Bpf, contract: Contract, shared_outer: Map, observe: Observe
) -> None:
    code = on_outer(shared_outer, contract.case)
    observe(refusal(bpf, contract, code, **described(bpf, contract, code)))


# Flags of maps.


@pytest.mark.contract("prog.flag_on_outer")
def test_flags_of_the_outer_map(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    outer = outer_of(bpf, contract, template, map_flags=flags_of(contract))
    outer[1] = template
    observe([run(bpf, change_inner(outer, "map_update_elem")), template[2]])


def flags_of(contract: Contract) -> int:
    return {
        "rdonly_prog": uapi.RDONLY_PROG,
        "wronly_prog": uapi.WRONLY_PROG,
        "no_prealloc": uapi.NO_PREALLOC,
    }[contract.case.partition("-")[0]]


@pytest.mark.contract("prog.flag_on_inner")
def test_flags_of_the_inner_map(bpf: Bpf, contract: Contract, observe: Observe) -> None:
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
    observe(refusal(bpf, contract, code))


@pytest.mark.contract("prog.perf_event_no_prealloc")
def test_perf_event_programs_and_maps_without_preallocation(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    lazy = {contract.case: uapi.NO_PREALLOC}
    outer = outer_of(bpf, contract, bpf.map("hash", map_flags=lazy.get("inner", 0)), map_flags=lazy.get("outer", 0))
    observe(load(bpf, read_through(outer), "perf_event"))


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
    numbers = (word for number, name in enumerate(names) for word in (starts[name], 3 + number))
    known = b"".join(word.to_bytes(4, bpf.byte_order) for word in numbers)
    return {
        "prog_btf_fd": bpf.btf(types),
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


# Inlining.


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


@pytest.mark.contract("prog.inlined_outer")
def test_lookups_in_the_outer_map_are_inlined(bpf: Bpf, outer: Map, observe: Observe) -> None:
    observe("inlined" if inlined(bpf, [*find_inner(outer), asm.mov(R0, 0), *or_null()]) else "called")


@pytest.mark.contract("prog.inlined_inner")
def test_lookups_in_inner_maps_are_inlined(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    type_, _, flag = contract.case.partition("-")
    inner = bpf.map(type_, max_entries=8, map_flags=uapi.INNER_MAP if flag else 0)
    outer = outer_of(bpf, contract, inner)
    observe(lookup_in_inner(bpf, outer))


# Types of programs.


@pytest.mark.contract("prog.sleepable")
def test_a_sleepable_program_looks_up(bpf: Bpf, outer: Map, observe: Observe) -> None:
    observe(run(bpf, read_through(outer), "syscall", prog_flags=uapi.SLEEPABLE))


@pytest.mark.contract("prog.type")
def test_types_of_programs_that_look_up(bpf: Bpf, case: str, shared_outer: Map, observe: Observe) -> None:
    # Every type may return 0 or 1; some may return no other number.
    code: Code = [
        *find_inner(shared_outer),
        *find_element(),
        asm.jump("==", R0, 0, "none"),
        *asm.return_(1),
        asm.label("none"),
        *asm.return_(1),
    ]
    observe(load(bpf, code, case, **ATTACHED.get(case, {})))


# Hazardous: these load, and never run.


@pytest.mark.contract("prog.constant_key")
def test_hazardous_a_constant_key_without_a_check(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    flags = uapi.INNER_MAP if contract.case == "array_with_inner_map_flag" else 0
    type_ = contract.case.partition("_with")[0]
    outer = outer_of(bpf, contract, bpf.map(type_, max_entries=8, map_flags=flags))
    observe(load(bpf, unchecked_element(outer)))


@pytest.mark.contract("prog.percpu_array_bounds")
def test_hazardous_a_smaller_percpu_array(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    outer = outer_of(bpf, contract, bpf.map("percpu_array", max_entries=8))
    how = lookup_in_inner(bpf, outer)
    observe([errno_of(outer.update, 1, bpf.map("percpu_array", max_entries=1)), how])
