"""The matrix in Markdown: failures and boundaries are shown, the complete table is folded.

Pure.
"""

from __future__ import annotations

from harness.report.costs import costs_of
from harness.report.matrix import Absent, Cell, Matrix, Row, matrix_of
from harness.report.text import code, escaped
from harness.report.words import summary_of, warnings_of
from harness.results.outcomes import Outcome
from harness.results.types import RunRecord

LIMIT = 900_000
"""Characters; GitHub's limit for a job's summary is 1 MiB."""


def as_markdown(record: RunRecord, *, title: str = "Behaviours by kernel") -> str:
    """Return a record as Markdown.

    Args:
        record: The record.
        title: The heading.
    """
    matrix = matrix_of(record)
    lines = [f"## {escaped(title)}", "", escaped(summary_of(record, matrix)), ""]
    lines += [f"> {escaped(line)}\n" for line in warnings_of(record)]
    lines += _by_kernel(matrix)
    lines += _problems(matrix)
    lines += _boundaries(matrix)
    lines += _costs(matrix)
    text = "\n".join(lines) + "\n"
    for group in matrix.groups:
        table = "\n".join(_table(matrix, group.rows))
        folded = f"\n<details><summary>{escaped(group.name)}: {len(group.rows)}</summary>\n\n{table}\n\n</details>\n"
        if len(text) + len(folded) > LIMIT:
            return f"{text}\nThe rest of the table is omitted here.\n"
        text += folded
    return text


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*(["---"] * len(cells)))]


def _by_kernel(matrix: Matrix) -> list[str]:
    endings = list(matrix.counts())
    if not endings:
        return []
    lines = _head("kernel", "version", *(f"{ending.sign} {ending.shown}".strip() for ending in endings))
    for column, kernel in enumerate(matrix.kernels):
        counts = matrix.counts(column)
        lines.append(_row(escaped(kernel.label), kernel.version, *(str(counts.get(ending, "")) for ending in endings)))
    return [*lines, ""]


def _problems(matrix: Matrix) -> list[str]:
    found = []
    for row in matrix.rows:
        bad = [
            (kernel.label, cell) for kernel, cell in zip(matrix.kernels, row.cells, strict=True) if cell.ending.is_bad
        ]
        if bad:
            reasons = dict.fromkeys(f"{cell.ending.shown}: {cell.reason}" for _, cell in bad)
            labels = ", ".join(label for label, _ in bad)
            found.append(_row(code(row.title), escaped(labels), escaped("; ".join(reasons))))
    return ["### What is wrong", "", *_head("behaviour", "kernels", ""), *found, ""] if found else []


def _boundaries(matrix: Matrix) -> list[str]:
    found = []
    for row in matrix.rows:
        steps = changes_of(matrix, row)
        if steps:
            found.append(_row(code(row.title), escaped("; ".join(steps))))
    if not found:
        return []
    table = [*_head("behaviour", "from which kernel on it answers otherwise"), *found]
    return [f"<details><summary>boundaries: {len(found)}</summary>\n", *table, "\n</details>"]


def _costs(matrix: Matrix) -> list[str]:
    found = []
    for table in costs_of(matrix):
        lines = _head("program", *(escaped(kernel.label) for kernel in matrix.kernels))
        for row in table.rows:
            signs = ({"rose": "▲ ", "fell": "▼ "}.get(step, "") for step in row.steps)
            values = ("" if value is None else str(value) for value in row.values)
            lines.append(_row(code(row.title), *(sign + value for sign, value in zip(signs, values, strict=True))))
        found += [f"<details><summary>{table.figure}: {table.counts}</summary>\n", *lines, "\n</details>"]
    return ["", "### What verification costs", "", *found] if found else []


def changes_of(matrix: Matrix, row: Row) -> list[str]:
    """Return the places where a row's answer changes: "5.10 → 6.1: E2BIG → ok"."""
    found = []
    older: tuple[str, Cell] | None = None
    for kernel, cell, edge in zip(matrix.kernels, row.cells, row.boundaries, strict=True):
        if edge and older is not None:
            found.append(f"{older[0]} → {kernel.label}: {_answer(older[1])} → {_answer(cell)}")
        if cell.ending.is_verdict:
            older = (kernel.label, cell)
    return found


def _answer(cell: Cell) -> str:
    if not cell.seen:
        return cell.ending.shown
    return cell.seen if cell.ending is Outcome.PASSED else f"{cell.ending.shown} ({cell.seen})"


def _table(matrix: Matrix, rows: tuple[Row, ...]) -> list[str]:
    lines = _head("behaviour", *(escaped(kernel.label) for kernel in matrix.kernels))
    for row in rows:
        cells = []
        for cell, edge in zip(row.cells, row.boundaries, strict=True):
            content = "" if cell.ending is Absent.NO_TEST else f"{cell.ending.sign} {escaped(_answer(cell))}"
            cells.append(f"◆ **{content}**" if edge else content)
        lines.append(_row(code(row.title), *cells))
    return lines
