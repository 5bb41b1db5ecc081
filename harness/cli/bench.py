"""`harness bench`: what a pristine kernel costs, here and through plain vng, side by side in one run.

Every figure is taken in turn, round after round, so that a machine that slows down slows all of them; quote the
ratios. Whole processes are timed from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import kernel as kernels
from harness.errors import InfrastructureError
from harness.guest import calls
from harness.kernel.types import Choice
from harness.machines.pool import Isolation, Pool, Settings
from harness.util import cache
from harness.util.proc import quote
from harness.util.proc import run as run_program
from harness.vm import template
from harness.vm.machine import Machine
from harness.vm.process import find_vng, require_udev, vng_environment
from harness.vm.spec import Accel

BARS = {
    "clone_ready": 0.080,
    "isolated_test": 0.250,
    "forked_call": 0.025,
    "clone_rss": 90.0,
    "cold_boot": 3.5,
    "warm_pytest": 1.2,
    "ledger": 0.030,
}
"""What the project wants to stay below, in the figure's unit."""

_VNG_TIMEOUT = 300.0
_SUITE_TIMEOUT = 1800.0


@dataclass
class Figure:
    """One thing that is measured.

    Attributes:
        name: Its name, stable.
        unit: "s" or "MiB".
        what: What it is, for the table.
        values: One a round.
    """

    name: str
    unit: str
    what: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of its values."""
        return statistics.median(self.values)

    def record(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 6),
            "min": round(min(self.values), 6),
            "max": round(max(self.values), 6),
            "n": len(self.values),
        }


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("bench", help="time boots, clones, calls and whole runs, side by side")
    parser.add_argument("--kernel", default="6.1", metavar="SELECTOR", help="kernel to run (default: 6.1)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter runs: ends within 60 s warm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and ratios there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    require_udev()
    bench = Bench(arguments.kernel, quick=arguments.quick)
    bench.measure()
    bench.show()
    if arguments.json is not None:
        with cache.new_file(arguments.json.absolute()) as temporary:
            temporary.write_text(json.dumps(bench.record(), indent=1) + "\n")
    return 0


class Bench:
    """One run of the benchmark.

    Args:
        selector: The kernel.
        quick: Whether to take few rounds.
    """

    def __init__(self, selector: str, *, quick: bool) -> None:
        self.quick = quick
        self.figures: dict[str, Figure] = {}
        self.choice = _one(selector)
        self.generic = _one(f"{selector}:generic")
        self.pool = Pool(Settings(), _say)
        self.spec = self.pool.prepare(self.choice)

    def measure(self) -> None:
        """Take every figure, round after round."""
        _say(f"kernel {self.spec.kernel.version}, {self.spec.acceleration}; load {os.getloadavg()[0]:.1f}")
        try:
            for _ in range(1 if self.quick else 3):
                self._plain_vng()
                self._boot_and_save()
                self._clones(10 if self.quick else 20)
                self._forks(10 if self.quick else 20)
                self._warm_run()
            self._suites()
            if not self.quick:
                self._ledger(5)
        finally:
            self.pool.close()

    def _add(self, name: str, unit: str, what: str, value: float) -> None:
        self.figures.setdefault(name, Figure(name, unit, what)).values.append(value)

    def _timed(self, name: str, what: str, action: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = action()
        self._add(name, "s", what, time.perf_counter() - started)
        return result

    def _plain_vng(self) -> None:
        image = kernels.acquire(self.generic, progress=_say).bzimage
        argv = [str(find_vng()), "-r", str(image)]
        if self.spec.accel is Accel.TCG:
            argv.append("--disable-kvm")  # it hangs for ever where KVM opens and runs nothing
        self._timed(
            "vng_pristine",
            f"vng -r {self.generic.version} (generic) -- true",
            lambda: _run([*argv, "--", "true"], _VNG_TIMEOUT),
        )

    def _boot_and_save(self) -> None:
        with tempfile.TemporaryDirectory(dir=cache.cache_root()) as folder:
            steps = template.make(Path(folder) / "template", self.spec, boot_timeout=120)
        self._add("cold_boot", "s", "process start to agent ready, through vng", steps.boot_seconds)
        self._add("template_save", "s", "agent ready to template on disk", steps.save_seconds)

    def _clones(self, rounds: int) -> None:
        for _ in range(rounds):
            started = time.perf_counter()
            machine = self._timed(
                "clone_ready", "QEMU start to the clone's first answer", lambda: self.pool.take(self.spec)
            )
            process = machine.new_process()
            process.ask(calls.Bpf.map_create, "hash", 4, 4, 8)
            process.ask(calls.Bpf.ids, kind="map")
            resident, private = _memory(machine)
            self.pool.give_back(self.spec, machine)
            self._add(
                "isolated_test",
                "s",
                "clone, first call, census of map ids, teardown",
                time.perf_counter() - started,
            )
            self._add("clone_rss", "MiB", "resident memory of a clone", resident)
            self._add("clone_private", "MiB", "of that, not shared with other clones", private)

    def _forks(self, rounds: int) -> None:
        shared = Pool(Settings(isolation=Isolation.FORK), _say)
        try:
            machine = shared.take(self.spec)
            kept = machine.new_process()
            for _ in range(rounds):
                self._timed("forked_call", "call in a freshly forked guest process", lambda: _forked_call(machine))
                self._timed(
                    "simple_call", "call in a guest process that is there", lambda: kept.ask(calls.Process.close)
                )
        finally:
            shared.close()

    def _warm_run(self) -> None:
        with _suite(1) as folder:
            self._pytest(folder, "warm_pytest", "pytest -k one_test, warm", "-k", "one_test")

    def _suites(self) -> None:
        tests = 20 if self.quick else 100
        booted = 2 if self.quick else 20
        plan = [
            (isolation, workers, booted if isolation is Isolation.BOOT else tests)
            for isolation in Isolation
            for workers in (1, 2)
            if not (self.quick and isolation is Isolation.BOOT and workers == 2)
        ]
        for isolation, workers, count in plan:
            with _suite(count) as folder:
                self._pytest(
                    folder,
                    f"suite_{isolation.value}_n{workers}",
                    f"file of {count} tests, --isolation={isolation.value}" + (f" -n {workers}" if workers > 1 else ""),
                    f"--isolation={isolation.value}",
                    *(["-n", str(workers)] if workers > 1 else []),
                )

    def _ledger(self, rounds: int) -> None:
        tests = 40
        with (
            _suite(tests) as plain,
            _suite(tests, 'pytestmark = pytest.mark.leaks("timed without the ledger")') as bare,
        ):
            for _ in range(rounds):
                self._pytest(plain, "with_ledger", f"file of {tests} tests, --isolation=vm")
                self._pytest(bare, "without_ledger", "the same, each marked with leaks")
                spent = self.figures["with_ledger"].values[-1] - self.figures["without_ledger"].values[-1]
                self._add("ledger", "s", "what the leak check adds to an isolated test", spent / tests)

    def _pytest(self, folder: Path, name: str, what: str, *options: str) -> None:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--kernel={self.choice.label}"]
        # A plugin of a library that only the harness's own tests use, and half a second of imports.
        argv += ["-p", "no:hypothesispytest", *options, str(folder)]
        self._timed(name, what, lambda: _run(argv, _SUITE_TIMEOUT))

    def ratios(self) -> dict[str, float]:
        """Return the comparisons that matter, larger is better."""
        figures = {name: figure.median for name, figure in self.figures.items()}
        vng = figures["vng_pristine"]
        return {
            "vng_pristine / clone_ready": vng / figures["clone_ready"],
            "vng_pristine / isolated_test": vng / figures["isolated_test"],
            "vng_pristine / cold_boot": vng / figures["cold_boot"],
            "cold_boot / clone_ready": figures["cold_boot"] / figures["clone_ready"],
        }

    def record(self) -> dict[str, Any]:
        """Return the figures and ratios as one JSON object."""
        return {
            "kernel": str(self.spec.kernel.version),
            "accel": str(self.spec.acceleration),
            "cpus": os.cpu_count(),
            "figures": [figure.record() for figure in self.figures.values()],
            "ratios": [{"name": name, "value": round(value, 2)} for name, value in self.ratios().items()],
        }

    def show(self) -> None:
        """Print the figures and ratios as tables."""
        from rich.console import Console
        from rich.table import Table

        console = Console()
        if not console.is_terminal:
            console.width = 140  # a file has no edge to wrap at
        table = Table("figure", "median", "min", "max", "n", "bar", "what")
        for figure in self.figures.values():
            cells = [_shown(value, figure.unit) for value in (figure.median, min(figure.values), max(figure.values))]
            bar = BARS.get(figure.name)
            met = (
                "" if bar is None else f"{'met' if figure.median <= bar else 'NOT MET'} (≤ {_shown(bar, figure.unit)})"
            )
            table.add_row(figure.name, *cells, str(len(figure.values)), met, figure.what)
        console.print(table)
        table = Table("ratio of medians", "")
        for name, value in self.ratios().items():
            table.add_row(name, f"{value:.1f} times")
        console.print(table)


_TEST_FILE = """
import pytest

