"""Runs one test of a program in a guest, and makes of its report what pytest makes of a test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

import pytest

from harness.exec.formats import PARSERS, Case, SuiteResult
from harness.exec.parcel import Parcel
from harness.exec.run import Results, Wishes, execute, send
from harness.programs.kinds import Listed
from harness.programs.settings import Named
from harness.pytest_plugin.options import PROGRAMS_SETTING
from harness.remote.program import process_for_programs
from harness.results import properties
from harness.results.outcomes import Outcome
from harness.vm.machine import Machine

_KEPT = 16 << 20
"""Bytes of output that are searched for results."""


class Nothing:
    """An empty standard input."""

    def take(self) -> tuple[bytes, bool]:
        """Return that this is all."""
        return b"", True


class Shown:
    """Prints what a program prints where pytest captures it, and keeps it.

    Args:
        stream: Where it is printed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.kept = bytearray()
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Take what the program has printed."""
        self.kept += data[: _KEPT - len(self.kept)]
        self._stream.write(data.decode(errors="backslashreplace"))

    def end(self) -> None:
        """Note that the program has ended."""
        self._stream.flush()


def run_test(machine: Machine, parcel: Parcel, named: Named, test: Listed, item: pytest.Item) -> None:
    """Run one test on a machine, and end as it ended.

    Args:
        machine: The machine.
        parcel: The program and its files.
        named: How to run it.
        test: Which test.
        item: The test as pytest has it, which gets its subtests.

    Raises:
        pytest.fail.Exception: It failed, or the program did not report it.
        pytest.skip.Exception: The program skipped it.
        HarnessError: The machine was lost, the kernel crashed.
    """
    __tracebackhide__ = True
    kind = named.kind
    command = replace(parcel, argv=(parcel.argv[0], *kind.select(test.name), *parcel.argv[1:]))
    wishes = Wishes(
        named.env,
        timeout=named.timeout,
        results=Results(kind.results) if kind.results else None,
        limited_by=f"timeout= in {PROGRAMS_SETTING}",
        memory_by=f"memory= in {PROGRAMS_SETTING}",
    )
    said: list[str] = []
    out, err = Shown(sys.stdout), Shown(sys.stderr)
    process = process_for_programs(machine)
    send(process, command)
    status = execute(process, command, wishes, Nothing(), out, err, said)
    suite = PARSERS[kind.results](out.kept.decode(errors="replace")) if kind.results else SuiteResult(())
    verdict = judge(suite, test, status, said, listed=bool(kind.list_words))
    item.user_properties += [(properties.PART, part) for part in verdict.parts]
    if verdict.outcome is Outcome.UNSUPPORTED:
        pytest.skip(verdict.reason)
    if verdict.outcome is Outcome.XFAILED:
        pytest.xfail(verdict.reason)
    if verdict.outcome is not Outcome.PASSED:
        pytest.fail(verdict.reason, pytrace=False)


class ProgramVerdict:
    """How a test ended.

    Attributes:
        outcome: PASSED, FAILED, UNSUPPORTED or XFAILED.
        reason: Why, its first line above all; "" for a test that passed.
        parts: Its subtests.
    """

    def __init__(self, outcome: Outcome, reason: str, parts: Sequence[Case]) -> None:
        self.outcome = outcome
        self.reason = reason
        self.parts = [_part(case) for case in parts]


def judge(suite: SuiteResult, test: Listed, status: int, said: Sequence[str], *, listed: bool) -> ProgramVerdict:
    """Return how a test ended.

    Args:
        suite: What the program reported.
        test: The test.
        status: The program's exit status.
        said: Why it was ended, if it was.
        listed: Whether the program has a name for the test; else all that it reports is one test.
    """
    if listed:
        case = next((one for one in suite.cases if one.name == test.name), None)
        parts = [one for one in suite.cases if one.name.startswith(f"{test.name}/")]
    else:
        case, parts = None, list(suite.cases)
    bad = [one for one in parts if one.outcome.is_bad]
    problems = [*said, *suite.problems]
    if case is not None and case.outcome.is_bad:
        problems += [case.reason] if case.reason else [] if bad else ["failed"]
    if (status and not (problems or bad)) or status >= 128:
        problems.append(f"the program ended with exit status {status}")
    if listed and case is None:
        problems.append(f"the program did not report {test.name}")
    problems += [f"{one.name}: {one.reason or 'failed'}" for one in bad]
    if problems:
        return ProgramVerdict(Outcome.FAILED, "\n".join(problems), parts)
    if case is not None:
        return ProgramVerdict(case.outcome, case.reason or case.outcome.shown, parts)
    outcomes = {one.outcome for one in parts}
    for outcome in (Outcome.UNSUPPORTED, Outcome.XFAILED):
        if outcomes == {outcome}:
            return ProgramVerdict(outcome, parts[0].reason or outcome.shown, parts)
    return ProgramVerdict(Outcome.PASSED, "", parts)


def _part(case: Case) -> properties.Part:
    failure = case.output or case.reason if case.outcome is Outcome.FAILED else ""
    return {
        "name": case.name,
        "outcome": case.outcome.value,
        "seconds": case.seconds,
        "reason": case.reason,
        "failure": failure,
    }
