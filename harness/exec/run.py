"""Runs a command on a machine, and says how it ended."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from harness.checks.base import Checks
from harness.checks.kernel_log import KernelLog
from harness.checks.leaks import LeakCheck
from harness.errors import GuestCallError, GuestHung, GuestProcessDied, InfrastructureError, KernelCrashed, UsageError
from harness.exec.formats import PARSERS, SuiteResult
from harness.exec.parcel import Parcel
from harness.guest import calls
from harness.image import script
from harness.remote import transfer
from harness.remote.program import Piece, Streamed, process_for_programs
from harness.results.outcomes import Outcome, Trouble, outcome_of
from harness.vm.death import killed_for_memory
from harness.vm.guest_process import GuestProcess
from harness.vm.machine import Machine

TIMED_OUT = 124
"""The exit status of a program that ran out of time, as timeout(1) has it."""

_LOOK = 0.2
"""Seconds between two looks at this process's input and signals."""

_GRACE = 10.0
"""Seconds for a program to end after it was asked to."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class InputSource(Protocol):
    """Where a program's standard input comes from."""

    def take(self) -> tuple[bytes, bool]:
        """Return what has come since the last call, and whether that is all."""


class Sink(Protocol):
    """Where what a program prints goes.

    Attributes:
        kept: What of it is kept, to read results from.
    """

    kept: bytearray

    def write(self, data: bytes) -> None:
        """Take what the program has printed."""

    def end(self) -> None:
        """Note that the program has ended."""


@dataclass(frozen=True)
class Results:
    """How a program reports its tests.

    Attributes:
        format: One of :data:`harness.exec.formats.PARSERS`.
        path: The file of the guest that it writes; "" for its standard output.
    """

    format: str
    path: str = ""

    def read(self, process: GuestProcess, printed: bytes) -> SuiteResult:
        """Return the tests that it reported.

        Raises:
            UsageError: There is no such file in the guest, or it has another format.
        """
        found = printed
        if self.path:
            try:
                found = transfer.fetch(process, self.path)
            except GuestCallError as error:
                raise UsageError(
                    f"the program wrote no results to {self.path}: {error.what}", expected="a file that it makes"
                ) from None
        return PARSERS[self.format](found.decode(errors="replace"))


