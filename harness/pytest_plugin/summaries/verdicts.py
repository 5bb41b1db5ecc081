"""The table of verdicts at the end of a run: one line per behaviour, one column per kernel.

Pure: results in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.results.outcomes import Outcome, worst


@dataclass(frozen=True)
class BehaviourOutcome:
    """The result of one test on one kernel.

    Attributes:
        behaviour: The id of its module and its name, without parameters.
        kernel: Label of the kernel.
        outcome: The outcome.
    """

    behaviour: str
    kernel: str
    outcome: Outcome


def table(
    results: Iterable[BehaviourOutcome],
    *,
    kernels: Sequence[str],
    marks: bool,
    width: int | None = None,
    colour: bool = False,
) -> list[str]:
    """Return the lines of the table.

    Args:
        results: The results, in the order of behaviours to show.
        kernels: Labels of the columns, in order.
        marks: Whether to put non-ASCII signs before the words.
        width: As for :func:`harness.util.tables.lines`.
        colour: As there.
    """
    from harness.util import tables  # here, as a run without tests of kernels loads as little as it can

    cells: dict[str, dict[str, list[Outcome]]] = {}
    for result in results:
        cells.setdefault(result.behaviour, {}).setdefault(result.kernel, []).append(result.outcome)
    rows: list[list[tables.Cell]] = []
    module = None
    for behaviour, row in cells.items():
        path, _, name = behaviour.rpartition("::")
        if path != module:
            module = path
            rows.append([path])
        words = name.removeprefix("test_").replace("_", " ")
        rows.append([f"  {words}", *(_cell(row.get(kernel, []), marks=marks) for kernel in kernels)])
    return tables.lines(rows, header=["behaviour", *kernels], width=width, colour=colour)


def _cell(outcomes: list[Outcome], *, marks: bool) -> tuple[str, str]:
    """Return the words of a cell, and their style."""
    if not outcomes:
        return "not run", "yellow"
    found = worst(outcomes)
    count = outcomes.count(found)
    words = found.shown if len(outcomes) == 1 else f"{found.shown} {count}"
    if count < len(outcomes):
        words += f" of {len(outcomes)}"
    style = "bold red" if found.is_bad else "green" if found is Outcome.PASSED else "yellow"
    return f"{found.sign} {words}" if marks else words, style
