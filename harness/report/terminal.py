"""The matrix for a terminal, as wide as that is: answers where there is room, signs where there is not.

Imports rich, the matrix beside it and the records.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report.matrix import Cell, State, matrix_of
from harness.report.words import summary_of, warnings_of
from harness.results.types import Record

_STYLES = {
    State.PASSED: "green",
    State.XFAILED: "yellow",
    State.UNSUPPORTED: "dim",
    State.LEFT_OUT: "dim",
    State.FAILED: "bold red",
    State.LEAKED: "bold red",
    State.FAULTED: "bold red",
    State.HUNG: "bold red reverse",
    State.CRASHED: "bold red reverse",
    State.INFRASTRUCTURE: "yellow reverse",
    State.NOT_RUN: "yellow reverse",
    State.ABSENT: "",
}
_ASCII = {
    State.PASSED: "+",
    State.XFAILED: "x",
    State.UNSUPPORTED: "-",
    State.LEFT_OUT: ".",
    State.FAILED: "F",
    State.LEAKED: "L",
    State.FAULTED: "W",
    State.HUNG: "H",
    State.CRASHED: "C",
    State.INFRASTRUCTURE: "?",
    State.NOT_RUN: "?",
    State.ABSENT: " ",
}

_ANSWER = 9
"""Characters of an answer in a column."""


def show(record: Record, console: Console, *, title: str = "Behaviours by kernel") -> None:
    """Print a record.

    Args:
        record: The record.
        console: Where to.
        title: What stands above it.
    """
    matrix = matrix_of(record)
    width = console.width
    signs = console.encoding.lower().startswith("utf")
    names = max((len(row.title) for row in matrix.rows), default=0)
    # With a sign and a mark; a column of signs alone still has the kernel's label above it.
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
            if cell.state.is_bad:
                console.print(Text(f"{row.title} on {kernel.label}: {cell.state.value}: {cell.reason}", style="red"))
    counts = ", ".join(f"{_sign(state, signs)} {count} {state.value}" for state, count in matrix.counts().items())
    console.print(Text(counts or "no results"))
    if any(any(row.boundaries) for row in matrix.rows):
        mark = "◆" if signs else "*"
        console.print(Text(f"{mark} answers otherwise than the next older kernel that was asked", style="dim"))


def _sign(state: State, signs: bool) -> str:
    """Return a state's sign, or one that ASCII has."""
    return state.sign if signs else _ASCII[state]


def _cell(cell: Cell, *, edge: bool, wide: bool, signs: bool) -> Text:
    mark = ("◆" if signs else "*") if edge else " "
    if cell.state is State.ABSENT:
        return Text("")
    word = cell.seen if cell.seen and cell.state is State.PASSED else cell.state.value
    if len(word) > _ANSWER:
        word = word[: _ANSWER - 1] + ("…" if signs else "~")
    sign = _sign(cell.state, signs)
    return Text(mark + (f"{sign} {word}" if wide else sign), style=_STYLES[cell.state])
