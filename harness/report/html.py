"""The matrix as one self-contained HTML page: it needs no network and no other file.

The table is plain HTML, so it works without JavaScript and on paper. Details are data beside it, each text once; the
page's script shows them on demand.

Pure, except for its template, which is data of the package.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from harness import __version__
from harness.report.costs import costs_of
from harness.report.matrix import ENDINGS, Absent, Cell, Group, Matrix, Row, matrix_of
from harness.report.words import counted, summary_of, warnings_of
from harness.results.outcomes import Ending, Outcome
from harness.results.types import Observation, RecordedKernel, RecordedResult, RecordedRun, RunRecord

EXCERPTS = 320_000
"""Total characters of log excerpts in a page, so that the page is small enough to send."""

_EXCERPT_MOST, _EXCERPT_LEAST = 4000, 240
_CELL = 22
"""Longest observation in a cell, in characters; the complete text is in the details."""

SHOWS = (("all", "all"), ("bad", "failing"), ("edge", "boundaries"), ("skip", "skipped"), ("lost", "no verdict"))
_TAGS: dict[Ending, str] = {
    Outcome.UNSUPPORTED: "skip",
    Absent.LEFT_OUT: "skip",
    Outcome.INFRASTRUCTURE: "lost",
    Absent.NOT_RUN: "lost",
}


@dataclass(frozen=True)
class _Cell:
    css: str
    tags: str
    text: str
    spoken: str


@dataclass(frozen=True)
class _Row:
    number: int
    title: str
    sentence: str
    cells: list[_Cell]


class _Strings:
    """A set of texts, each kept once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._known: dict[str, int] = {}

    def place(self, text: str) -> int | None:
        """Return the number of a text; None for an empty one."""
        if not text:
            return None
        if text not in self._known:
            self._known[text] = len(self.all)
            self.all.append(text)
        return self._known[text]


def as_html(record: RunRecord, *, title: str = "Behaviours by kernel") -> str:
    """Return a record as a page.

    Args:
        record: The record.
        title: The page's title.
    """
    matrix = matrix_of(record)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    folder = resources.files(__package__).joinpath("templates")
    template = environment.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
    rows = [_row(number, row) for number, row in enumerate(matrix.rows)]
    numbers = iter(rows)
    return template.render(
        title=title,
        subtitle=summary_of(record, matrix),
        warnings=warnings_of(record),
        # From the package, not from a record.
        css=Markup(folder.joinpath("report.css").read_text(encoding="utf-8")),  # noqa: S704
        js=Markup(folder.joinpath("report.js").read_text(encoding="utf-8")),  # noqa: S704
        counts=list(matrix.counts().items()),
        problems=_problems(matrix),
        shows=SHOWS,
        matrix=matrix,
        groups=[
            {"name": group.name, "summary": _summary(group), "rows": [next(numbers) for _ in group.rows]}
            for group in matrix.groups
        ],
        legend=list(matrix.counts()),
        costs=costs_of(matrix),
        kernel_times=_kernel_times(matrix),
        test_times=_test_times(matrix),
        runs=record.runs,
        run_facts=run_facts,
        version=__version__,
        data=_as_script(_data(record, matrix)),
    )


