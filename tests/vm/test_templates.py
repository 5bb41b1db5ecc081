"""Templates and clones on real machines: what they promise, and what becomes of a damaged one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import (
    BootError,
    GuestHung,
    InfrastructureError,
    LinkBroken,
    MonitorError,
    StateError,
    TemplateError,
)
from harness.guest import calls
from harness.guest.api import bpf as raw
from harness.kernel.types import Choice, Kernel
from harness.machines import pool as pools
from harness.machines.pool import Isolation, Pool, Settings
from harness.remote.guest import Guest
from harness.testing import Bpf
from harness.util import cache as disk_cache
from harness.vm import boot as boots
from harness.vm import clone as clones
from harness.vm import template
from harness.vm.channel import Channel
from harness.vm.host_state import Watch, sample
from harness.vm.machine import Machine, State
from harness.vm.process import find_qemu
from harness.vm.sandbox import abilities, unprivileged_user
from harness.vm.spec import MachineSpec, Needs


@pytest.fixture(scope="module")
def filled_cache(kernel_choice: Choice, kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with an image and a template in it, to be copied."""
    assert kernel.boot_image.exists()
    cache = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(cache))
        pool = Pool(Settings(accel="tcg"), print, acquire=lambda _choice: kernel)
        spec = pool.prepare(kernel_choice)
        pool.give_back(spec, pool.take(spec))
        pool.close()
    return cache


