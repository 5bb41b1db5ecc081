"""`harness report`: run records as a matrix of behaviours and kernels, for browsers, job summaries and terminals.

Imports records and reports below it as they are needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.results.types import RunRecord


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `report`."""
    summary = "show run records as a matrix of behaviours and kernels"
    parser = subparsers.add_parser(
        "report",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". Several records are merged first, as harness merge does "
        "with --relabel --partial --prefer latest. Without an option, the matrix is printed.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("record", type=Path, nargs="+", metavar="RECORD", help="what pytest --record=FILE wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs no other file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write Markdown, as for a job's summary")
    parser.add_argument("--terminal", action="store_true", help="print the matrix (default without the others)")
    parser.add_argument("--title", default="Behaviours by kernel", help="what stands above it")


def _run(arguments: argparse.Namespace) -> int:
    from harness.results.file import read
    from harness.results.merge import Prefer, merge

    records = [(str(path), read(path)) for path in arguments.record]
    record = records[0][1]
    if len(records) > 1:
        record = merge(records, prefer=Prefer.LATEST, relabel=True, partial=True)
    if arguments.html is not None:
        from harness.report.html import as_html

        _write(arguments.html, as_html, record, arguments.title)
    if arguments.markdown is not None:
        from harness.report.markdown import as_markdown

        _write(arguments.markdown, as_markdown, record, arguments.title)
    if arguments.terminal or (arguments.html is None and arguments.markdown is None):
        from harness.report.terminal import show

        show(record, tables.console(), title=arguments.title)
    return 0


def _write(path: Path, make: Callable[..., str], record: RunRecord, title: str) -> None:
    from harness.results.file import replace_file

    replace_file(path, make(record, title=title).encode(), "report")
