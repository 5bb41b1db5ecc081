"""Faults that are provoked on a real kernel are found, each under its name; one that is not fails its test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.checks.kernel_log import KernelLog
from harness.checks.leaks import LeakCheck
from harness.testing import Guest
from harness.vm.machine import Machine
from tests.stress.loops import lookup_inner
from tests.stress.test_failing_allocations import HASH, fail_each_step, has_fault_injection
from tests.vm.provoke import RECIPES, Kernel, provoke

REASON = "the test provokes it"


def recipes(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.expects_fault(RECIPES[name].kind, reason=REASON), id=name)
        for name in names
    ]


@pytest.mark.kernel(">=5.10:cloud")
@pytest.mark.parametrize("name", recipes("warn", "bug", "null", "gpf", "list", "refcount", "hung-task"))
def test_a_fault_is_found(vm: Machine, name: str) -> None:
    provoke(vm, name)


@pytest.mark.kernel(">=5.10:debug")
@pytest.mark.parametrize("name", recipes("kasan", "lock-order", "lock-held", "rcu-usage"))
def test_a_fault_is_found_by_a_debug_kernel(vm: Machine, name: str) -> None:
    provoke(vm, name)


def nothing() -> None:
    pass


@pytest.mark.kernel(">=5.10:debug")
def test_memory_that_the_kernel_forgot_is_found_and_nothing_else(vm: Machine, guest: Guest) -> None:
    log = KernelLog(kmemleak=True)
    log.begin(vm)
    guest.call(nothing)
    assert log.end(vm) == []
    provoke(vm, "forgotten")
    (complaint,) = log.end(vm)
    assert "kmemleak: unreferenced object of 4096 bytes" in complaint.text


@pytest.mark.kernel(">=5.10:debug")
def test_an_error_path_that_forgets_memory_is_found_when_allocations_fail(vm: Machine, guest: Guest) -> None:
    log = KernelLog(kmemleak=True)
    assert guest.call(has_fault_injection)
    assert Kernel(vm).forget_calls(["htab_of_map_alloc"], "bpf_map_meta_free") == 1
    log.begin(vm)
    guest.call(fail_each_step, "from-then-on", "create", *HASH, lookup_inner(0, guest.byte_order), 200, timeout=600)
    complaints = log.end(vm)
    assert complaints
    assert all("htab_of_map_alloc" in complaint.text for complaint in complaints)


@pytest.mark.kernel(">=5.10:debug")
@pytest.mark.leaks("the kernel is made to forget a reference")
def test_an_error_path_that_forgets_a_reference_is_found_when_allocations_fail(vm: Machine, guest: Guest) -> None:
    leak_check = LeakCheck(Path())
    leak_check.begin(vm)
    assert guest.call(has_fault_injection)
    assert Kernel(vm).forget_calls(["map_create", "__sys_bpf"], "bpf_map_put_with_uref")
    guest.call(fail_each_step, "once", "create", *HASH, lookup_inner(0, guest.byte_order), 200, timeout=600)
    complaints = leak_check.end(vm)
    assert complaints
    assert "leaked: hash_of_maps map" in complaints[0].text
