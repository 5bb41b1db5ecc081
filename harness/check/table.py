"""Prints the results of a check: tables for a terminal and for Markdown, and the reasons below them.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.check.results import Kind, Result, Verdict
from harness.results.cost import FIGURES
from harness.util import tables
from harness.util.printable import printable

_STYLES = {Verdict.OK: "green", Verdict.LOST: "yellow"}
_COST_HEADER = ("program", "kernel", *FIGURES)
_SEPARATE_COLUMNS = 4
"""From one more on, neighbouring kernels with equal columns share one."""


@dataclass(frozen=True)
class _Grid:
    """The rows and columns of a table.

    Attributes:
        columns: Groups of neighbouring kernels whose cells are all equal.
        rows: What each row is about: object, name and kind.
        found: The results by row and kernel.
    """

    columns: list[list[str]]
    rows: list[tuple[str, str, Kind]]
    found: dict[tuple[tuple[str, str, Kind], str], Result]

    def cell(self, row: tuple[str, str, Kind], kernel: str) -> tuple[str, str]:
        """Return a cell's text and style."""
        one = self.found.get((row, kernel))
        return (one.cell, _STYLES.get(one.verdict, "bold red")) if one else ("-", "")

    def name(self, row: tuple[str, str, Kind]) -> str:
        """Return a row's name: rows of several objects stand below their object's."""
        several = len({file for file, _, _ in self.rows}) > 1
        return f"  {row[1]}" if several and row[2] is not Kind.OBJECT else row[1]


def _grid(results: Sequence[Result], *, differences: bool) -> _Grid:
    kernels = list(dict.fromkeys(result.kernel for result in results))
    found = {((one.object, one.program, one.kind), one.kernel): one for one in results}
    rows = _rows(results)
    grid = _Grid([], rows, found)
    if differences:
        rows = [row for row in rows if len({grid.cell(row, kernel) for kernel in kernels}) > 1]
    columns: list[list[str]] = []
    for kernel in kernels:
        equal = columns and all(grid.cell(row, kernel) == grid.cell(row, columns[-1][-1]) for row in rows)
        if equal and len(kernels) > _SEPARATE_COLUMNS:
            columns[-1].append(kernel)
        else:
            columns.append([kernel])
    return _Grid(columns, rows, found)


def _rows(results: Sequence[Result]) -> list[tuple[str, str, Kind]]:
    """Return the rows. An object's own row is left out where the rows of its programs say the same."""
    objects = list(dict.fromkeys(one.object for one in results))
    rows = []
    for file in objects:
        of_object = [one for one in results if one.object == file]
        others = [one for one in of_object if one.kind is not Kind.OBJECT]
        blamed = {one.kernel for one in others if not one.is_good}
        whole = [one for one in of_object if one.kind is Kind.OBJECT and not one.is_good and one.kernel not in blamed]
        keep = len(objects) > 1 or not others or bool(whole)
        rows += [
            row
            for row in dict.fromkeys((one.object, one.program, one.kind) for one in of_object)
            if keep or row[2] is not Kind.OBJECT
        ]
    return rows


def tally(results: Sequence[Result]) -> str:
    """Return how many of the rows that a table of these results has are good: "14 of 15 ok"."""
    rows = {*_rows(results)}
    shown = [one for one in results if (one.object, one.program, one.kind) in rows]
    return f"{sum(one.is_good for one in shown)} of {len(shown)} ok"


def _heading(group: Sequence[str]) -> str:
    return f"{group[0]} … {group[-1]}" if len(group) > 1 else group[0]


