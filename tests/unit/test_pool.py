"""How often a kernel is booted that does not come up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import BootError
from harness.kernel.types import Choice
from harness.run.pool import Needs, Pool, Settings, Wanted
from harness.vm.command import Accel
from harness.vm.machine import Machine, State

UP = cast("Machine", SimpleNamespace(state=State.READY, close=lambda: None))


class Boots:
    """A pool whose boots end as the test says: in a machine, or in a panic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, running_under: Accel, *ends: bool) -> None:
        self.ends = list(ends)
        self.said: list[str] = []
        self.pool = Pool(Settings(), self.said.append)
        verdict = SimpleNamespace(verdict=SimpleNamespace(accel=running_under))
        monkeypatch.setattr(self.pool, "prepare", lambda _choice: verdict)
        monkeypatch.setattr(self.pool, "_new", self._new)

    def _new(self, _wanted: Wanted) -> Machine:
        if not self.ends.pop(0):
            raise BootError("the kernel died while it booted")
        return UP

    def take(self, cpus: int) -> Any:
        return self.pool.take(Wanted(cast("Choice", "6.12"), Needs(cpus=cpus)))


def test_a_kernel_on_several_emulated_cpus_is_booted_once_more_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boots = Boots(monkeypatch, Accel.TCG, False, True)
    assert boots.take(2) is UP
    assert len(boots.said) == 1
    assert boots.said[0].startswith("the kernel died while it booted; once more")


def test_twice_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, Accel.TCG, False, False, True)
    for _ in range(2):
        with pytest.raises(BootError):
            boots.take(2)
    assert boots.ends == [True]


@pytest.mark.parametrize(("cpus", "running_under"), [(1, Accel.TCG), (2, Accel.KVM)])
def test_no_other_kernel_is_given_a_second_boot_for_the_same_test(
    monkeypatch: pytest.MonkeyPatch, cpus: int, running_under: Accel
) -> None:
    boots = Boots(monkeypatch, running_under, False, True)
    with pytest.raises(BootError):
        boots.take(cpus)
    assert boots.said == []
    assert boots.take(cpus) is UP
