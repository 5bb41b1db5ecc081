"""Programs that the verifier refuses, and why."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.programs.code import (
    NULL,
    Code,
    find_element,
    find_inner,
    functions,
    load,
    or_null,
    outer_of,
    read_element,
    refusal,
)
from harness.guest.api.asm import R0, R1, R2, R3, R4, R5, R6, R10
from harness.testing import Bpf, Map, asm, uapi

pytestmark = pytest.mark.vm(group="programs")

CURRENT_CPU = 0xFFFFFFFF
"""BPF_F_CURRENT_CPU."""


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


@pytest.mark.contract("prog.constant_key")
def test_hazardous_a_constant_key_without_a_check(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    flags = uapi.INNER_MAP if contract.case == "array_with_inner_map_flag" else 0
    type_ = contract.case.partition("_with")[0]
    outer = outer_of(bpf, contract, bpf.map(type_, max_entries=8, map_flags=flags))
    observe(load(bpf, unchecked_element(outer)))
