"""Takes every figure in turn, round after round, so that a machine that slows down slows all of them: quote the ratios.

Whole processes are timed from outside.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import kernel as kernels
from harness.bench.figures import Figures
from harness.bench.suite import bpf_source, plain_suite, root_files, suite
from harness.errors import InfrastructureError
from harness.guest import calls
from harness.kernel.types import Choice
from harness.machines.pool import Isolation, Pool, Settings
from harness.util import cache, clang
from harness.util.proc import quote
from harness.util.proc import run as run_program
from harness.vm import template
from harness.vm.machine import Machine
from harness.vm.process import find_vng, require_udev, vng_environment
from harness.vm.spec import Accel, MachineSpec, Needs

_VNG_TIMEOUT = 300.0
_SUITE_TIMEOUT = 1800.0

_HARNESS = (sys.executable, "-c", "from harness.cli import main; raise SystemExit(main())")
"""The command, with the Python of this process."""


class Bench:
    """One run of the benchmark.

    Args:
        choice: The kernel.
        generic: Its release in a flavour that plain vng can boot.
        quick: Whether to take few rounds.
        say: Prints a line of progress.

    Attributes:
        figures: What was measured.

    Raises:
        ToolMissing: A program is not installed.
    """

    def __init__(self, choice: Choice, generic: Choice, *, quick: bool, say: Callable[[str], None]) -> None:
        require_udev()
        self.figures = Figures()
        self._quick = quick
        self._say = say
        self._choice = choice
        self._generic = generic
        self._pool = Pool(Settings(), say)
        self._spec = self._pool.prepare(choice)

    def measure(self) -> None:
        """Take every figure, round after round.

        Raises:
            InfrastructureError: A program that is timed ended with another status than 0.
        """
        self._say(f"kernel {self._spec.kernel.version}, {self._spec.acceleration}; load {os.getloadavg()[0]:.1f}")
        try:
            for _ in range(1 if self._quick else 3):
                self._plain_vng()
                self._boot_and_save()
                self._clones(10 if self._quick else 20)
                self._forks(10 if self._quick else 20)
                self._warm_run()
            self._exec(2 if self._quick else 10)
            self._check(1 if self._quick else 5)
            self._idle(5 if self._quick else 20)
            self._suites()
            if not self._quick:
                self._leak_check(5)
                self._root_files(30)
        finally:
            self._pool.close()

    def _plain_vng(self) -> None:
        image = kernels.acquire(self._generic, progress=self._say).bzimage
        argv = [str(find_vng()), "-r", str(image)]
        if self._spec.accel is Accel.TCG:
            argv.append("--disable-kvm")  # it hangs for ever where KVM opens and runs nothing
        self.figures.timed(
            "vng_pristine",
            f"vng -r {self._generic.version} (generic) -- true",
            lambda: _run([*argv, "--", "true"], _VNG_TIMEOUT),
        )

    def _boot_and_save(self) -> None:
        with tempfile.TemporaryDirectory(dir=cache.cache_root()) as folder:
            steps = template.make(Path(folder) / "template", self._spec, boot_timeout=120)
        self.figures.add("cold_boot", "s", "process start to agent ready, through vng", steps.boot_seconds)
        self.figures.add("template_save", "s", "agent ready to template on disk", steps.save_seconds)

    def _clones(self, rounds: int) -> None:
        for _ in range(rounds):
            started = time.perf_counter()
            machine = self.figures.timed(
                "clone_ready", "QEMU start to the clone's first answer", lambda: self._pool.take(self._spec)
            )
            process = machine.new_process()
            process.ask(calls.Bpf.map_create, "hash", 4, 4, 8)
            process.ask(calls.Bpf.ids, kind="map")
            resident, private = _memory(machine)
            self._pool.give_back(self._spec, machine)
            self.figures.add(
                "isolated_test",
                "s",
                "clone, first call, list of map ids, teardown",
                time.perf_counter() - started,
            )
            self.figures.add("clone_rss", "MiB", "resident memory of a clone", resident)
            self.figures.add("clone_private", "MiB", "of that, not shared with other clones", private)

    def _forks(self, rounds: int) -> None:
        shared = Pool(Settings(isolation=Isolation.FORK), self._say)
        try:
            machine = shared.take(self._spec)
            kept = machine.new_process()
            for _ in range(rounds):
                timed = self.figures.timed
                timed("forked_call", "call in a freshly forked guest process", lambda: _forked_call(machine))
                timed("simple_call", "call in a guest process that is there", lambda: kept.ask(calls.Process.close))
        finally:
            shared.close()

    def _warm_run(self) -> None:
        with suite(1) as folder:
            self._pytest(folder, "warm_pytest", "pytest -k one_test, warm", "-k", "one_test")

    def _exec(self, rounds: int) -> None:
        """Take how long `harness exec` takes for a program that does nothing, on a kernel that was saved before."""
        command = [*_HARNESS, "exec", "--kernel", self._choice.label, "--folder-limit", "0", "--", "/bin/true"]
        for _ in range(rounds):
            self.figures.timed("exec_true", "harness exec -- /bin/true, warm", partial(_run, command, _SUITE_TIMEOUT))

    def _root_files(self, rounds: int) -> None:
        """Take clones with a root file system and clones without, in turn."""
        with root_files(200) as folder:
            with_files = self._pool.prepare(self._choice, Needs(rootfs=str(folder)))
            specs = (
                ("clone_without_files", "a clone and its first answer", self._spec),
                ("clone_with_files", "the same with 200 MiB of files as its root", with_files),
            )
            for *_, spec in specs:
                self._pool.give_back(spec, self._answering(spec))  # the first saves the machine
            for _ in range(rounds):
                for name, what, spec in specs:
                    machine = self.figures.timed(name, what, partial(self._answering, spec))
                    self._pool.give_back(spec, machine)

    def _answering(self, spec: MachineSpec) -> Machine:
        machine = self._pool.take(spec)
        machine.ask_agent(calls.Agent.log_since)
        return machine

    def _check(self, rounds: int) -> None:
        """Take how long `harness check` takes, on one kernel that was saved before."""
        command = [*_HARNESS, "check"]
        on_kernel = ("--kernel", self._choice.label)
        with bpf_source(1, 10) as source, bpf_source(60, 1000) as larger, plain_suite(1) as folder:
            wrong = next(folder.iterdir())
            one, many = clang.build(source), clang.build(larger)
            _run([*command, str(one), *on_kernel], _SUITE_TIMEOUT)  # the first compiles modules
            for _ in range(rounds):
                for name, what, words, status in (
                    ("check_input", "harness check of a file that is not an object", [str(wrong)], 2),
                    ("check_one", "harness check of an object with one program", [str(one), *on_kernel], 0),
                    ("check_many", "harness check of an object with 60 programs", [str(many), *on_kernel], 0),
                ):
                    self.figures.timed(name, what, partial(_run, [*command, *words], _SUITE_TIMEOUT, status))

    def _idle(self, rounds: int) -> None:
        """Take what the installed plugin costs tests that use nothing of it, in processor time of whole processes."""
        what = "processor time of pytest, 50 tests without a kernel"
        with plain_suite(50) as folder:
            argv = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:hypothesispytest",
                str(folder),
            ]
            _processor_time(argv)  # the first compiles modules
            for _ in range(rounds):
                without, with_it = _processor_time([*argv, "-p", "no:harness"]), _processor_time(argv)
                self.figures.add("plain_without", "s", f"{what}, without the plugin", without)
                self.figures.add("plain_with", "s", f"{what}, with the plugin installed", with_it)
                self.figures.add("idle_plugin", "s", "what the installed plugin adds to that", with_it - without)

    def _suites(self) -> None:
        tests = 20 if self._quick else 100
        booted = 2 if self._quick else 20
        plan = [
            (isolation, workers, booted if isolation is Isolation.BOOT else tests)
            for isolation in Isolation
            for workers in (1, 2)
            if not (self._quick and isolation is Isolation.BOOT and workers == 2)
        ]
        for isolation, workers, count in plan:
            with suite(count) as folder:
                self._pytest(
                    folder,
                    f"suite_{isolation.value}_n{workers}",
                    f"file of {count} tests, --isolation={isolation.value}" + (f" -n {workers}" if workers > 1 else ""),
                    f"--isolation={isolation.value}",
                    *(["-n", str(workers)] if workers > 1 else []),
                )

    def _leak_check(self, rounds: int) -> None:
        tests = 40
        with (
            suite(tests) as plain,
            suite(tests, 'pytestmark = pytest.mark.leaks("timed without the leak check")') as bare,
        ):
            for _ in range(rounds):
                self._pytest(plain, "with_ledger", f"file of {tests} tests, --isolation=vm")
                self._pytest(bare, "without_ledger", "the same, each marked with leaks")
                spent = self.figures["with_ledger"].values[-1] - self.figures["without_ledger"].values[-1]
                self.figures.add("ledger", "s", "what the leak check adds to an isolated test", spent / tests)

    def _pytest(self, folder: Path, name: str, what: str, *options: str) -> None:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--kernel={self._choice.label}"]
        # A plugin of a library that only the harness's own tests use, and half a second of imports.
        argv += ["-p", "no:hypothesispytest", *options, str(folder)]
        self.figures.timed(name, what, lambda: _run(argv, _SUITE_TIMEOUT))

    def record(self) -> dict[str, Any]:
        """Return all of it as one JSON object."""
        return {
            "kernel": str(self._spec.kernel.version),
            "accel": str(self._spec.acceleration),
            "cpus": os.cpu_count(),
            **self.figures.record(),
        }


def _processor_time(argv: list[str]) -> float:
    """Return the processor seconds of a program, which has to succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(argv, _SUITE_TIMEOUT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _forked_call(machine: Machine) -> None:
    process = machine.new_process()
    process.ask(calls.Bpf.map_create, "hash", 4, 4, 8)
    process.close()


def _memory(machine: Machine) -> tuple[float, float]:
    """Return the resident and private memory of a machine's QEMU, in MiB."""
    rollup = Path(f"/proc/{machine.process.pid()}/smaps_rollup").read_text()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return fields["Rss"] / 1024, (fields["Private_Clean"] + fields["Private_Dirty"]) / 1024


def _run(argv: list[str], timeout: float, status: int = 0) -> None:
    """Run a program to its end; it has to end with a status."""
    # vng wants a terminal or a pipe for each of its streams.
    env = vng_environment(find_vng())
    # Users have compiled modules: without them, the compiler of Python would be timed, half of a command's time.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = run_program(argv, timeout=timeout, env=env, stdin=b"")
    if done.status != status:
        raise InfrastructureError(
            f"{argv[0]} ended with status {done.status} while it was timed",
            expected=f"status {status}",
            hint=f"run it by hand: {quote(argv)}",
            detail=done.tail(),
        )
