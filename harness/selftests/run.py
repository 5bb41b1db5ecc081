"""Runs selftests on kernels, each on a clone of its own, and makes of each end what kselftest means by it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.checks.kernel_log import KernelLog
from harness.checks.known_faults import KnownFault
from harness.errors import InfrastructureError, KernelFileError, UsageError
from harness.exec.kernels import is_for
from harness.exec.parcel import Parcel, pack, parse_push
from harness.exec.record import ExecRecord
from harness.exec.run import Done, Results, Wishes, lost, run_on
from harness.kernel.catalog import policy
from harness.kernel.types import Choice, Kernel
from harness.machines.pool import Pool
from harness.remote import transfer
from harness.results.outcomes import Outcome, counted
from harness.selftests.against import lacking
from harness.selftests.build import Selftest
from harness.selftests.denied import Denied, denied
from harness.vm.spec import MachineSpec, Needs

_KEPT = 16 << 20
_SHOWN = 15

_SKIP = 4
"""KSFT_SKIP of kselftest.h. As upstream's runner has it, any other status but 0 is a failure, KSFT_XFAIL (2) too: with
that scripts end whose ip(8) or grep(1) fails."""

EMULATED = 6
"""How many times longer a test may take than upstream allows it: most machines have no KVM."""

_LONGEST = 1800.0
"""Seconds for a test of a target that sets no limit."""


@dataclass(frozen=True)
class SelftestPlan:
    """How to run selftests.

    Attributes:
        tests: The tests, by the name of the architecture that they were built for.
        denied: Those that are not run.
        needs: The machines.
        arguments: What each test is started with.
        timeout: Seconds for a test; 0 for :data:`EMULATED` times the target's own limit.
        leaks: Whether kernel objects that a test leaves behind count.
        known_faults: Faults of the kernel that do not fail a test.
    """

    tests: Mapping[str, Sequence[Selftest]]
    denied: Sequence[Denied]
    needs: Needs
    arguments: Sequence[str] = ()
    timeout: float = 0.0
    leaks: bool = False
    known_faults: Sequence[KnownFault] = ()


class _Nothing:
    def take(self) -> tuple[bytes, bool]:
        return b"", True


class _Kept:
    """Keeps what a test prints."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def write(self, data: bytes) -> None:
        self.kept += data[: _KEPT - len(self.kept)]

    def end(self) -> None:
        pass


def run_selftests(
    plan: SelftestPlan,
    choices: Sequence[Choice],
    *,
    pool: Pool,
    say: Callable[[str], None],
    record: ExecRecord | None,
) -> int:
    """Run tests on kernels; print a line for each, and why one failed.

    Args:
        plan: The tests.
        choices: The kernels.
        pool: Where their machines come from.
        say: Prints a line.
        record: The run record to write.

    Returns:
        The exit status: 0, 1 when a test failed, 3 when one could not be run.

    Raises:
        KeyboardInterrupt: A signal came while a test ran, which got it first.
    """
    dones: list[Done] = []
    for choice in choices:
        runner = Runner(plan, choice, pool, say, record)
        for test in plan.tests[choice.architecture]:
            runner.run(test)
        dones += runner.dones
        say(f"{choice.label}  {counted(done.outcome for done in runner.dones)}")
    status = status_of(dones)
    if record is not None:
        record.finish(status)
    return status


class Runner:
    """Runs tests on one kernel.

    Attributes:
        dones: How each ended.
        plan: The tests.
    """

    def __init__(
        self, plan: SelftestPlan, choice: Choice, pool: Pool, say: Callable[[str], None], record: ExecRecord | None
    ) -> None:
        self.dones: list[Done] = []
        self.plan = plan
        self._choice = choice
        self._pool = pool
        self._say = say
        self._record = record
        self._is_for = functools.partial(is_for, choice, policy())
        self._width = max(len(test.name) for tests in plan.tests.values() for test in tests)
        self._is_recorded = False

    def run(self, test: Selftest) -> None:
        """Run one test."""
        began = time.monotonic()
        entry = denied(self.plan.denied, test.name, self._is_for)
        if entry is not None:
            done = Done(0, (f"denied until {entry.expires}: {entry.reason}",), Outcome.UNSUPPORTED)
        elif test.path is None:
            done = lost(f"not built\n{test.why}".strip())
        else:
            done = self._run(test, test.path)
        seconds = time.monotonic() - began
        self.dones.append(done)
        if done.interrupted:
            raise KeyboardInterrupt
        label = self._choice.label
        line = f"{label}  {test.name:{self._width}}  {done.outcome.shown:10} {seconds:6.1f} s{_counts(done)}"
        self._say("\n    ".join([line, *(one for text in (*done.excused, *done.said) for one in text.splitlines())]))
        if self._record is not None:
            if not self._is_recorded:
                self._record.add_choice(self._choice, None, "")
            self._is_recorded = True
            self._record.add(label, test.name, done, seconds)

    def _run(self, test: Selftest, path: Path) -> Done:
        limit = self.plan.timeout or test.timeout * EMULATED or _LONGEST
        wishes = Wishes({}, None, limit, self.plan.leaks, Results("bpf" if test.target == "bpf" else "tap"))
        out, err = _Kept(), _Kept()
        try:
            spec = self._pool.prepare(self._choice, self.plan.needs)
            parcel = _pack(test, path, self.plan.arguments, spec)
            machine = self._pool.take(spec)
            try:
                if self._record is not None and not self._is_recorded:
                    self._record.add_choice(self._choice, spec, machine.release)
                    self._is_recorded = True
                transfer.push_configuration(machine.new_process())
                log = KernelLog((), self.plan.known_faults, self._is_for)
                done = run_on(machine, parcel, wishes, _Nothing(), out, err, log)
            finally:
                self._pool.give_back(spec, machine)
        except (InfrastructureError, KernelFileError, UsageError) as error:
            # The other tests have something to say all the same, also where this one lacks an interpreter.
            return lost(str(error))
        return judged(done, (out.kept + err.kept).decode(errors="replace"), doubts(test, spec.kernel, machine.release))


