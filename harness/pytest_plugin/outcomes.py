"""Changes pytest's reports: the kind of trouble, output of guests, tracebacks that end in the test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType

import _pytest
import pytest

from harness.errors import (
    BootError,
    GuestError,
    HarnessError,
    LoaderCannot,
    VngFailed,
)
from harness.pytest_plugin import evidence
from harness.pytest_plugin.collection import kernel_of
from harness.pytest_plugin.retry import LOST, note_loss
from harness.pytest_plugin.state import COMPLAINED, FOUND, GUESTS, OUTCOME, REPORTED
from harness.results import properties
from harness.results.outcomes import Trouble, trouble_of


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of guest functions, and the kind of trouble that ended the test."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        call.excinfo = _ending_in_test(call.excinfo)
    report = yield
    if call.when == "call" and GUESTS in item.stash:
        # Each once: a subtest has a report of its own, before that of its test.
        outputs = item.stash[GUESTS].outputs
        reported = item.stash.get(REPORTED, 0)
        item.stash[REPORTED] = len(outputs)
        for output in outputs[reported:]:
            for stream, text in (("stdout", output.stdout), ("stderr", output.stderr)):
                if text:
                    report.sections.append((f"Guest {stream} of {output.function}", text))
    if call.excinfo is not None and isinstance(call.excinfo.value, GuestError):
        for stream, text in (("stdout", call.excinfo.value.stdout), ("stderr", call.excinfo.value.stderr)):
            if text:
                report.sections.append((f"Guest {stream} of the guest process", text))
    if call.when == "call":
        item.stash[OUTCOME] = report.outcome
    elif call.when == "teardown" and FOUND in item.stash:
        report.sections.append((evidence.ALSO_FOUND, item.stash[FOUND]))
    if call.when == "teardown" and report.skipped and item.stash.get(COMPLAINED, False):
        # The marker xfail only covers the test's assertions.
        report.outcome = "failed"
        vars(report).pop("wasxfail", None)
    if call.excinfo is not None and isinstance(call.excinfo.value, LoaderCannot):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {call.excinfo.value.what}")
    if call.excinfo is not None and report.failed and isinstance(call.excinfo.value, HarnessError):
        error = call.excinfo.value
        if report.when != "call":
            report.longrepr = f"{type(error).__name__}: {error}"  # no line of the test caused it
        trouble = trouble_of(error)
        if trouble is not None:
            report.user_properties.append((properties.TROUBLE, trouble.value))
            if not note_loss(item, report, error):
                # For JUnit's file, which is written from the last report.
                item.user_properties.append((properties.TROUBLE, trouble.value))
        if isinstance(error, BootError) and report.when == "setup":
            report.user_properties.append((properties.NOT_BOOTED, _not_booted(item, error)))
    if report.failed:
        raised = call.excinfo.value if call.excinfo is not None else None
        report.sections += evidence.sections(item, raised if isinstance(raised, HarnessError) else None)
    return report


def _not_booted(item: pytest.Item, error: BootError) -> properties.NotBooted:
    choice = None if isinstance(error, VngFailed) else kernel_of(item)
    return {"kernel": choice.label if choice is not None else "", "what": error.what, "hint": error.hint}


def _ending_in_test(excinfo: pytest.ExceptionInfo[BaseException]) -> pytest.ExceptionInfo[BaseException]:
    """Return the error with a traceback that ends in the test's line: the harness's frames add nothing."""
    error = excinfo.value
    if not isinstance(error, (HarnessError, AssertionError)):
        return excinfo
    frames = [(entry.tb_frame, entry.tb_lasti, entry.tb_lineno) for entry in _entries(excinfo.tb)]
    while frames and _is_below(frames[-1][0].f_code.co_filename, error):
        frames.pop()
    if not frames:
        return excinfo
    traceback = None
    for frame in reversed(frames):
        traceback = TracebackType(traceback, *frame)
    if error.__cause__ is not None and (isinstance(error, HarnessError) or isinstance(error.__cause__, HarnessError)):
        error.__cause__, error.__suppress_context__ = None, True
    return pytest.ExceptionInfo.from_exception(error.with_traceback(traceback))


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_below(file: str, error: BaseException) -> bool:
    # contextlib's frame is between the body of a with statement and this package's context managers.
    # The package's own tests, harness/contracts/test_*.py, are tests like any others.
    path = Path(file)
    inside = Path(__file__).parents[1] in path.parents and not path.name.startswith("test_")
    # A test that asks for a fixture while it runs gets the error through pytest.
    asked = isinstance(error, HarnessError) and Path(_pytest.__file__).parent in path.parents
    return inside or asked or path.name == "contextlib.py"


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show infrastructure trouble as an error or as a test that was not run; trouble of the kernel is a failure.

    This also applies to setup and teardown.
    """
    known = getattr(report, "user_properties", [])
    if properties.values(known, properties.NOT_RUN):
        return "not run", "-", "NOT RUN"
    troubles = properties.troubles(known)
    if report.outcome == LOST:
        return "retried", "R", "RETRIED"
    if report.failed and Trouble.INFRASTRUCTURE in troubles:
        return "error", "I", "INFRASTRUCTURE"
    if report.failed and troubles:
        return "failed", "F", "FAILED"
    return None
