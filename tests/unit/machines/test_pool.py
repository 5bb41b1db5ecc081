"""How often a kernel is booted that does not come up, and what becomes of a saved machine whose clone does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import needs
from harness.errors import BootError, TemplateError, ToolMissing, UsageError, VngFailed
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.machines import pool as pools
from harness.machines.pool import Pool, Settings, with_memory
from harness.util import architecture
from harness.vm import clone as vm_clone
from harness.vm import template
from harness.vm.machine import Machine, State
from harness.vm.spec import MachineSpec, Needs
from tests.unit.vm.specs import spec_of

UP = cast("Machine", SimpleNamespace(state=State.READY, close=lambda: None))


class Boots:
    """A pool whose boots end as the test says: in a machine, or in a panic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ends: bool, error: BootError | None = None) -> None:
        self.ends = list(ends)
        self.error = error or BootError("the kernel died while it booted")
        self.said: list[str] = []
        self.pool = Pool(Settings(), self.said.append)
        monkeypatch.setattr(self.pool, "_new", self._new)

    def _new(self, _spec: MachineSpec) -> Machine:
        if not self.ends.pop(0):
            raise self.error
        return UP

    def take(self, cpus: int = 1) -> Any:
        return self.pool.take(spec_of("/k", "/i", Needs(cpus=cpus)))


def test_a_boot_that_fails_is_tried_once_more_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, False, True)
    assert boots.take() is UP
    assert boots.said == ["the kernel died while it booted; booting once more"]


def test_a_machine_that_failed_twice_is_not_booted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, False, False, True)
    for _ in range(2):
        with pytest.raises(BootError):
            boots.take(cpus=2)
    assert boots.take() is UP  # another machine of that kernel may boot


def test_the_error_of_a_failed_boot_does_not_grow_with_each_test_that_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, False, False)
    lengths = []
    for _ in range(3):
        with pytest.raises(BootError) as caught:
            boots.take()
        lengths.append(len(caught.traceback))
    assert lengths[1] == lengths[2]


def test_no_machine_of_a_kernel_is_booted_when_the_smallest_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, False, False, True)
    for cpus in (1, 2):
        with pytest.raises(BootError):
            boots.take(cpus)
    assert boots.ends == [True]


def test_what_vng_says_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    boots = Boots(monkeypatch, False, True, error=VngFailed("vng ended before it started QEMU"))
    for _ in range(2):
        with pytest.raises(VngFailed):
            boots.take()
    assert boots.ends == [True]


