"""What the verification of programs costs, by kernel: the rows of a table and of its bars.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.matrix import Matrix
from harness.results.cost import FIGURES


@dataclass(frozen=True)
class CostRow:
    """A figure of one program.

    Attributes:
        title: The program.
        values: Its figure on each kernel; None where it was not measured.
    """

    title: str
    values: tuple[int | None, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """For each kernel, percent of the largest value; 0 for none."""
        most = max((value for value in self.values if value is not None), default=0) or 1
        return tuple(round(100 * (value or 0) / most, 1) for value in self.values)

    @property
    def steps(self) -> tuple[str, ...]:
        """For each kernel, how its value differs from the next older one that was measured: "rose", "fell" or ""."""
        found = []
        older: int | None = None
        for value in self.values:
            known = value is not None and older is not None and value != older
            found.append(("rose" if (value or 0) > (older or 0) else "fell") if known else "")
            older = value if value is not None else older
        return tuple(found)


@dataclass(frozen=True)
class CostTable:
    """A figure of all programs.

    Attributes:
        figure: One of :data:`harness.results.cost.FIGURES`.
        counts: What it counts.
        rows: The programs of which it was measured.
    """

    figure: str
    counts: str
    rows: tuple[CostRow, ...]


def costs_of(matrix: Matrix) -> list[CostTable]:
    """Return a table for each figure that was measured."""
    found = []
    for figure, counts in FIGURES.items():
        rows = []
        for row in matrix.rows:
            results = [cell.result for cell in row.cells]
            values = tuple(one.cost.get(figure) if one is not None else None for one in results)
            if any(value is not None for value in values):
                several = sum(other.title == row.title for other in matrix.rows) > 1
                rows.append(CostRow(row.test if several else row.title, values))
        if rows:
            found.append(CostTable(figure, counts, tuple(rows)))
    return found