{mark}

def test_one_test(bpf):
    assert bpf.map("hash", key_size=4, value_size=4, max_entries=8).fd > 2

@pytest.mark.parametrize("number", range({count}))
def test_many(bpf, number):
    inner = bpf.map("hash", key_size=4, value_size=4, max_entries=8)
    outer = bpf.map("hash_of_maps", max_entries=4, inner=inner)
    outer[number] = inner
    assert outer.lookup(number) == inner.id
"""


class _suite:  # noqa: N801 - used like a function
    """A folder with a file of `count` tests, all with a mark or none, for the time of a with statement."""

    def __init__(self, count: int, mark: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="harness-bench-")
        (Path(self._folder.name) / "test_bench.py").write_text(_TEST_FILE.format(count=count - 1, mark=mark))

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _one(selector: str) -> Choice:
    choices = kernels.resolve([selector], progress=_say)
    if len(choices) != 1:
        raise InfrastructureError(
            f"{selector} names {len(choices)} kernels", expected="one kernel", hint="name a series, such as 6.1"
        )
    return choices[0]


def _forked_call(machine: Machine) -> None:
    process = machine.new_process()
    process.ask(calls.Bpf.map_create, "hash", 4, 4, 8)
    process.close()


def _memory(machine: Machine) -> tuple[float, float]:
    """Return the resident and private memory of a machine's QEMU, in MiB."""
    rollup = Path(f"/proc/{machine.process.pid()}/smaps_rollup").read_text()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return fields["Rss"] / 1024, (fields["Private_Clean"] + fields["Private_Dirty"]) / 1024


def _run(argv: list[str], timeout: float) -> None:
    """Run a program to its end; it has to succeed."""
    # vng wants a terminal or a pipe for each of its streams.
    done = run_program(argv, timeout=timeout, env=vng_environment(find_vng()), stdin=b"")
    if done.status != 0:
        raise InfrastructureError(
            f"{argv[0]} ended with status {done.status} while it was timed",
            expected="status 0",
            hint=f"run it by hand: {quote(argv)}",
            detail=done.tail(),
        )


def _shown(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if unit == "s" else f"{value:.1f} {unit}"


def _say(line: str) -> None:
    print(f"harness: {line}", file=sys.stderr)