def _as_script(data: dict[str, Any]) -> Markup:
    """Return data as JSON that is safe in a page: it cannot end the element or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def _summary(group: Group) -> str:
    bad = sum(any(cell.ending.is_bad for cell in row.cells) for row in group.rows)
    edges = sum(any(row.boundaries) for row in group.rows)
    words = [counted(len(group.rows), "behaviour")]
    words += [f"{bad} failing"] if bad else []
    words += [f"{edges} with boundaries"] if edges else []
    return " · ".join(words)


def _row(number: int, row: Row) -> _Row:
    cells = [_cell(cell, edge) for cell, edge in zip(row.cells, row.boundaries, strict=True)]
    return _Row(number, row.title, row.sentence, cells)


def _cell(cell: Cell, edge: bool) -> _Cell:
    if cell.ending is Absent.NO_TEST:
        return _Cell("absent", "", "", "")
    word = cell.ending.shown
    text = spoken = word
    if cell.seen:
        seen = cell.seen if len(cell.seen) <= _CELL else cell.seen[: _CELL - 1] + "…"
        # For a passed test the observation is enough; otherwise the outcome comes first.
        text = seen if cell.ending is Outcome.PASSED else f"{word}: {seen}"
        spoken = f"{word}, {seen}"
    tags = ["bad"] if cell.ending.is_bad else [_TAGS[cell.ending]] if cell.ending in _TAGS else []
    css = cell.ending.value
    if edge:
        tags.append("edge")
        css += " edge"
        spoken += ", otherwise than the kernel before"
    return _Cell(css, " ".join(tags), f"{cell.ending.sign} {text}", spoken)


def _problems(matrix: Matrix) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(matrix.rows):
        bad = [(column, cell) for column, cell in enumerate(row.cells) if cell.ending.is_bad]
        if bad:
            links = [{"row": number, "column": column, "label": matrix.kernels[column].label} for column, _ in bad]
            reasons = dict.fromkeys(f"{cell.ending.shown}: {cell.reason}" for _, cell in bad)
            found.append({"title": row.title, "links": links, "text": "; ".join(reasons)})
    return found


def run_facts(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """Yield the known facts of a run as names and texts, without empty ones."""
    host = run.host
    facts = {
        "Command": command_of(run),
        "Machine": ", ".join(
            part
            for part in (
                host.system,
                f"Linux {host.kernel}" if host.kernel else "",
                host.processor,
                counted(host.cpus, "processor"),
                f"{host.memory} MiB",
            )
            if part
        ),
        "Acceleration": f"{run.accelerator} ({run.accelerator_reason})" if run.accelerator else "",
        "Isolation": run.isolation,
        "Loaders": ", ".join(run.loaders),
        "Workers": str(run.workers) if run.workers else "",
        "Shard": run.shard,
        "Tests' revision": run.revision,
        "Took": f"{run.seconds:.0f} s" if run.seconds else "",
        "Exit status": "" if run.exit_status is None else str(run.exit_status),
        "Tools": ", ".join(f"{name} {version}" for name, version in run.tools.items()),
        "Not recorded": "; ".join(run.problems),
    }
    return ((name, text) for name, text in facts.items() if text)


def command_of(run: RecordedRun) -> str:
    """Return a run's command line; pytest's is recorded without its name, that of `harness` with it."""
    first, *rest = run.arguments or ("",)
    return " ".join(["harness", *rest] if first.endswith("/harness") else ["pytest", *run.arguments])


def _kernel_times(matrix: Matrix) -> list[dict[str, Any]]:
    figures = []
    for column, kernel in enumerate(matrix.kernels):
        # A test may be several rows.
        results = list({row.test: row.cells[column].result for row in matrix.rows}.values())
        ran = [one for one in results if one is not None and one.start is not None]
        boots = [one.boot for one in ran if one.boot is not None]
        phases = ("setup", "call", "teardown") if ran else ()
        parts = [statistics.median(getattr(one, name) for one in ran) for name in phases]
        figures.append((kernel, min(boots) if boots else None, parts))
    longest_boot = max((boot for _, boot, _ in figures if boot is not None), default=1.0) or 1.0
    longest = max((sum(parts) for _, _, parts in figures), default=1.0) or 1.0
    return [_kernel_time(kernel, boot, parts, longest_boot, longest) for kernel, boot, parts in figures]


def _kernel_time(
    kernel: RecordedKernel, boot: float | None, parts: list[float], longest_boot: float, longest: float
) -> dict[str, Any]:
    x, drawn = 0.0, []
    for part, fill in zip(parts, ("fill1", "fill2", "fill3"), strict=False):
        width = round(100 * part / longest, 2)
        drawn.append((round(x, 2), width, fill))
        x += width
    return {
        "label": kernel.label,
        "boot": boot,
        "boot_share": round(100 * (boot or 0) / longest_boot, 2),
        "boot_text": "" if boot is None else f"{boot:.1f} s",
        "parts": drawn,
        "test_text": f"{1000 * sum(parts):.0f} ms" if parts else "",
    }


def _test_times(matrix: Matrix, most: int = 12) -> list[dict[str, Any]]:
    figures = []
    for row in {row.test: row for row in matrix.rows}.values():
        calls = [cell.result.call for cell in row.cells if cell.result is not None and cell.ending.is_verdict]
        if calls:
            figures.append((statistics.median(calls), min(calls), max(calls), row.title))
    figures.sort(key=lambda one: one[0], reverse=True)
    figures = figures[:most]
    longest = max((high for _, _, high, _ in figures), default=1.0) or 1.0
    return [
        {
            "title": title,
            "low": round(100 * low / longest, 2),
            "span": round(max(100 * (high - low) / longest, 0.3), 2),
            "middle": round(min(100 * middle / longest, 98.8), 2),
            "text": f"{middle:.2f} s" if middle >= 0.1 else f"{1000 * middle:.0f} ms",
        }
        for middle, low, high, title in figures
    ]


def _data(record: RunRecord, matrix: Matrix) -> dict[str, Any]:
    strings = _Strings()
    texts = sum(
        bool(text)
        for result in record.results
        for text in (result.failure, result.output, *(fault.excerpt for fault in result.faults))
    )
    limit = max(_EXCERPT_LEAST, min(_EXCERPT_MOST, EXCERPTS // max(texts, 1)))
    runs = {run.id: number for number, run in enumerate(record.runs)}
    return {
        "states": [{"name": ending.value, "word": ending.shown} for ending in ENDINGS],
        "kernels": [{"label": one.label, "version": one.version, "release": one.release} for one in matrix.kernels],
        "runs": [f"{run.id} of {run.started} on {run.host.name}" for run in record.runs],
        "rows": [_row_data(row, matrix.kernels, runs, strings, limit) for row in matrix.rows],
        "strings": strings.all,
    }


_KERNEL = "\0"
"""Placeholder for the kernel's label in a row's pattern of ids."""


def _row_data(
    row: Row, kernels: tuple[RecordedKernel, ...], runs: dict[str, int], strings: _Strings, limit: int
) -> dict[str, Any]:
    results = [cell.result for cell in row.cells if cell.result is not None]
    pattern = next((one.nodeid.replace(one.kernel, _KERNEL, 1) for one in results if one.kernel in one.nodeid), "")
    cells = []
    older: int | None = None
    for column, (cell, edge) in enumerate(zip(row.cells, row.boundaries, strict=True)):
        made: dict[str, Any] = {"state": ENDINGS.index(cell.ending)}
        if edge:
            made["before"] = older
        if cell.ending.is_verdict:
            older = column
        made["reason"] = strings.place(_shortened(cell.reason, 400))
        if cell.result is not None:
            made |= _result_data(cell.result, runs, strings, limit)
            made["seen"] = [_observation(one, strings) for one in cell.observations] or None
            if cell.result.nodeid != pattern.replace(_KERNEL, kernels[column].label):
                made["id"] = cell.result.nodeid
        cells.append({name: value for name, value in made.items() if value is not None})
    return {"test": row.test, "title": row.title, "sentence": row.sentence, "id": pattern, "cells": cells}


def _result_data(result: RecordedResult, runs: dict[str, int], strings: _Strings, limit: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "call": round(result.call, 3),
        "setup": round(result.setup, 3),
        "attempts": result.attempts if result.attempts > 1 else None,
        "run": runs[result.run] if len(runs) > 1 else None,
        "failure": strings.place(_shortened(result.failure, limit)),
        "output": strings.place(_shortened(result.output, limit)),
    }
    if result.leaks:
        made["leaks"] = [strings.place(leak.text) for leak in result.leaks]
    if result.faults:
        made["faults"] = [
            {"title": strings.place(fault.title), "excerpt": strings.place(_shortened(fault.excerpt, limit))}
            for fault in result.faults
        ]
    return made


def _observation(one: Observation, strings: _Strings) -> dict[str, Any]:
    made = {
        "contract": one.contract,
        "observed": one.observed,
        "expected": one.expected,
        "source": strings.place(one.source),
        "note": strings.place(one.note),
    }
    return {name: value for name, value in made.items() if value is not None or name == "observed"}


def _shortened(text: str, limit: int) -> str:
    """Return a text's start and end, for a page."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 3]}\n[...]\n{text[-(limit - limit // 3) :]}"
