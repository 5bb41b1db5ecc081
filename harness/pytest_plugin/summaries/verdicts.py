"""The table of verdicts at the end of a run: one line a behaviour, one column a kernel.

Pure: what tests reported in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.results.outcomes import Outcome, worst


@dataclass(frozen=True)
class BehaviourOutcome:
    """The result of one test on one kernel.

    Attributes:
        behaviour: What it tests, without parameters: the id of its module and its name.
        kernel: Label of the kernel.
        outcome: What became of it.
    """

    behaviour: str
    kernel: str
    outcome: Outcome


def table(results: Iterable[BehaviourOutcome], *, kernels: Sequence[str], marks: bool) -> list[str]:
    """Return the lines of the table.

    Args:
        results: In the order in which behaviours are to be shown.
        kernels: Labels of the columns, in order.
        marks: Whether signs beyond ASCII may be put before the words.
    """
    cells: dict[str, dict[str, list[Outcome]]] = {}
    for result in results:
        cells.setdefault(result.behaviour, {}).setdefault(result.kernel, []).append(result.outcome)
    rows = [["behaviour", *kernels]]
    module = None
    for behaviour, row in cells.items():
        path, _, name = behaviour.rpartition("::")
        if path != module:
            module = path
            rows.append([path])
        words = name.removeprefix("test_").replace("_", " ")
        rows.append([f"  {words}", *(_cell(row.get(kernel, []), marks=marks) for kernel in kernels)])
    widths = [max((len(row[column]) for row in rows if len(row) > column), default=0) for column in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _cell(outcomes: list[Outcome], *, marks: bool) -> str:
    if not outcomes:
        return "not run"
    found = worst(outcomes)
    count = outcomes.count(found)
    words = found.shown if len(outcomes) == 1 else f"{found.shown} {count}"
    if count < len(outcomes):
        words += f" of {len(outcomes)}"
    return f"{found.sign} {words}" if marks else words