class Clones:
    """A pool with a saved machine whose clones come to life or not, as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ends: bool) -> None:
        self.ends = list(ends)
        self.done: list[str] = []
        self.said: list[str] = []
        self.pool = Pool(Settings(), self.said.append)
        monkeypatch.setattr(template, "find_or_make", self._find_or_make)
        monkeypatch.setattr(vm_clone, "start_clone", lambda _saved, _spec: SimpleNamespace(finish=self._finish))
        monkeypatch.setattr(pools, "boot", self._boot)

    def _find_or_make(self, _spec: MachineSpec, *, doubted: bool, **_: object) -> object:
        self.done.append("looked at again" if doubted else "found")
        return SimpleNamespace()

    def _finish(self) -> Machine:
        if not self.ends.pop(0):
            raise TemplateError("a clone did not come to life")
        self.done.append("cloned")
        return UP

    def _boot(self, _spec: MachineSpec, *, timeout: float) -> Machine:
        assert timeout > 0
        self.done.append("booted")
        return UP

    def take(self) -> Any:
        return self.pool.take(spec_of("/k", "/i"))


def test_a_saved_machine_whose_clone_fails_is_looked_at_and_cloned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clones = Clones(monkeypatch, False, True)
    assert clones.take() is UP
    assert clones.done == ["found", "looked at again", "cloned"]
    assert clones.said == ["a clone did not come to life; trying once more"]


def test_a_test_whose_clone_fails_twice_gets_a_booted_machine_and_the_next_a_clone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clones = Clones(monkeypatch, False, False, True)
    assert clones.take() is UP
    assert clones.done == ["found", "looked at again", "booted"]
    assert clones.said[-1] == "a clone did not come to life; booting one instead"
    assert clones.take() is UP
    assert clones.done[3:] == ["cloned"]


def test_a_machine_saved_ahead_is_found_by_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clones = Clones(monkeypatch, True)
    monkeypatch.setattr(clones.pool, "prepare", lambda *_: spec_of("/k", "/i"))
    clones.pool.save(cast("Choice", None), Needs())
    assert clones.done == ["found"]
    assert clones.take() is UP
    assert clones.done == ["found", "cloned"]


def test_a_boot_that_fails_ahead_is_the_error_of_the_first_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clones = Clones(monkeypatch)
    monkeypatch.setattr(clones.pool, "prepare", lambda *_: spec_of("/k", "/i"))
    boots = 0

    def find_or_make(_spec: MachineSpec, **_: object) -> object:
        nonlocal boots
        boots += 1
        raise BootError("the kernel died while it booted")

    monkeypatch.setattr(template, "find_or_make", find_or_make)
    clones.pool.save(cast("Choice", None), Needs())
    for _ in range(2):
        with pytest.raises(BootError):
            clones.take()
    assert boots == 2  # both ahead


# kernels of another architecture

FOREIGN = next(one for one in architecture.known().values() if not one.is_own)


def test_without_its_qemu_nothing_is_downloaded_and_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find", lambda need: None)
    asked: list[Choice] = []

    def acquire(choice: Choice) -> Any:
        asked.append(choice)

    choice = Choice("6.12-x", KernelVersion(6, 12), "debian", "key", architecture=FOREIGN.name)
    with pytest.raises(ToolMissing, match=f"{FOREIGN.qemu} is not installed; it is needed to run") as caught:
        Pool(Settings(), print, acquire=acquire).prepare(choice)
    assert "apt-get install qemu-system-" in str(caught.value)
    assert asked == []


def test_bcc_in_a_guest_of_another_architecture_is_refused() -> None:
    spec = spec_of("/k", "/i")
    foreign = dataclasses.replace(spec, kernel=dataclasses.replace(spec.kernel, architecture=FOREIGN.name))
    choice = Choice("6.1", KernelVersion(6, 1), "debian", "key", architecture=FOREIGN.name)
    with pytest.raises(UsageError, match=r"a guest of 6\.1 cannot have bcc") as caught:
        pools.image_with(foreign, choice, Needs(image="bcc"), print)
    assert "--loader=libbpf" in str(caught.value)


def test_memory_that_a_machine_of_the_architecture_cannot_have_is_refused_before_anything_is_fetched() -> None:
    choice = Choice("6.12-ppc64el", KernelVersion(6, 12), "debian", "key", architecture="ppc64el")

    def acquire(_choice: Choice) -> Any:
        raise AssertionError("nothing is to be fetched")

    with pytest.raises(UsageError, match=r"a guest of 6\.12-ppc64el cannot have 300 MiB of memory") as caught:
        Pool(Settings(), print, acquire=acquire).prepare(choice, Needs(memory=300))
    assert caught.value.expected == "a multiple of 256 MiB, for ppc64el"


@pytest.mark.parametrize(("memory", "given"), [(256, 512), (512, 512), (768, 768)])
def test_a_guest_has_the_memory_that_its_architecture_needs_at_the_least(memory: int, given: int) -> None:
    choice = Choice("6.12-ppc64el", KernelVersion(6, 12), "debian", "key", architecture="ppc64el")
    assert with_memory(choice, Needs(memory=memory)).memory == given
    assert with_memory(dataclasses.replace(choice, architecture="amd64"), Needs(memory=memory)).memory == memory


def test_a_second_machine_is_never_the_one_that_tests_share(monkeypatch: pytest.MonkeyPatch) -> None:
    class Up:
        def close(self) -> None:
            pass

    made = [Up(), Up()]
    pool = Pool(Settings(isolation=pools.Isolation.FORK), lambda _: None)
    monkeypatch.setattr(pool, "_new", lambda _spec: made.pop(0))
    monkeypatch.setattr(pools, "is_healthy", lambda _machine: True)
    spec = spec_of("/k", "/i")
    first, second = pool.take(spec), pool.take(spec, another=True)
    assert second is not first
    pool.give_back(spec, second)
    assert pool.take(spec) is first


def test_all_machines_of_a_run_get_the_root_file_system_that_was_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("first")
    pool = Pool(Settings(), print)
    first = pool.rootfs(str(tmp_path / "files"), "x86-64")
    (tmp_path / "files/b").write_text("came later")
    assert pool.rootfs(str(tmp_path / "files"), "x86-64") is first
    assert Pool(Settings(), print).rootfs(str(tmp_path / "files"), "x86-64") != first
    assert pool.rootfs("", "x86-64") is None
