"""Tests with a second machine: the checks look at both, and say which it was."""

from __future__ import annotations

from tests.plugin.inner import KERNEL, Inner

TESTS = """
from pathlib import Path

import pytest
from harness.testing import Bpf


def panic():
    Path("/proc/sysrq-trigger").write_text("c")


@pytest.mark.vm(network="none", nics=2)
def test_leaks(guest, second_guest):
    Bpf(second_guest.process).map("array").pin("/sys/fs/bpf/left")


@pytest.mark.vm(network="none", nics=2)
def test_panics(second_guest):
    second_guest.call(panic)


@pytest.mark.vm(nics=2, second="6.1,6.12")
def test_two_kernels(second_vm):
    pass


def test_no_cards(second_vm):
    pass
"""


def test_what_is_found_on_the_second_machine_fails_the_test(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "-v")
    leaks = result.section("test_leaks")
    assert f"on the second machine, {KERNEL}:\n" in leaks, result.out
    assert "leaked: array map" in leaks
    panics = result.section("test_panics")
    assert f"on the second machine, {KERNEL}:\n\nthe kernel complained: panic" in panics
    assert "has no peer" not in panics
    assert "KernelCrashed: the kernel 6.1" in panics
    assert "which names 2 kernels" in result.section("test_two_kernels")
    assert "the test's machines have none" in result.section("test_no_cards")


def test_a_number_of_cards_that_no_machine_can_have_is_refused(inner: Inner) -> None:
    inner.write(test_it="import pytest\n\n@pytest.mark.vm(nics=5)\ndef test_it(guest):\n    pass\n")
    result = inner.run(f"--kernel={KERNEL}")
    assert "nics of the marker vm is from 1 to 4, not 5" in result.out
