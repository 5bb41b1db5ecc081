"""Programs that write to inner maps, and the flags and freezing of maps that forbid it."""

from __future__ import annotations

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.programs.code import (
    Code,
    change_inner,
    find_element,
    find_inner,
    load,
    named,
    or_null,
    outer_of,
    read_through,
    refusal,
    run,
)
from harness.guest.api.asm import R0, R1
from harness.testing import Bpf, Map, asm, errno_of, uapi

pytestmark = pytest.mark.vm(group="programs")


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
