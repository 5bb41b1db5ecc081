"""The matrix for a terminal: answers where the width allows it, else signs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report.matrix import Absent, Cell, matrix_of
from harness.report.words import summary_of, warnings_of
from harness.results.outcomes import Ending, Outcome
from harness.results.types import RunRecord

_STYLES: dict[Ending, str] = {
    Outcome.PASSED: "green",
    Outcome.XFAILED: "yellow",
    Outcome.UNSUPPORTED: "dim",
    Absent.LEFT_OUT: "dim",
    Outcome.FAILED: "bold red",
    Outcome.LEAKED: "bold red",
    Outcome.FAULTED: "bold red",
    Outcome.HUNG: "bold red reverse",
    Outcome.CRASHED: "bold red reverse",
    Outcome.PROTOCOL: "bold red reverse",
    Outcome.INFRASTRUCTURE: "yellow reverse",
    Absent.NOT_RUN: "yellow reverse",
    Absent.NO_TEST: "",
}
_ASCII: dict[Ending, str] = {
    Outcome.PASSED: "+",
    Outcome.XFAILED: "x",
    Outcome.UNSUPPORTED: "-",
    Absent.LEFT_OUT: ".",
    Outcome.FAILED: "F",
    Outcome.LEAKED: "L",
    Outcome.FAULTED: "W",
    Outcome.HUNG: "H",
    Outcome.CRASHED: "C",
    Outcome.PROTOCOL: "P",
    Outcome.INFRASTRUCTURE: "?",
    Absent.NOT_RUN: "?",
    Absent.NO_TEST: " ",
}

_ANSWER = 9
"""Longest answer in a column, in characters."""


def show(record: RunRecord, console: Console, *, title: str = "Behaviours by kernel") -> None:
    """Print a record.

    Args:
        record: The record.
        console: The terminal.
        title: The heading.
    """
    matrix = matrix_of(record)
    width = console.width
    signs = console.encoding.lower().startswith("utf")
    names = max((len(row.title) for row in matrix.rows), default=0)
    # With a sign and a mark; a column of signs alone still shows the kernel's label above it.
    wide = min(names, 40) + len(matrix.kernels) * (_ANSWER + 5) <= width
    console.print(Text(title, style="bold"))
    console.print(Text(summary_of(record, matrix), style="dim"))
    for line in warnings_of(record):
        console.print(Text(line, style="yellow"))
    for group in matrix.groups:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column(group.name, max_width=max(20, min(names, width // 2)), overflow="fold")
        for kernel in matrix.kernels:
            table.add_column(kernel.label, no_wrap=True, min_width=_ANSWER + 4 if wide else 3)
        for row in group.rows:
            cells = (
                _cell(cell, edge=edge, wide=wide, signs=signs)
                for cell, edge in zip(row.cells, row.boundaries, strict=True)
            )
            table.add_row(Text(f"  {row.title}"), *cells)
        console.print(table)
    for row in matrix.rows:
        for kernel, cell in zip(matrix.kernels, row.cells, strict=True):
            if cell.ending.is_bad:
                console.print(Text(f"{row.title} on {kernel.label}: {cell.ending.shown}: {cell.reason}", style="red"))
    counts = ", ".join(f"{_sign(ending, signs)} {count} {ending.shown}" for ending, count in matrix.counts().items())
    console.print(Text(counts or "no results"))
    if any(any(row.boundaries) for row in matrix.rows):
        mark = "◆" if signs else "*"
        console.print(Text(f"{mark} answers otherwise than the next older kernel that was asked", style="dim"))


def _sign(ending: Ending, signs: bool) -> str:
    """Return an ending's sign, or one that ASCII has."""
    return ending.sign if signs else _ASCII[ending]


def _cell(cell: Cell, *, edge: bool, wide: bool, signs: bool) -> Text:
    mark = ("◆" if signs else "*") if edge else " "
    if cell.ending is Absent.NO_TEST:
        return Text("")
    word = cell.seen if cell.seen and cell.ending is Outcome.PASSED else cell.ending.shown
    if len(word) > _ANSWER:
        word = word[: _ANSWER - 1] + ("…" if signs else "~")
    sign = _sign(cell.ending, signs)
    return Text(mark + (f"{sign} {word}" if wide else sign), style=_STYLES[cell.ending])
