"""Makes what a guest wrote visible in pytest's reports, so that no terminal and no CI system acts on it.

It comes into reports in exception texts, diffs, guests' output, and what a test prints of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from _pytest._code.code import ExceptionChainRepr, ExceptionRepr, ReprEntry, ReprFileLocation, ReprTraceback

from harness.pytest_plugin.collection import kernel_of
from harness.util.printable import printable


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make the report of a test that has a kernel printable, when all others are done with it."""
    report = yield
    if kernel_of(item) is not None:
        # pytest colours log records itself.
        report.sections = [
            (printable(name), printable(text, colours=name.startswith("Captured log")))
            for name, text in report.sections
        ]
        report.longrepr = _plain(report.longrepr)
    return report


def _plain(shown: Any) -> Any:
    """Return how a test ended, with all texts printable; its objects are changed in place."""
    if isinstance(shown, str):
        return printable(shown)
    if isinstance(shown, tuple):  # a skip: path, line, reason
        return tuple(printable(part) if isinstance(part, str) else part for part in shown)
    if isinstance(shown, ExceptionChainRepr):
        shown.chain = [
            (_traceback(traceback), _place(place), printable(word) if word is not None else None)
            for traceback, place, word in shown.chain
        ]
    if isinstance(shown, ExceptionRepr):
        shown.sections = [(printable(name), printable(text), line) for name, text, line in shown.sections]
        if shown.reprtraceback is not None:
            _traceback(shown.reprtraceback)
        _place(shown.reprcrash)
    return shown


def _traceback(traceback: ReprTraceback) -> ReprTraceback:
    if traceback.extraline is not None:
        traceback.extraline = printable(traceback.extraline)
    for entry in traceback.reprentries:
        entry.lines = [printable(line) for line in entry.lines]
        if isinstance(entry, ReprEntry):
            if entry.reprlocals is not None:
                entry.reprlocals.lines = [printable(line) for line in entry.reprlocals.lines]
            if entry.reprfuncargs is not None:
                entry.reprfuncargs.args = [
                    (printable(name), printable(str(value))) for name, value in entry.reprfuncargs.args
                ]
            _place(entry.reprfileloc)
    return traceback


def _place(place: ReprFileLocation | None) -> ReprFileLocation | None:
    if place is not None:
        place.message = printable(place.message)
    return place
