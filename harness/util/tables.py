"""Tables for terminals, drawn by rich: as wide as the terminal, with its colours; plain text anywhere else.

rich is loaded with the first table: most commands, and most runs of tests, print none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def load() -> None:
    """Load rich ahead of the first table, while the caller waits for something."""
    import rich.console
    import rich.table  # noqa: F401


Cell = str | tuple[str, str]
"""A text, or a text and its style: "bold red"."""

_UNLIMITED = 100_000
"""Columns: nothing that is printed is as wide."""


def columns(*, terminal: bool) -> int | None:
    """Return how many columns there are: a terminal's own, else $COLUMNS, else None: a file has no edge.

    Args:
        terminal: Whether what is printed goes to a terminal.
    """
    if terminal:
        return shutil.get_terminal_size().columns
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) else None


def console(*, width: int | None = None, colour: bool | None = None) -> Console:
    """Return rich's console for standard output. It prints texts as they are: `[6.1]` is not a style there.

    Args:
        width: Columns; None: what :func:`columns` says of standard output.
        colour: Whether styles are shown; None: when standard output is a terminal that can show them.
    """
    from rich.console import Console

    return Console(
        width=width or columns(terminal=sys.stdout.isatty()) or _UNLIMITED,
        height=25,  # without one, rich takes a terminal with TERM=dumb to be 80 columns wide
        color_system="auto" if colour is None else "standard" if colour else None,
        force_terminal=colour,
        markup=False,
        emoji=False,
        highlight=False,
    )


def lines(
    rows: Iterable[Sequence[Cell]],
    *,
    header: Sequence[str] = (),
    right: Collection[str] = (),
    width: int | None = None,
    colour: bool | None = False,
) -> list[str]:
    """Return the lines of a table, without blanks at their ends.

    Args:
        rows: The cells; a row may have fewer than the others.
        header: Names of the columns; none: no line of names.
        right: The columns, of those in the header, whose cells stand at the right.
        width: Columns that the table may have; a cell that does not fit is folded, never cut. None: any number.
        colour: Whether styles are shown; None: when standard output is a terminal that can show them.
    """
    from rich.table import Table
    from rich.text import Text

    if not (rows := list(rows)) and not header:
        return []
    cells = [[Text(cell) if isinstance(cell, str) else Text(*cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(header), header_style="bold")
    for position in range(max(map(len, [header, *cells]))):
        name = header[position] if position < len(header) else ""
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    drawn = console(width=width or _UNLIMITED, colour=colour)
    with drawn.capture() as capture:
        drawn.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def show(rows: Iterable[Sequence[Cell]], *, header: Sequence[str] = (), right: Collection[str] = ()) -> None:
    """Print a table to standard output.

    Args:
        rows: As for :func:`lines`.
        header: As there.
        right: As there.
    """
    width = columns(terminal=sys.stdout.isatty())
    for line in lines(rows, header=header, right=right, width=width, colour=None):
        sys.stdout.write(f"{line}\n")