@pytest.fixture
def own_cache(filled_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, which holds what the filled one does."""
    cache = tmp_path / "cache"
    subprocess.run(["cp", "-a", "--sparse=always", filled_cache, cache], check=True)
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    yield cache
    shutil.rmtree(cache)


class Said(list[str]):
    """The lines that a pool printed."""

    def has(self, words: str) -> bool:
        return any(words in line for line in self)


@pytest.fixture
def said() -> Said:
    return Said()


class MakePool:
    """Makes pools that use the test's own cache for images and templates, and the user's for the kernel."""

    def __init__(self, said: Said, choice: Choice, kernel: Kernel) -> None:
        self.said = said
        self.choice = choice
        self.kernel = kernel
        self.made: list[Pool] = []

    def __call__(self, isolation: Isolation = Isolation.VM) -> Pool:
        pool = Pool(Settings(isolation=isolation, accel="tcg"), self.said.append, acquire=lambda _choice: self.kernel)
        self.made.append(pool)
        return pool


@pytest.fixture
def make_pool(said: Said, kernel_choice: Choice, kernel: Kernel, own_cache: Path) -> Iterator[MakePool]:
    maker = MakePool(said, kernel_choice, kernel)
    yield maker
    for pool in maker.made:
        pool.close()


@pytest.fixture
def spec(make_pool: MakePool, kernel_choice: Choice) -> MachineSpec:
    return make_pool().prepare(kernel_choice)


def only_template(cache: Path) -> Path:
    (record,) = (cache / "templates").glob(f"*/{template.RECORD}")
    return record.parent


def works(machine: Machine) -> bool:
    return isinstance(machine.new_process().ask(calls.Bpf.map_create, "hash", 4, 4, 8), int)


def machine_facts() -> dict[str, object]:
    facts: dict[str, object] = {
        "hostname": os.uname().nodename,
        "time": time.time(),
        "entropy": os.urandom(16),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(),
    }
    Path("/run/dirt").write_text("left by a test")
    raw.map_create("hash", 4, 4, 8)
    return facts


def leftovers() -> list[object]:
    return [Path("/run/dirt").exists(), raw.ids("map")]


def test_every_clone_is_pristine_and_has_an_identity_of_its_own(make_pool: MakePool, spec: MachineSpec) -> None:
    pool = make_pool()
    seen = []
    for _ in range(2):
        began = time.time()
        machine = pool.take(spec)
        guest = Guest(machine)
        assert guest.call(leftovers) == [False, []]
        facts = guest.call(machine_facts)
        assert began - 1 < float(str(facts["time"])) < time.time() + 1, "its clock was set when it was started"
        seen.append(facts)
        pool.give_back(spec, machine)
    assert seen[0]["hostname"] != seen[1]["hostname"]
    assert seen[0]["entropy"] != seen[1]["entropy"]
    assert seen[0]["boot_id"] != seen[1]["boot_id"]


def test_a_template_is_made_once_and_used_by_later_runs(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path
) -> None:
    before = (only_template(own_cache) / template.RAM).stat().st_ino
    assert works(make_pool().take(spec))
    assert (only_template(own_cache) / template.RAM).stat().st_ino == before


def command_line() -> str:
    return Path("/proc/cmdline").read_text()


def test_other_needs_are_another_template(make_pool: MakePool, spec: MachineSpec, own_cache: Path) -> None:
    pool = make_pool()
    needs = Needs(memory=320, cpus=2, parameters=("harness.mark=here",))
    bigger = pool.take(pool.prepare(make_pool.choice, needs))
    assert bigger.about["cpus"] == 2
    assert "harness.mark=here" in Guest(bigger).call(command_line)
    assert len(list((own_cache / "templates").glob(f"*/{template.RECORD}"))) == 2


def flip(path: Path) -> None:
    """Turn one bit over, where the file holds data, and put its time back."""
    times = path.stat()
    with path.open("r+b") as file:
        at = os.lseek(file.fileno(), path.stat().st_size // 2, os.SEEK_DATA)
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil(path: Path) -> None:
    (path / template.RECORD).write_text('{"argv": []')


@pytest.mark.parametrize(
    ("damage", "name"),
    [(flip, template.RAM), (flip, template.STATE), (cut, template.RAM), (Path.unlink, template.STATE), (spoil, "")],
)
def test_a_damaged_template_is_made_again(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said, damage: Callable[[Path], None], name: str
) -> None:
    damage(only_template(own_cache) / name)
    assert works(make_pool().take(spec))
    assert said.has("is damaged"), said
    assert template._read(only_template(own_cache)) is not None


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_template_that_is_damaged_while_in_use_is_made_again(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said, damage: Callable[[Path], None]
) -> None:
    pool = make_pool()
    pool.give_back(spec, pool.take(spec))
    damage(only_template(own_cache) / template.STATE)
    assert works(pool.take(spec))
    assert said.has("changed or removed"), said


def test_a_state_from_another_qemu_is_not_believed(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said
) -> None:
    """A state whose files match their record and that this QEMU cannot load."""
    folder = only_template(own_cache)
    state = folder / template.STATE
    state.write_bytes(state.read_bytes().replace(b"pc-q35-", b"pc-q99-"))
    record = json.loads((folder / template.RECORD).read_text())
    record["files"][template.STATE] = template._facts(state)
    (folder / template.RECORD).write_text(json.dumps(record))
    before = state.stat().st_ino
    assert works(make_pool().take(spec))
    assert said.has("did not start"), said
    assert state.stat().st_ino == before, "nothing shows that it is damaged: other processes may use it"


def test_a_clone_that_fails_leaves_the_saved_machine_to_others(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = make_pool(), make_pool()
    other.give_back(spec, other.take(spec))
    before = (only_template(own_cache) / template.RAM).stat().st_ino
    finish = clones.Clone.finish
    ends = [TemplateError("a clone did not come to life: too late")]

    def fail_once(clone: clones.Clone) -> Machine:
        if ends:
            clone.abandon()
            raise ends.pop()
        return finish(clone)

    monkeypatch.setattr(clones.Clone, "finish", fail_once)
    assert works(pool.take(spec))
    assert said.has("too late; trying once more"), said
    assert not said.has("anew"), said
    assert (only_template(own_cache) / template.RAM).stat().st_ino == before
    assert works(other.take(spec))


def test_without_room_on_the_disk_tests_boot_instead(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own_cache / "templates")

    def small(_path: object) -> object:
        return type("Usage", (), {"free": 10 << 20})

    monkeypatch.setattr(shutil, "disk_usage", small)
    pool = make_pool()
    machine = pool.take(spec)
    assert works(machine)
    assert said.has("not enough disk space"), said
    assert machine.why_not_cloned() == "its memory is not in a file"


def test_without_memory_for_a_clone_there_is_one_clear_error(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    spec = pool.prepare(make_pool.choice)
    pool.give_back(spec, pool.take(spec))
    monkeypatch.setattr(pools, "available_mib", lambda: 40)
    pool.expect(make_pool.choice, Needs())
    with pytest.raises(InfrastructureError, match="not enough memory for another guest: 40 MiB"):
        pool.take(spec)


def use_until_it_breaks(machine: Machine) -> None:
    # Each process stays and takes 1.5 MiB of the guest's 256: a hundred leave it 3.
    for _ in range(25):
        machine.new_process().ask(calls.Bpf.ids, kind="map")


def test_a_clone_whose_memory_file_shrinks_is_lost_and_not_a_verdict(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path
) -> None:
    pool = make_pool()
    machine = pool.take(spec)
    memory = only_template(own_cache) / template.RAM
    os.truncate(memory, 0)
    # QEMU is given a copy of what other users may not read, as after umask 077.
    if abilities(find_qemu()).private_rom and memory.stat().st_mode & stat.S_IROTH:
        with pytest.raises(LinkBroken):
            use_until_it_breaks(machine)
    else:
        use_until_it_breaks(machine)  # it has a copy
    assert works(pool.take(spec))


def status_of(machine: Machine) -> dict[str, str]:
    text = Path(f"/proc/{machine.process.pid()}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def opened_by(machine: Machine) -> list[str]:
    """Return what a QEMU has open for writing, besides its own memory, sockets and pipes."""
    found = []
    for entry in Path(f"/proc/{machine.process.pid()}/fd").iterdir():
        flags = int((entry.parent.parent / "fdinfo" / entry.name).read_text().split("flags:")[1].split()[0], 8)
        target = str(entry.readlink())
        if flags & os.O_ACCMODE and target.startswith("/") and not target.startswith(("/memfd:", "/dev/")):
            found.append(target)
    return found


def test_qemu_may_do_next_to_nothing_on_the_host(make_pool: MakePool, spec: MachineSpec, own_cache: Path) -> None:
    machine = make_pool().take(spec)
    status = status_of(machine)
    assert {status[name].strip("0") for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("2" if abilities(find_qemu()).sandbox else "0")
    user = unprivileged_user()
    assert (int(status["Uid"].split()[1]) == os.getuid()) == (user is None)
    assert [path for path in opened_by(machine) if str(own_cache) in path] == []
    assert {Path(path).parent for path in opened_by(machine)} == {machine.folder}


def test_a_machine_that_boots_may_not_do_much_more(make_pool: MakePool, spec: MachineSpec) -> None:
    machine = make_pool(Isolation.BOOT).take(spec)
    status = status_of(machine)
    assert int(status["CapEff"], 16) & ~(1 << 2) == 0, "root may go on reading files"
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("2" if abilities(find_qemu()).sandbox else "0")


def test_a_boot_that_this_machine_did_not_let_run_says_so(
    monkeypatch: pytest.MonkeyPatch, kernel_choice: Choice, kernel: Kernel
) -> None:
    def stop_and_watch(pid: int) -> Watch:
        os.kill(pid, signal.SIGSTOP)
        while not sample(pid).is_stopped:
            time.sleep(0.01)
        return Watch(pid)

    def wait_in_vain(*_: object) -> None:
        raise GuestHung("no event in time")

    monkeypatch.setattr(boots, "Watch", stop_and_watch)
    monkeypatch.setattr(Channel, "wait_event", wait_in_vain)
    pool = Pool(Settings(isolation=Isolation.BOOT, accel="tcg"), print, acquire=lambda _choice: kernel)
    with (
        contextlib.closing(pool),
        pytest.raises(BootError, match=r"was not ready within 300 s: QEMU is stopped \(state T: SIGSTOP"),
    ):
        boots.boot(pool.prepare(kernel_choice), timeout=300)


def devices() -> list[str]:
    return [Path(path, "class").read_text().strip() for path in Path("/sys/bus/pci/devices").iterdir()]


def test_the_guest_has_the_devices_that_it_needs_and_no_others(bpf: Bpf, guest: Guest) -> None:
    assert bpf.map_ids() == []
    # Host bridge, ISA bridge, the memory that it shares with the harness.
    assert sorted(guest.call(devices)) == ["0x050000", "0x060000", "0x060100"]


def test_the_next_machine_is_prepared_while_this_one_runs(make_pool: MakePool) -> None:
    pool = make_pool()
    spec = pool.prepare(make_pool.choice)
    machine = pool.take(spec)
    pool.expect(make_pool.choice, Needs())
    prepared = [path for path in disk_cache.runs_root().glob("run-*/qemu.pid") if path.parent != machine.folder]
    assert pool.take(spec).folder in [path.parent for path in prepared]


def test_fork_shares_a_machine_while_it_is_healthy(make_pool: MakePool, spec: MachineSpec) -> None:
    pool = make_pool(Isolation.FORK)
    machine = pool.take(spec)
    pool.give_back(spec, machine)
    assert pool.take(spec) is machine
    os.kill(machine.process.pid(), signal.SIGKILL)
    pool.give_back(spec, machine)
    other = pool.take(spec)
    assert other is not machine
    assert works(other)


def taint() -> None:
    Path("/dev/kmsg").write_text("<4>tainted by a test")
    Path("/proc/sys/kernel/tainted").write_text("64")


def test_a_tainted_machine_is_not_shared_any_more(make_pool: MakePool, spec: MachineSpec) -> None:
    pool = make_pool(Isolation.FORK)
    machine = pool.take(spec)
    Guest(machine).call(taint)
    pool.give_back(spec, machine)
    assert pool.take(spec) is not machine


def test_what_cannot_be_cloned_says_why(make_pool: MakePool, spec: MachineSpec) -> None:
    machine = make_pool(Isolation.BOOT).take(spec)
    assert machine.why_not_cloned() == "its memory is not in a file"
    machine.close()
    assert machine.state is State.CLOSED
    with pytest.raises(StateError, match="closed"):
        machine.new_process()
    with pytest.raises(StateError, match="closed"):
        machine.move(State.READY)


_SECOND_RUN = """
import sys
from harness.kernel import resolve
from harness.machines.pool import Pool, Settings
pool = Pool(Settings(accel="tcg"), print)
machine = pool.take(pool.prepare(resolve([sys.argv[1]])[0]))
print("ready", machine.release)
pool.close()
"""


@pytest.fixture
def user_kernels() -> Path:
    return disk_cache.cache_root() / "kernels"


def test_two_runs_at_once_make_one_template(user_kernels: Path, kernel_choice: Choice, own_cache: Path) -> None:
    """Both start without one; the user's kernels are linked into their cache."""
    (own_cache / "kernels").symlink_to(user_kernels)
    shutil.rmtree(own_cache / "templates")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _SECOND_RUN, kernel_choice.label], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output.decode()
    only_template(own_cache)