def remarks(results: Sequence[Result], rows: Sequence[tuple[str, str, Kind]] = ()) -> list[str]:
    """Return the reasons and notes below a table; rows and kernels with the same one are named together.

    Args:
        results: The results.
        rows: The rows of the table; () for all.
    """
    shown = set(rows) or {(one.object, one.program, one.kind) for one in results}
    names = _full_names(results)
    by_text: dict[str, dict[str, list[str]]] = {}
    for one in results:
        if (one.object, one.program, one.kind) not in shown or not one.reason:
            continue
        name = names[one.object, one.program]
        by_text.setdefault(printable(one.reason), {}).setdefault(name, []).append(one.kernel)
    found = []
    for text, programs in by_text.items():
        by_kernels: dict[tuple[str, ...], list[str]] = {}
        for program, kernels in programs.items():
            by_kernels.setdefault(tuple(kernels), []).append(program)
        found += [f"{', '.join(rows)} on {', '.join(kernels)}: {text}" for kernels, rows in by_kernels.items()]
    return found


def _full_names(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """Return the name of each program by object and program: with its object's where several objects have it."""
    pairs = dict.fromkeys((one.object, one.program) for one in results)
    objects = Counter(program for _, program in pairs)
    return {(file, program): f"{program} of {file}" if objects[program] > 1 else program for file, program in pairs}


def as_text(
    results: Sequence[Result], *, width: int | None = None, colour: bool | None = False, differences: bool = False
) -> str:
    """Return a table with a line for each program and a column for each kernel, and below it why one was refused.

    Args:
        results: What is shown.
        width: As for :func:`harness.util.tables.lines`.
        colour: As there.
        differences: Whether only rows are shown that are not equal on all kernels.
    """
    grid = _grid(results, differences=differences)
    if not grid.rows:
        return "no row differs between the kernels"
    rows: list[list[tables.Cell]] = [
        [grid.name(row), *(grid.cell(row, group[0]) for group in grid.columns)] for row in grid.rows
    ]
    header = ["", *map(_heading, grid.columns)]
    lines = tables.lines(rows, header=header, width=width, colour=colour)
    below = remarks(results, grid.rows)
    costs = cost_lines(results, width=width, colour=colour)
    return "\n".join([*lines, *([""] if below else []), *below, *([""] if costs else []), *costs])


def cost_lines(results: Sequence[Result], *, width: int | None = None, colour: bool | None = False) -> list[str]:
    """Return a table of what verification cost, a line for each program and kernel; none when nothing was measured.

    Args:
        results: What is shown.
        width: As for :func:`harness.util.tables.lines`.
        colour: As there.
    """
    rows = _costs(results)
    return tables.lines(rows, header=_COST_HEADER, right=[*FIGURES], width=width, colour=colour) if rows else []


def _costs(results: Sequence[Result]) -> list[list[str]]:
    """Return the cells of the table of costs."""
    names = _full_names(results)
    return [
        [names[one.object, one.program], one.kernel, *(str(one.cost.get(figure, "-")) for figure in FIGURES)]
        for one in results
        if one.cost is not None
    ]


def as_markdown(results: Sequence[Result], *, differences: bool = False) -> str:
    """Return the same as a table in Markdown, for a pull request."""
    grid = _grid(results, differences=differences)
    if not grid.rows:
        return "No row differs between the kernels."
    lines = [f"| program | {' | '.join(map(_heading, grid.columns))} |", f"|---|{'---|' * len(grid.columns)}"]
    for row in grid.rows:
        cells = " | ".join(grid.cell(row, group[0])[0] for group in grid.columns)
        name = f"**`{row[1]}`**" if row[2] is Kind.OBJECT else f"`{row[1]}`"
        lines += [f"| {name} | {cells} |"]
    below = [f"- {text.replace('|', chr(92) + '|').replace('`', chr(39))}" for text in remarks(results, grid.rows)]
    costs = _costs(results)
    table = [_COST_HEADER, ["---", "---", *("---:" for _ in FIGURES)], *costs] if costs else []
    costs_below = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([*lines, *([""] if below else []), *below, *([""] if costs else []), *costs_below])


def as_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the results as plain data for JSON."""
    return [result.record() for result in results]