def doubts(test: Selftest, kernel: Kernel, release: str) -> list[str]:
    """Return what a failure of a test may be of, besides the kernel's behaviour.

    Args:
        test: The test.
        kernel: The kernel that it ran on.
        release: What `uname -r` prints on it.
    """
    found = []
    if test.modules_for not in ("", release):
        found.append(f"the tests' modules were built for {test.modules_for}; {release} does not load them")
    settings = kernel.settings
    if settings is not None:
        lacks = lacking(test.options, settings)
        modules = [f"CONFIG_{name}" for name in test.options if settings.get(name) == "m"]
        if lacks:
            found.append(f"the kernel was built without what the tests' file `config` asks for: {', '.join(lacks)}")
        if modules:
            more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
            names = ", ".join(modules[:_SHOWN]) + more
            found.append(f"of what the file `config` asks for, the kernel has as modules, for --module NAME: {names}")
    return found


def judged(done: Done, printed: str, doubts: Sequence[str] = ()) -> Done:
    """Return how a test ended, by the exit statuses of kselftest; a failure has its failed subtests or its last lines.

    Args:
        done: How the program ended.
        printed: What it printed.
        doubts: What a failure may be of, besides the kernel's behaviour.
    """
    last = [line for line in printed.splitlines() if line.strip()][-_SHOWN:]
    if done.outcome is Outcome.FAILED and not done.said and done.status == _SKIP:
        return replace(done, status=0, outcome=Outcome.UNSUPPORTED, said=tuple(last[-1:]))
    if done.outcome.is_bad:
        ended = () if done.said else (f"exit status {done.status}",)
        about = doubts if done.outcome is Outcome.FAILED else ()
        return replace(done, said=(*done.said, *ended, *(_failed(done) or last), *about))
    if done.outcome is Outcome.PASSED and done.suite is not None and done.suite.cases:
        outcomes = {case.outcome for case in done.suite.cases}
        if outcomes == {Outcome.UNSUPPORTED}:
            return replace(done, outcome=Outcome.UNSUPPORTED, said=(done.suite.cases[0].reason,))
    return done


def _failed(done: Done) -> list[str]:
    """Return the first subtests that failed, and how many more did."""
    cases = done.suite.cases if done.suite is not None else ()
    bad = [f"{case.name}: {case.reason}".rstrip(": ") for case in cases if case.outcome.is_bad]
    return bad[:_SHOWN] + ([f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else [])


def status_of(dones: Sequence[Done]) -> int:
    """Return the exit status for all tests: 3 when one could not be run, 1 when one failed."""
    if any(done.outcome is Outcome.INFRASTRUCTURE for done in dones):
        return InfrastructureError.exit_status
    return int(any(done.outcome.is_bad for done in dones))


def _pack(test: Selftest, path: Path, arguments: Sequence[str], spec: MachineSpec) -> Parcel:
    folder = path.parent
    top = folder.parents[test.target.count("/")]
    return pack(
        [f"./{path.name}", *arguments],
        # Pushed, because all of it goes along: a working folder that is too large stays behind.
        [parse_push(str(one)) for one in sorted(top.iterdir())],
        cwd=folder,
        folder_limit=0,
        memory=spec.needs.memory,
        wanted=spec.architecture,
        userland=spec.image.userland,
        rootfs=spec.rootfs,
    )


def _counts(done: Done) -> str:
    cases = done.suite.cases if done.suite is not None else ()
    return f"  {counted(case.outcome for case in cases)}" if cases else ""
