"""Combines the reports of tests' phases into the results of a run record.

Pure: plain data in, records out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from harness.results import properties
from harness.results.ids import kernel_of, without_kernel
from harness.results.outcomes import Outcome, Trouble, outcome_of, worst
from harness.results.types import Fault, Leak, Observation, RecordedResult

T = TypeVar("T")

FAILURE_LIMIT = 8192
"""Longest text of a failure, in characters; the output, which also has QEMU's command, may be twice as long."""


@dataclass(frozen=True)
class Phase:
    """The report of one phase of a test.

    Attributes:
        nodeid: pytest's id of the test.
        when: "setup", "call" or "teardown"; anything else when its process ended.
        outcome: "passed", "failed" or "skipped"; any other is an attempt that does not count.
        is_part: Whether it is the report of a subtest, whose time is in that of the test.
        expected: Whether its failure was expected (xfail).
        seconds: Its duration.
        reason: One line: why it was skipped or failed.
        text: The failure's text.
        sections: Output: captions and texts.
        properties: Names and plain values.
    """

    nodeid: str
    when: str
    outcome: str
    expected: bool = False
    is_part: bool = False
    seconds: float = 0.0
    reason: str = ""
    text: str = ""
    sections: Sequence[tuple[str, str]] = ()
    properties: Sequence[tuple[str, object]] = ()


def shortened(text: str, limit: int = FAILURE_LIMIT) -> str:
    """Return a text of at most `limit` characters plus a line; its middle is omitted.

    The end of a failure says what failed, the start where it began.
    """
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 4], text[-(limit - limit // 4) :]
    return f"{head}\n[... {len(text) - limit} characters omitted ...]\n{tail}"


def plain(value: Any) -> Any:
    """Return a value that JSON can represent: text without lone surrogates, integers of at most 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {plain(str(name)): plain(one) for name, one in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    return plain(repr(value))


def parts(whole: RecordedResult, known: Sequence[tuple[str, object]]) -> list[RecordedResult]:
    """Return results for the subtests that a foreign program reported of a test.

    Args:
        whole: The test's result.
        known: The properties of its last report.
    """
    place = whole.test.rpartition("::")[0]
    return [
        RecordedResult(
            test=plain(f"{place}::{part['name']}"),
            kernel=whole.kernel,
            run=whole.run,
            outcome=Outcome(part["outcome"]),
            call=part["seconds"],
            reason=shortened(plain(part["reason"]), 400),
            failure=shortened(plain(part["failure"])),
        )
        for part in properties.values(known, properties.PART)
    ]


@dataclass
class Gatherer:
    """Collects phases and makes a result when a test has ended.

    Attributes:
        run: Id of the run.
        problems: What could not be understood, one line each.
    """

    run: str
    problems: list[str] = field(default_factory=list)
    _phases: dict[str, list[Phase]] = field(default_factory=dict, init=False)
    _attempts: dict[str, int] = field(default_factory=dict, init=False)
    _void: set[str] = field(default_factory=set, init=False)

    def add(self, phase: Phase, kernels: Sequence[str] = ()) -> RecordedResult | None:
        """Add a phase; return the test's result when it was the last phase and the test ran on a kernel.

        Args:
            phase: The phase.
            kernels: Labels, to find the kernel of a test whose process ended before it reported the kernel.
        """
        if phase.when == "setup":
            self._phases.pop(phase.nodeid, None)
            self._void.discard(phase.nodeid)
            self._attempts[phase.nodeid] = self._attempts.get(phase.nodeid, 0) + 1
        if phase.outcome not in ("passed", "failed", "skipped"):
            self._void.add(phase.nodeid)  # pytest-rerunfailures; some of its versions report a teardown after that
        if phase.nodeid in self._void:
            return None
        phases = self._phases.setdefault(phase.nodeid, [])
        phases.append(phase)
        if phase.when in ("setup", "call"):
            return None
        del self._phases[phase.nodeid]
        return self._result(phases, kernels)

    def _result(self, phases: list[Phase], kernels: Sequence[str]) -> RecordedResult | None:
        last = phases[-1]
        # Later phases repeat the properties of earlier phases, except properties that were added to one report only.
        known: list[tuple[str, Any]] = list(last.properties)
        for phase in phases[:-1]:
            known += [entry for entry in phase.properties if entry not in known]
        lost = last.when not in ("setup", "call", "teardown")
        labels = [str(label) for label in properties.values(known, properties.KERNEL)]
        kernel = labels[0] if labels else kernel_of(last.nodeid, kernels) if lost else None
        if kernel is None:
            return None
        troubles = properties.troubles(known)
        if lost:
            troubles.append(Trouble.INFRASTRUCTURE)
        outcomes = [
            outcome_of(
                phase.outcome,
                expected=phase.expected,
                troubles=troubles if lost and phase is last else properties.troubles(phase.properties),
            )
            for phase in phases
        ]
        bad = [phase for phase in phases if phase.outcome == "failed"]
        telling = bad or [phase for phase in phases if phase.reason]
        machines = properties.values(known, properties.MACHINE)
        machine = machines[-1] if machines and isinstance(machines[-1], dict) else {}
        return RecordedResult(
            test=plain(without_kernel(last.nodeid, kernel)),
            kernel=plain(kernel),
            run=self.run,
            outcome=worst(outcomes),
            nodeid=plain(last.nodeid),
            contract=plain(next((str(name) for name in properties.values(known, properties.CONTRACT)), "")),
            loader=next((str(name) for name in properties.values(known, properties.LOADER)), ""),
            trouble=tuple(trouble.value for trouble in troubles),
            reason=shortened(plain(telling[0].reason), 400) if telling else "",
            setup=self._seconds(phases, "setup"),
            call=self._seconds(phases, "call"),
            teardown=self._seconds(phases, "teardown"),
            start=machine.get("start"),
            boot=machine.get("boot"),
            attempts=self._attempts.get(last.nodeid, 1),
            lost=tuple(plain(str(reason)) for reason in properties.values(known, properties.RETRIED)),
            observations=self._each(last.nodeid, known, properties.OBSERVATION, Observation),
            leaks=self._each(last.nodeid, known, properties.LEAK, Leak),
            faults=self._each(last.nodeid, known, properties.FAULT, Fault),
            failure=shortened("\n".join(plain(phase.text) for phase in bad)),
            output=shortened(_printed(phases), 2 * FAILURE_LIMIT) if bad else "",
        )

    @staticmethod
    def _seconds(phases: list[Phase], when: str) -> float:
        return round(sum(phase.seconds for phase in phases if phase.when == when and not phase.is_part), 4)

    def _each(self, nodeid: str, known: list[tuple[str, Any]], name: str, kind: type[T]) -> tuple[T, ...]:
        found = []
        for value in properties.values(known, name):
            try:
                found.append(msgspec.convert(plain(value), kind))
            except msgspec.ValidationError as error:
                self.problems.append(f"{nodeid}: its property {name!r} is not a {name}: {error}")
        return tuple(found)


def _printed(phases: list[Phase]) -> str:
    # pytest repeats in each phase what it captured in earlier ones; what a guest printed is in one phase alone.
    sections = dict.fromkeys((caption, text) for phase in phases for caption, text in phase.sections)
    return "\n".join(f"--- {caption} ---\n{plain(text)}" for caption, text in sections)
