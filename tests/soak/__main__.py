"""Runs a soak; see scripts/soak."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.util import cache
from harness.util.proc import die_with_parent
from harness.vm.process import pids_of_qemu

SETTLED = 100
"""Tests after which memory and descriptors must no longer grow."""

GROWTH = 1.1
"""How many times as much they may become, without what pytest itself keeps of each test."""

_PLAIN = 2000
"""Tests without a kernel that show what pytest keeps."""

_STALLED = 900.0
"""Seconds without an ended test, after which pytest is killed and started again."""

_POLL = 0.5


@dataclass
class Part:
    """One kernel with one isolation, and what was seen.

    Attributes:
        kernel: The kernel's selector.
        isolation: "vm" for tests on clones, "boot" for a boot each, "none" for tests that use no kernel.
        wanted: Tests to run.
        done: Tests that have ended.
        failures: Tests that did not pass, by kind.
        restarts: Why pytest had to be started again.
        rss: KiB of memory: when it had settled, and the most after that.
        descriptors: Likewise.
        seconds: How long it took.
        kept: KiB that pytest itself keeps of each test.
    """

    kernel: str
    isolation: str
    wanted: int
    done: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    restarts: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=lambda: [0, 0])
    descriptors: list[int] = field(default_factory=lambda: [0, 0])
    seconds: float = 0.0
    kept: float = 0.0

    @property
    def grew(self) -> bool:
        """Whether the process grew after it had settled."""
        kept = self.kept * max(self.done - SETTLED, 0)
        return any(
            most > settled * GROWTH + by_pytest
            for (settled, most), by_pytest in ((self.rss, kept), (self.descriptors, 0.0))
        )

    @property
    def growth(self) -> float:
        """KiB of memory that each test took for good, after the process had settled."""
        return (self.rss[1] - self.rss[0]) / max(self.done - SETTLED, 1)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and nothing grew."""
        return self.done == self.wanted and not self.failures and not self.restarts and not self.grew


