"""A record as a table: behaviours in groups, a cell for each kernel, boundaries where neighbours differ.

Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.results.file import kernel_order
from harness.results.ids import behaviour_of, contract_in, is_contract
from harness.results.outcomes import Ending, Outcome
from harness.results.types import Observation, RecordedKernel, RecordedResult, RunRecord


class Absent(Ending):
    """Why a cell has no outcome."""

    LEFT_OUT = "left_out", "not for it", "·"
    NOT_RUN = "not_run", "not run", "?"
    NO_TEST = "absent", "no test", " "


ENDINGS: tuple[Ending, ...] = (
    Outcome.PASSED,
    Outcome.XFAILED,
    Outcome.UNSUPPORTED,
    Absent.LEFT_OUT,
    Outcome.FAILED,
    Outcome.LEAKED,
    Outcome.FAULTED,
    Outcome.HUNG,
    Outcome.CRASHED,
    Outcome.PROTOCOL,
    Outcome.INFRASTRUCTURE,
    Absent.NOT_RUN,
    Absent.NO_TEST,
)
"""What a cell can say, in the order of a report's counts."""


@dataclass(frozen=True)
class Cell:
    """The result of one test on one kernel.

    Attributes:
        ending: The test's outcome, or why there is none.
        result: The test's result; None when there is none.
        reason: One line with the reason, "" for none.
    """

    ending: Ending
    result: RecordedResult | None = None
    reason: str = ""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The observations."""
        return self.result.observations if self.result is not None else ()

    @property
    def seen(self) -> str:
        """The observations in a few characters; "" for none."""
        return ", ".join(text_of(one.observed) for one in self.observations)

    @property
    def answers(self) -> dict[str, Any]:
        """The observations by name; repeated names get a number."""
        found: dict[str, Any] = {}
        for one in self.observations:
            name = one.contract or one.sentence
            number = 1
            while (name if number == 1 else f"{name} #{number}") in found:
                number += 1
            found[name if number == 1 else f"{name} #{number}"] = one.observed
        return found


def text_of(observed: Any) -> str:
    """Return an observation for the user: text unchanged, names with their values, anything else as JSON."""
    if isinstance(observed, str):
        return observed
    if isinstance(observed, dict) and observed:
        return ", ".join(f"{name} {text_of(value)}" for name, value in observed.items())
    return exact_text_of(observed)


def exact_text_of(observed: Any) -> str:
    """Return an observation as JSON; different observations give different texts."""
    return json.dumps(observed, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class Row:
    """One behaviour: a contract, or a test that has none.

    Attributes:
        test: pytest's id of the test without its kernel.
        title: Its contract, or the test's name.
        sentence: The contract's sentence; "" without a contract.
        cells: One for each kernel, in their order.
    """

    test: str
    title: str
    sentence: str
    cells: tuple[Cell, ...]

    @property
    def boundaries(self) -> tuple[bool, ...]:
        """For each kernel, whether its answer differs from the nearest older kernel that gave an answer.

        The answer is the outcome with the observations. A kernel that was not asked has no answer.
        """
        found = []
        known: tuple[object, list[str]] | None = None
        for cell in self.cells:
            if not cell.ending.is_verdict:
                found.append(False)
                continue
            answer = (cell.ending, [exact_text_of(one.observed) for one in cell.observations])
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

    kernels: tuple[RecordedKernel, ...]
    groups: tuple[Group, ...]

    @property
    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [row for group in self.groups for row in group.rows]

    def counts(self, column: int | None = None) -> dict[Ending, int]:
        """Return the number of tests in each state, on one kernel or on all, without states that do not occur."""
        found = dict.fromkeys(ENDINGS, 0)
        for row in self.rows:
            for number, cell in enumerate(row.cells):
                if column is None or number == column:
                    found[cell.ending] += 1
        return {ending: count for ending, count in found.items() if count and ending is not Absent.NO_TEST}


def matrix_of(record: RunRecord) -> Matrix:
    """Return a record as a table; rows are in the order of the tests, groups in the order of their first row."""
    kernels = tuple(sorted(record.kernels, key=kernel_order))
    cells = cells_of(record)
    ids = [one.test for one in record.not_run] + [one.test for one in record.left_out]
    tests = {behaviour_of(test): test for test in [*ids, *(one.test for one in record.results)]}
    groups: dict[str, list[Row]] = {}
    for name in dict.fromkeys(name for name, _ in cells):
        row = _row(tests[name], tuple(cells.get((name, one.label), Cell(Absent.NO_TEST)) for one in kernels))
        groups.setdefault(area_of(row.test, row.title), []).append(row)
    return Matrix(kernels, tuple(Group(name, tuple(rows)) for name, rows in groups.items()))


def _row(test: str, cells: tuple[Cell, ...]) -> Row:
    results = [cell.result for cell in cells if cell.result is not None]
    sentence = next((one.sentence for result in results for one in result.observations), "")
    contract = next((one.contract for one in results if one.contract), "") or contract_in(test)
    return Row(test, contract or words_of(test), sentence, cells)


def cells_of(record: RunRecord) -> dict[tuple[str, str], Cell]:
    """Return what a record says of each behaviour on each kernel."""
    found: dict[tuple[str, str], Cell] = {}
    for result in record.results:
        not_asked = [one.note for one in result.observations if not one.was_asked]
        found[behaviour_of(result.test), result.kernel] = (
            Cell(Absent.LEFT_OUT, None, not_asked[0]) if not_asked else Cell(result.outcome, result, result.reason)
        )
    for one in record.left_out:
        cell = Cell(Absent.LEFT_OUT, None, f"it is for kernels {one.condition}")
        found.setdefault((behaviour_of(one.test), one.kernel), cell)
    for other in record.not_run:
        found.setdefault((behaviour_of(other.test), other.kernel), Cell(Absent.NOT_RUN, None, "the run ended before"))
    return found


def area_of(test: str, title: str) -> str:
    """Return the group of a behaviour: the area in its contract's id, else its module."""
    if is_contract(title):
        return title.split(".")[1]  # hom.update.bad_fd: the outer map, the area, the behaviour
    return test.partition("::")[0]


def words_of(test: str) -> str:
    """Return a test's name as words, with its parameters; only names that begin with test_ change."""
    name, bracket, parameters = test.rpartition("::")[2].partition("[")
    words = name.removeprefix("test_").replace("_", " ") if name.startswith("test_") else name
    return words + (f" [{parameters}" if bracket else "")
