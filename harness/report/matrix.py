"""A record as a table: behaviours in groups, a cell for each kernel, boundaries where neighbours differ.

Pure. Imports the records and the ranks of outcomes.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

from harness.record.file import kernel_order
from harness.record.types import Kernel, Record, Result


class State(enum.Enum):
    """What a cell says: an outcome of a test, or why there is none. The value is the word a reader sees."""

    PASSED = "passed"
    XFAILED = "xfailed"
    UNSUPPORTED = "skipped"
    LEFT_OUT = "not for it"
    FAILED = "FAILED"
    LEAKED = "LEAKED"
    FAULTED = "FAULTED"
    HUNG = "HUNG"
    CRASHED = "CRASHED"
    INFRASTRUCTURE = "no verdict"
    NOT_RUN = "not run"
    ABSENT = "no test"

    @property
    def sign(self) -> str:
        """One sign that tells it without colour."""
        return _SIGNS[self]

    @property
    def is_bad(self) -> bool:
        """Whether the kernel, or the test, is at fault."""
        return self in _BAD

    @property
    def is_verdict(self) -> bool:
        """Whether the kernel was asked, and answered."""
        return self in _BAD or self in (State.PASSED, State.XFAILED)


_SIGNS = {
    State.PASSED: "✓",
    State.XFAILED: "≈",
    State.UNSUPPORTED: "-",
    State.LEFT_OUT: "·",
    State.FAILED: "✗",
    State.LEAKED: "⚑",
    State.FAULTED: "⚠",
    State.HUNG: "⧗",
    State.CRASHED: "☠",
    State.INFRASTRUCTURE: "?",
    State.NOT_RUN: "?",
    State.ABSENT: " ",
}
_BAD = frozenset({State.FAILED, State.LEAKED, State.FAULTED, State.HUNG, State.CRASHED})


@dataclass(frozen=True)
class Cell:
    """What became of one test on one kernel.

    Attributes:
        state: It, in a word.
        result: The result; None where there is none.
        reason: One line on why it is so, "" when there is nothing to say.
    """

    state: State
    result: Result | None = None
    reason: str = ""

    @property
    def seen(self) -> str:
        """What was observed, in a few characters; "" for nothing."""
        if self.result is None:
            return ""
        return ", ".join(text_of(one.observed) for one in self.result.observations)

    @property
    def answers(self) -> dict[str, Any]:
        """The observations by what they are of; where one is observed several times, by its number too."""
        found: dict[str, Any] = {}
        for one in self.result.observations if self.result is not None else ():
            name = one.contract or one.sentence
            number = 1
            while (name if number == 1 else f"{name} #{number}") in found:
                number += 1
            found[name if number == 1 else f"{name} #{number}"] = one.observed
        return found


def text_of(observed: Any) -> str:
    """Return an observation as people write it: text as it is, the rest as JSON."""
    return observed if isinstance(observed, str) else json.dumps(observed, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class Row:
    """One behaviour.

    Attributes:
        test: pytest's id of the test without its kernel.
        title: What people call it: its contract, or the test's name.
        sentence: What it promises; "" when nothing says so.
        cells: One for each kernel, in their order.
    """

    test: str
    title: str
    sentence: str
    cells: tuple[Cell, ...]

    @property
    def boundaries(self) -> tuple[bool, ...]:
        """For each kernel, whether its answer differs from that of the nearest older one that gave an answer.

        The answer is the outcome together with what was observed. A kernel that was not asked gives none.
        """
        found = []
        known: tuple[object, str] | None = None
        for cell in self.cells:
            if not cell.state.is_verdict:
                found.append(False)
                continue
            answer = (cell.state, cell.seen)
            found.append(known is not None and answer != known)
            known = answer
        return tuple(found)


@dataclass(frozen=True)
class Group:
    """Behaviours of one area.

    Attributes:
        name: The area.
        rows: Its behaviours.
    """

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Matrix:
    """The whole table.

    Attributes:
        kernels: The columns, oldest first.
        groups: The rows.
    """

    kernels: tuple[Kernel, ...]
    groups: tuple[Group, ...]

    @property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [row for group in self.groups for row in group.rows]

    def counts(self, column: int | None = None) -> dict[State, int]:
        """Return how many cells say what, in one column or in all; states that are nowhere are left out."""
        found = dict.fromkeys(State, 0)
        for row in self.rows:
            for number, cell in enumerate(row.cells):
                if column is None or number == column:
                    found[cell.state] += 1
        return {state: count for state, count in found.items() if count}


def matrix_of(record: Record) -> Matrix:
    """Return a record as a table; rows stand as their tests ran, groups as their first row."""
    kernels = tuple(sorted(record.kernels, key=kernel_order))
    cells = cells_of(record)
    tests = dict.fromkeys(test for test, _ in cells)
    groups: dict[str, list[Row]] = {}
    for test in tests:
        row = tuple(cells.get((test, kernel.label), Cell(State.ABSENT)) for kernel in kernels)
        results = [cell.result for cell in row if cell.result is not None]
        contract = next((one.contract for one in results if one.contract), "")
        sentence = next((seen.sentence for one in results for seen in one.observations), "")
        title = contract or words_of(test)
        groups.setdefault(area_of(test, contract), []).append(Row(test, title, sentence, row))
    return Matrix(kernels, tuple(Group(name, tuple(rows)) for name, rows in groups.items()))


def cells_of(record: Record) -> dict[tuple[str, str], Cell]:
    """Return what a record says of each test on each kernel."""
    found: dict[tuple[str, str], Cell] = {}
    for result in record.results:
        found[result.test, result.kernel] = Cell(State[result.outcome.upper()], result, result.reason)
    for one in record.left_out:
        found.setdefault((one.test, one.kernel), Cell(State.LEFT_OUT, None, f"it is for kernels {one.condition}"))
    for other in record.not_run:
        found.setdefault((other.test, other.kernel), Cell(State.NOT_RUN, None, "the run ended before"))
    return found


def area_of(test: str, contract: str) -> str:
    """Return the group that a behaviour belongs to: the area in its contract's id, or else its module."""
    words = contract.split(".")
    if len(words) >= 3:
        return words[1]  # hom.update.bad_fd: the outer map, the area, the behaviour
    return words[0] if contract else test.partition("::")[0]


def words_of(test: str) -> str:
    """Return a test's name as words, its parameters behind it."""
    name, bracket, parameters = test.rpartition("::")[2].partition("[")
    return name.removeprefix("test_").replace("_", " ") + (f" [{parameters}" if bracket else "")
