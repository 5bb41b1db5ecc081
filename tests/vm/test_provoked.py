"""Faults that are provoked on a real kernel are found, each under its name; one that is not fails its test."""

from __future__ import annotations

from typing import Any

import pytest

from harness.run.aftermath import KernelLog
from harness.testing import Guest
from harness.vm.machine import Machine
from tests.vm.provoke import RECIPES, provoke

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
