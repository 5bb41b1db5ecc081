"""How guests are to run: only a guest that was seen to run makes KVM believed."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AccelError, BootError, InfrastructureError, ToolMissing, VngFailed
from harness.util import architecture, cache
from harness.vm import accel
from harness.vm.spec import Accel, Acceleration, MachineSpec
from tests.unit.vm.specs import spec_of

SPEC = spec_of("/k", "/i")

Boot = Callable[..., AbstractContextManager[object]]


class Machine:
    """A machine on which booting under KVM does what the test says; counts the boots."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boots: list[tuple[MachineSpec, float]] = []
        self.play: Callable[[], AbstractContextManager[object]] = nullcontext
        self.kvm = folder / "kvm"
        self.kvm.touch()
        self.qemu = folder / "qemu"
        self.qemu.touch()
        self.record = folder / "accel.json"
        monkeypatch.setattr(accel, "KVM", self.kvm)
        monkeypatch.setattr(accel, "boot", self._boot)
        monkeypatch.setattr(accel, "find_qemu", lambda: self.qemu)
        monkeypatch.setattr(cache, "runs_root", lambda: folder)

    def _boot(self, spec: MachineSpec, *, timeout: float) -> AbstractContextManager[object]:
        self.boots.append((spec, timeout))
        return self.play()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def fail_with(detail: str) -> Callable[[], Any]:
    def play() -> Any:
        raise BootError("no", detail=detail)

    return play


def decide(wanted: str = "auto") -> Acceleration:
    return accel.decide(wanted, SPEC)


def test_a_guest_that_runs_makes_kvm_believed(machine: Machine) -> None:
    verdict = decide()
    assert verdict.accel is Accel.KVM
    assert "reached user space" in verdict.reason
    (probe,) = machine.boots
    assert probe == (SPEC.running_under(Accel.KVM), accel.PROBE_SECONDS)


def test_kvm_may_be_asked_for_where_it_runs(machine: Machine) -> None:
    assert decide("kvm").accel is Accel.KVM


def test_software_emulation_is_taken_at_its_word(machine: Machine) -> None:
    assert str(decide("tcg")) == "tcg (asked for)"
    assert machine.boots == []


def test_without_the_device_there_is_no_kvm(machine: Machine) -> None:
    machine.kvm.unlink()
    assert str(decide()) == "tcg (there is no /dev/kvm)"
    assert machine.boots == []


def test_without_permission_for_the_device_there_is_no_kvm(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert str(decide()) == "tcg (this user may not open /dev/kvm)"
    assert machine.boots == []


@pytest.mark.parametrize(
    ("detail", "reason"),
    [("KVM internal error. Suberror: 1", "KVM internal error"), ("Assertion `ret == cpu", "QEMU ends under it")],
)
def test_a_guest_that_dies_under_kvm_means_no_kvm(machine: Machine, detail: str, reason: str) -> None:
    machine.play = fail_with(detail)
    verdict = decide()
    assert verdict.accel is Accel.TCG
    assert reason in verdict.reason


def test_a_guest_that_is_late_under_kvm_means_no_kvm(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "PROBE_SECONDS", 0.05)

    def play() -> Any:
        time.sleep(0.06)
        raise BootError("not ready")

    machine.play = play
    assert "no guest reached user space under it in 0.05 s" in decide().reason


def test_kvm_asked_for_where_it_runs_nothing_is_an_error_with_a_way_out(machine: Machine) -> None:
    machine.play = fail_with("Assertion")
    with pytest.raises(AccelError, match="KVM cannot run a guest on this machine") as caught:
        decide("kvm")
    assert "--accel=auto" in caught.value.hint


def test_the_verdict_is_kept(machine: Machine) -> None:
    machine.play = fail_with("Assertion")
    first = decide()
    assert decide() == first
    assert len(machine.boots) == 1


def test_another_boot_of_this_machine_makes_the_verdict_void(machine: Machine) -> None:
    decide()
    known = json.loads(machine.record.read_text())
    machine.record.write_text(json.dumps({**known, "key": "another-boot " + known["key"].split(" ", 1)[1]}))
    decide()
    assert len(machine.boots) == 2


def test_another_qemu_makes_the_verdict_void(machine: Machine) -> None:
    decide()
    machine.qemu = machine.qemu.rename(machine.qemu.with_name("qemu-9"))
    decide()
    assert len(machine.boots) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"key": 1}'])
def test_a_damaged_verdict_counts_as_missing(machine: Machine, content: str) -> None:
    machine.record.write_text(content)
    decide()
    decide()
    assert len(machine.boots) == 1


def test_a_verdict_with_an_unknown_accelerator_counts_as_missing(machine: Machine) -> None:
    decide()
    known = json.loads(machine.record.read_text())
    machine.record.write_text(json.dumps({**known, "accel": "hvf"}))
    assert decide().accel is Accel.KVM
    assert len(machine.boots) == 2


@pytest.mark.parametrize(
    "error", [ToolMissing("vng is not installed"), VngFailed("vng ended before it started QEMU")], ids=repr
)
def test_what_says_nothing_about_kvm_is_not_taken_for_a_verdict(machine: Machine, error: InfrastructureError) -> None:
    def play() -> Any:
        raise error

    machine.play = play
    with pytest.raises(type(error)):
        decide()
    assert not machine.record.exists()


def test_another_architecture_is_emulated_without_a_trial(machine: Machine) -> None:
    foreign = next(name for name in architecture.known() if name != architecture.own_name())
    spec = dataclasses.replace(SPEC, kernel=dataclasses.replace(SPEC.kernel, architecture=foreign))
    verdict = accel.decide("auto", spec)
    assert verdict.accel is Accel.TCG
    assert " on " in verdict.reason
    with pytest.raises(AccelError, match=r"KVM cannot run 6\.1") as caught:
        accel.decide("kvm", spec)
    assert "--accel=tcg" in str(caught.value)
    assert machine.boots == []