@dataclass(frozen=True)
class Wishes:
    """How to run it.

    Attributes:
        env: More variables than PATH, HOME and LANG.
        user: User id; None for root.
        timeout: Seconds; 0 for no limit.
        leaks: Whether kernel objects that it leaves behind count.
        results: How it reports its tests; None where it does not.
        limited_by: What the user calls the time limit.
        memory_by: What gives the guest more memory.
    """

    env: Mapping[str, str]
    user: int | None = None
    timeout: float = 0.0
    leaks: bool = False
    results: Results | None = None
    limited_by: str = "--timeout"
    memory_by: str = "--memory"


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        status: Its exit status, as a shell has it: 128 and the signal's number for a signal.
        said: Why, where it is not the program that says so: a time-out, a crash, leaks, faults of the kernel.
        outcome: The same as records have it.
        suite: The program's own tests, where they were asked for.
        excused: The known faults that the kernel reported, one line each; they do not fail it.
        interrupted: Whether this process got a signal meanwhile, which went to the program.
    """

    status: int
    said: tuple[str, ...] = ()
    outcome: Outcome = Outcome.PASSED
    suite: SuiteResult | None = None
    excused: tuple[str, ...] = ()
    interrupted: bool = False


@dataclass
class _Signals:
    """The signals that this process got for the program."""

    numbers: list[int] = field(default_factory=list)
    taken: int = 0

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.numbers.append(number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.note) for number in _FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def forward(self, program: Streamed) -> None:
        """Give new signals to the program; an interrupt that is repeated ends it."""
        for number in self.numbers[self.taken :]:
            self.taken += 1
            program.send_signal(signal.SIGKILL if number in self.numbers[: self.taken - 1] else number)


def lost(why: str) -> Done:
    """Return the end of a program that could not be run, which says nothing about it."""
    return Done(InfrastructureError.exit_status, (why,), Outcome.INFRASTRUCTURE)


def run_on(
    machine: Machine,
    parcel: Parcel,
    wishes: Wishes,
    source: InputSource,
    out: Sink,
    err: Sink,
    log: KernelLog | None = None,
) -> Done:
    """Run a command on a machine that is used for nothing else.

    Args:
        machine: The machine.
        parcel: The command and its files.
        wishes: How to run it.
        source: Its standard input.
        out: Where its standard output goes.
        err: Where its standard error goes.
        log: The check of the kernel log; by default one that knows no fault.

    Raises:
        UsageError: It cannot be started.
        InfrastructureError: The machine was lost, which says nothing about the program.
        BrokenPipeError: Nobody reads the output any more.
    """
    log = log if log is not None else KernelLog()
    checks = Checks([LeakCheck(Path.cwd(), is_last=True), log] if wishes.leaks else [log])
    checks.begin(machine)
    said: list[str] = []
    troubles: list[Trouble] = []
    status, suite, crashed = 0, None, None
    signals = _Signals()
    try:
        process = process_for_programs(machine)
        send(process, parcel)
        with signals.caught():
            status = execute(process, parcel, wishes, source, out, err, said, forward=signals.forward)
        if wishes.results is not None:
            suite = wishes.results.read(process_for_programs(machine), bytes(out.kept))
    except GuestProcessDied as error:
        status = 1
        said.append(f"{error}\n  perhaps the guest was out of memory: see --memory")
    except GuestHung as error:
        status = 1
        troubles.append(Trouble.HUNG)
        said.append(str(error))
    except KernelCrashed as error:
        status = 1
        troubles.append(Trouble.CRASHED)
        crashed = error
    if suite is not None:
        said += suite.problems
    complaints = checks.end(machine)
    if crashed is not None:
        # The log's report of it says more than the console's last lines.
        said.append(crashed.what if complaints else str(crashed))
    said += [one.text for one in complaints]
    troubles += [one.trouble for one in complaints]
    bad = suite is not None and bool(suite.problems or any(case.outcome.is_bad for case in suite.cases))
    status = status or int(bool(troubles) or bad)
    outcome = outcome_of("failed" if status else "passed", expected=False, troubles=troubles)
    excused = tuple(f"known fault: {fault.title} ({entry.reason})" for fault, entry in log.excused)
    return Done(status, tuple(said), outcome, suite, excused, bool(signals.numbers))


def send(process: GuestProcess, parcel: Parcel) -> None:
    """Send everything that goes along with a command to the guest.

    Raises:
        GuestCallError: It cannot be written there.
    """
    libraries = [one.target for one in parcel.entries if one.is_library]
    missing = set(process.ask(calls.Files.missing, libraries)) if libraries else set()
    transfer.send(
        process,
        ((one.source, one.target) for one in parcel.entries if not one.is_library or one.target in missing),
    )
    for one in process.ask(calls.Files.missing, list(parcel.interpreters)) if parcel.interpreters else ():
        process.ask(calls.Files.put, [(one, "link", 0o777, script.PYTHON.encode())])
    process.ask(calls.Files.make_folder, path=parcel.cwd)


def execute(
    process: GuestProcess,
    parcel: Parcel,
    wishes: Wishes,
    source: InputSource,
    out: Sink,
    err: Sink,
    said: list[str],
    *,
    forward: Callable[[Streamed], None] | None = None,
) -> int:
    """Run a command whose files are in the guest to its end; return its exit status.

    Args:
        process: The guest process that runs it.
        parcel: The command.
        wishes: How to run it.
        source: Its standard input.
        out: Where its standard output goes.
        err: Where its standard error goes.
        said: Gets a line where it was ended for its time-out, or the kernel killed a process for want of memory.
        forward: Called again and again while it runs, to send it signals.

    Raises:
        UsageError: It cannot be started.
    """
    began = time.monotonic()
    program = Streamed(process, parcel.argv, wishes.env, parcel.cwd, wishes.user)
    piece = Piece(b"", b"", 0, None)
    asked_at = 0.0
    while piece.returncode is None:
        data, is_last = source.take() if not piece.pending else (b"", False)
        piece = program.exchange(data, _LOOK, is_last=is_last)
        out.write(piece.stdout)
        err.write(piece.stderr)
        if piece.returncode is not None:
            break
        if forward is not None:
            forward(program)
        now = time.monotonic()
        if asked_at and now - asked_at > _GRACE:
            program.send_signal(signal.SIGKILL)
        elif wishes.timeout and not asked_at and now - began > wishes.timeout:
            asked_at = now
            said.append(f"{parcel.argv[0]} was ended after {wishes.timeout:g} s ({wishes.limited_by})")
            program.send_signal(signal.SIGTERM)
    out.end()
    err.end()
    if asked_at:
        return TIMED_OUT
    killed = killed_for_memory(process.machine.process.console()) if piece.returncode else ""
    if killed:
        size = process.machine.spec.needs.memory
        said.append(
            f"the guest had no memory left, so the kernel killed {killed}: it has {size} MiB, see {wishes.memory_by}"
        )
    return piece.returncode if piece.returncode >= 0 else 128 - piece.returncode


def parse_results(text: str) -> Results:
    """Read the argument of --results: FORMAT or FORMAT=PATH.

    Raises:
        UsageError: The format is unknown, or the path is not absolute.
    """
    name, _, path = text.partition("=")
    if name not in PARSERS:
        raise UsageError(f"--results {text}: {name!r} is not a format", expected=f"one of {', '.join(PARSERS)}")
    if path and not path.startswith("/"):
        raise UsageError(f"--results {text}: {path!r} is not a place in the guest", expected="an absolute path")
    return Results(name, path)


def parse_env(words: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Read the arguments of --env: NAME=VALUE, or the pattern of names whose values this process has.

    Raises:
        UsageError: It names no variable.
    """
    import fnmatch

    found: dict[str, str] = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if not name:
            raise UsageError(
                f"--env {word!r} names no variable", expected="NAME=VALUE, NAME, or a pattern such as RUST_*"
            )
        if is_given:
            found[name] = value
        else:
            found.update({one: environment[one] for one in environment if fnmatch.fnmatchcase(one, name)})
    return found