class Soak:
    """All parts, one after the other.

    Args:
        parts: The parts.
        every: Seconds between two lines.
    """

    def __init__(self, parts: list[Part], every: float) -> None:
        self.parts = parts
        self._every = every
        self._said = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="soak-"))

    def run(self) -> None:
        """Run every part to its end; the first, without a kernel, shows what pytest itself keeps."""
        try:
            for part in self.parts:
                part.kept = self.parts[0].growth if self.parts[0].isolation == "none" else 0.0
                self._run_part(part)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run_part(self, part: Part) -> None:
        began = time.monotonic()
        turn, idle = 0, 0
        while turn < part.wanted and idle < 3:
            reached = self._run_pytest(part, turn)
            idle = idle + 1 if reached == turn else 0
            turn = reached
            if turn < part.wanted:
                turn += 1  # the test during which it ended
        part.seconds = time.monotonic() - began
        self._say(part)

    def _run_pytest(self, part: Part, first: int) -> int:
        """Run pytest from a turn on; return the first turn that has not ended."""
        lines = self._folder / f"{part.kernel.replace('/', '_')}-{part.isolation}-{first}"
        output = lines.with_suffix(".out")
        kernel = [f"--kernel={part.kernel}", f"--isolation={part.isolation}", "tests/soak/cases.py"]
        argv = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.soak.plugin"),
            *(kernel if part.isolation != "none" else ["-p", "no:harness", "tests/soak/plain.py"]),
            *(f"--soak-turns={first}:{part.wanted}", f"--soak-lines={lines}"),
        ]
        lines.touch()
        turn, at, moved = first, 0, time.monotonic()
        with (
            output.open("wb") as out,
            subprocess.Popen(argv, stdout=out, stderr=out, preexec_fn=die_with_parent) as process,
            _ended_with(process),
        ):
            while True:
                ended = process.poll() is not None
                content = lines.read_bytes()
                for line in content[at:].splitlines(keepends=True):
                    if line.endswith(b"\n"):
                        at += len(line)
                        turn = self._note(part, json.loads(line)) + 1
                        moved = time.monotonic()
                if ended:
                    break
                if time.monotonic() - moved > _STALLED:
                    process.kill()
                if time.monotonic() - self._said > self._every:
                    self._say(part)
                time.sleep(_POLL)
        if turn < part.wanted:
            tail = output.read_text(errors="replace").strip().splitlines()[-1:]
            part.restarts.append(f"status {process.returncode} at turn {turn}: {' '.join(tail)}")
        return turn

    def _note(self, part: Part, line: dict[str, int | list[str]]) -> int:
        part.done += 1
        kinds = line["kinds"]
        assert isinstance(kinds, list)
        part.failures.update(set(kinds))
        settled = min(SETTLED, part.wanted // 2)
        for name, seen in (("rss", part.rss), ("descriptors", part.descriptors)):
            value = line[name]
            assert isinstance(value, int)
            if part.done <= max(settled, 1):
                seen[0] = max(seen[0], value)
            seen[1] = max(seen[1], value)
        turn = line["turn"]
        assert isinstance(turn, int)
        return turn

    def _say(self, part: Part) -> None:
        self._said = time.monotonic()
        failures = ", ".join(f"{count} {kind}" for kind, count in part.failures.items()) or "none failed"
        disk = shutil.disk_usage(cache.runs_root())
        print(
            f"{time.strftime('%H:%M:%S')} {part.kernel} {part.isolation}: {part.done} of {part.wanted}; {failures}; "
            f"{len(part.restarts)} restarts; RSS {part.rss[0] >> 10} to {part.rss[1] >> 10} MiB, "
            f"descriptors {part.descriptors[0]} to {part.descriptors[1]}; disk {disk.free >> 20} MiB free",
            flush=True,
        )


@contextmanager
def _ended_with(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ask pytest to end when the soak is interrupted."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def left() -> dict[str, int]:
    """Return what machines of ended runs have left: folders, and QEMUs that still run."""
    folders = cache.abandoned_runs()
    return {"run folders": len(folders), "QEMUs": sum(len(pids_of_qemu(folder)) for folder in folders)}


def table(parts: list[Part]) -> list[str]:
    """Return the report as a table in Markdown."""
    heads = "kernel", "isolation", "tests", "failed", "restarts", "RSS (MiB)", "KiB a test", "descriptors", "s", ""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for part in parts:
        failed = ", ".join(f"{count} {kind}" for kind, count in part.failures.items()) or "0"
        rss, descriptors = part.rss, part.descriptors
        lines.append(
            f"| {part.kernel} | {part.isolation} | {part.done} of {part.wanted} | {failed} | {len(part.restarts)} | "
            f"{rss[0] >> 10} → {rss[1] >> 10} | {part.growth:.2f} | {descriptors[0]} → {descriptors[1]} | "
            f"{part.seconds:.0f} | {'good' if part.is_good else 'NOT GOOD'} |"
        )
        lines += [f"\n{why}" for why in part.restarts]
    return lines


def main() -> int:
    """Run a soak; return 1 when something was lost, grew or was left."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--tests", type=int, default=10_000, metavar="N", help="isolated tests, shared by the kernels")
    parser.add_argument("--boots", type=int, default=200, metavar="N", help="tests on a boot of their own, likewise")
    parser.add_argument("--kernel", "--kernels", action="append", metavar="SEL", help="default: 6.1; repeat it")
    parser.add_argument("--every", type=float, default=300.0, metavar="SECONDS", help="between two lines; 300")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was seen as JSON")
    arguments = parser.parse_args()
    kernels = arguments.kernel or ["6.1"]
    parts = [Part("none", "none", _PLAIN)]
    parts += [
        Part(kernel, isolation, count // len(kernels))
        for isolation, count in (("vm", arguments.tests), ("boot", arguments.boots))
        for kernel in kernels
        if count // len(kernels)
    ]
    # A shell starts what runs in the background with interrupts ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # Run folders of its own, so that what is left there was left by these tests.
    with tempfile.TemporaryDirectory(prefix="soak-runs-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        try:
            Soak(parts, arguments.every).run()
        except KeyboardInterrupt:
            print("interrupted; what was seen so far:")
        remains = left()
    print("\n".join([*table(parts), "", f"left: {', '.join(f'{count} {name}' for name, count in remains.items())}"]))
    if arguments.report is not None:
        found = {"parts": [vars(part) for part in parts], "left": remains}
        arguments.report.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(part.is_good for part in parts) and not any(remains.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