def test_the_stream_contains_the_memory_when_it_cannot_be_omitted(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.vm import qmp

    shutil.rmtree(own_cache / "templates")
    save = qmp.save_state

    def refuse(socket: Path, state: Path, *, ignore_shared: bool, timeout: float) -> None:
        if ignore_shared:
            raise MonitorError("QEMU refused to save the machine: no such capability")
        save(socket, state, ignore_shared=False, timeout=timeout)

    monkeypatch.setattr(qmp, "save_state", refuse)
    pool = make_pool()
    assert works(pool.take(spec))
    assert not (only_template(own_cache) / template.RAM).exists()
    assert works(pool.take(spec))


def test_a_machine_that_cannot_be_saved_is_booted_for_every_test(
    make_pool: MakePool, spec: MachineSpec, own_cache: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own_cache / "templates")

    def refuse(*_: object, **__: object) -> None:
        raise TemplateError("no state today")

    monkeypatch.setattr(template, "_save", refuse)
    pool = make_pool()
    assert works(pool.take(spec))
    assert works(pool.take(spec))
    assert len([line for line in said if "no state today" in line]) == 1, "said once"


def test_nothing_of_the_host_is_exported(bpf: Bpf, vm: Machine) -> None:
    assert bpf.map_ids() == []
    command = Path(f"/proc/{vm.process.pid()}/cmdline").read_bytes().decode()
    assert "fsdev" not in command
    assert "9p" not in command


def ticks(seconds: float) -> int:
    """Keep the processor busy for some time; return how many ticks the kernel counted meanwhile."""

    def count() -> int:
        lines = Path("/proc/timer_list").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("jiffies:"))

    before, end = count(), time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return count() - before


@pytest.mark.parametrize("number", range(3))
def test_the_kernel_of_a_clone_counts_its_ticks(guest: Guest, number: int) -> None:
    """On ppc64el some clones counted none: QEMU 7.2 forgets the processor's timer."""
    assert guest.call(ticks, 0.2) > 5, f"clone {number}"
