"""Programs that look inner maps up: what they find, how the lookup is compiled, and which types of programs may."""

from __future__ import annotations

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.programs.code import (
    NULL,
    RUNNER,
    Code,
    change_inner,
    find_element,
    find_inner,
    inlined,
    load,
    lookup_in_inner,
    or_null,
    outer_of,
    read_element,
    read_through,
    returned,
    run,
)
from harness.contracts.scene import jit
from harness.features.parts import ATTACHED
from harness.guest.api.asm import R0, R1, R2, R3, R6, R7, R10
from harness.testing import Bpf, BpfError, Map, asm, errno_of, uapi

pytestmark = pytest.mark.vm(group="programs")


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


# Inlining.


@pytest.mark.contract("prog.inlined_outer")
def test_lookups_in_the_outer_map_are_inlined(bpf: Bpf, outer: Map, observe: Observe) -> None:
    observe("inlined" if inlined(bpf, [*find_inner(outer), asm.mov(R0, 0), *or_null()]) else "called")


@pytest.mark.contract("prog.inlined_inner")
def test_lookups_in_inner_maps_are_inlined(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    type_, _, flag = contract.case.partition("-")
    inner = bpf.map(type_, max_entries=8, map_flags=uapi.INNER_MAP if flag else 0)
    outer = outer_of(bpf, contract, inner)
    observe(lookup_in_inner(bpf, outer))


@pytest.mark.contract("prog.percpu_array_bounds")
def test_hazardous_a_smaller_percpu_array(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    outer = outer_of(bpf, contract, bpf.map("percpu_array", max_entries=8))
    how = lookup_in_inner(bpf, outer)
    observe([errno_of(outer.update, 1, bpf.map("percpu_array", max_entries=1)), how])


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
