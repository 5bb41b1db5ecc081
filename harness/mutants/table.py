"""The table of mutants and the score, with explanations of the survivors.

Pure: results in, rows and lines out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UsageError
from harness.mutants.edit import one_line
from harness.mutants.state import MutantResult
from harness.mutants.status import MutantStatus
from harness.util.tables import Cell

EQUIVALENT = "equivalent"
"""No test can distinguish it from the original kernel; the explanation says why."""
OPEN = "open"
"""A test could find it, but none does; the explanation says what such a test needs."""


@dataclass(frozen=True)
class Explanation:
    """Why a mutant survives.

    Attributes:
        mutant: Its name.
        was: The text that it replaces; an explanation for another text is no longer valid.
        becomes: The new text.
        verdict: :data:`EQUIVALENT` or :data:`OPEN`.
        reason: The reason.
    """

    mutant: str
    was: str
    becomes: str
    verdict: str
    reason: str


def explanations(rows: Sequence[Mapping[str, Any]]) -> dict[str, Explanation]:
    """Return the explanations in `kernels/mutants/survivors.toml`, by mutant.

    Raises:
        UsageError: A row is malformed, or a mutant is explained twice.
    """
    found: dict[str, Explanation] = {}
    for row in rows:
        try:
            one = Explanation(**row)
        except TypeError as error:
            raise UsageError(
                f"a survivor's explanation is malformed: {error}",
                expected="mutant, was, becomes, verdict, reason",
            ) from error
        if one.verdict not in (EQUIVALENT, OPEN) or not one.reason or one.mutant in found:
            raise UsageError(
                f"the explanation of {one.mutant} cannot be used",
                expected=f"one explanation per mutant, with a reason and the verdict {EQUIVALENT!r} or {OPEN!r}",
            )
        found[one.mutant] = one
    return found


@dataclass(frozen=True)
class Score:
    """The score.

    Attributes:
        killed: Mutants that a test found.
        survived: Mutants that no test found and that are not equivalent.
        equivalent: Mutants that no test can find: the same code, or shown by an explanation.
        twins: Mutants with the same kernel as another mutant.
        unbuilt: Mutants that do not compile.
        unknown: Mutants without a verdict.
        unexplained: Names of survivors without an explanation.
    """

    killed: int
    survived: int
    equivalent: int
    twins: int
    unbuilt: int
    unknown: int
    unexplained: tuple[str, ...]

    @property
    def percent(self) -> float:
        """Killed mutants in percent of those that can be killed; 0 when there are none."""
        return 100.0 * self.killed / (self.killed + self.survived) if self.killed + self.survived else 0.0

    def line(self) -> str:
        """Return the score on one line."""
        return (
            f"killed {self.killed} of {self.killed + self.survived} ({self.percent:.1f} %); "
            f"equivalent {self.equivalent}, same kernel as another {self.twins}, do not compile {self.unbuilt}, "
            f"no verdict {self.unknown}"
        )


def score(results: Sequence[MutantResult], known: Mapping[str, Explanation]) -> Score:
    """Count.

    Args:
        results: The results of the mutants that were tried.
        known: Explanations, by mutant.
    """
    statuses = [result.status for result in results]
    survivors = [result for result in results if result.status is MutantStatus.SURVIVED]
    shown = [result for result in survivors if (one := explained(result, known)) and one.verdict == EQUIVALENT]
    return Score(
        killed=statuses.count(MutantStatus.KILLED),
        survived=len(survivors) - len(shown),
        equivalent=statuses.count(MutantStatus.SAME) + len(shown),
        twins=statuses.count(MutantStatus.TWIN),
        unbuilt=statuses.count(MutantStatus.UNBUILT),
        unknown=statuses.count(MutantStatus.UNKNOWN),
        unexplained=tuple(result.mutant for result in survivors if explained(result, known) is None),
    )


def explained(result: MutantResult, known: Mapping[str, Explanation]) -> Explanation | None:
    """Return the explanation of a survivor, if it is for this text."""
    one = known.get(result.mutant)
    return one if one is not None and (one.was, one.becomes) == (result.was, result.becomes) else None


HEADER = ("mutant", "change", "status", "found by", "message")
"""Names of the table's columns."""

_STYLES = {MutantStatus.KILLED: "green", MutantStatus.SURVIVED: "bold red", MutantStatus.UNKNOWN: "yellow"}


def as_rows(results: Sequence[MutantResult], known: Mapping[str, Explanation]) -> list[tuple[Cell, ...]]:
    """Return the rows of the table for a terminal: mutants with their status.

    Args:
        results: What is known of each mutant that was tried.
        known: Explanations, by mutant.
    """
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        why = _why(result, known)
        style = "" if why is not None and why.verdict == EQUIVALENT else _STYLES.get(result.status, "")
        change = f"{_cut(result.was, 60)} → {_cut(result.becomes, 60)}"
        rows.append((result.mutant, change, (_status(result, why), style), _test(result), _message(result, why)))
    return rows


def as_markdown(results: Sequence[MutantResult], known: Mapping[str, Explanation]) -> list[str]:
    """Return the same in Markdown, as lines.

    Args:
        results: As for :func:`as_rows`.
        known: As there.
    """
    rows = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for result in results:
        why = _why(result, known)
        change = f"`{_cut(result.was, 60)}` → `{_cut(result.becomes, 60)}`"
        cells = (result.mutant, change, _status(result, why), _test(result), _message(result, why))
        rows.append(" ".join(("|", " | ".join(map(_cell, cells)), "|")))
    return rows


def _why(result: MutantResult, known: Mapping[str, Explanation]) -> Explanation | None:
    return explained(result, known) if result.status is MutantStatus.SURVIVED else None


def _status(result: MutantResult, why: Explanation | None) -> str:
    status = f"{result.status.value} ({result.how})" if result.how else result.status.value
    return status if why is None else f"{status}: {why.verdict}"


def _test(result: MutantResult) -> str:
    return result.test.rpartition("/")[2]


def _message(result: MutantResult, why: Explanation | None) -> str:
    return _cut(why.reason if why is not None else (f"as {result.twin}" if result.twin else result.message), 160)


def _cut(text: str, length: int) -> str:
    text = one_line(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
