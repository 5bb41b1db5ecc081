"""What all tests of this checkout share: the option by which a test that cannot run for want of a program fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.needs import OPTION, Missing, not_tested


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        OPTION, action="store_true", help="fail where a program or library that a test needs is not installed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the tests of the option."""
    # Where tests are named by package (--pyargs), this file may be read when all options have been.
    Missing.fails = config.getoption(OPTION, default=False)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make a module that is skipped whole, for want of a Python module, an error too."""
    report = yield
    if Missing.fails and report.skipped:
        report.outcome = "failed"
        report.longrepr = str(report.longrepr)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say in the last lines, after pytest's own summary, what was not tested."""
    yield
    stats = terminalreporter.stats
    reports = [one for key in ("skipped", "failed", "error") for one in stats.get(key, [])]
    lines = not_tested(map(_reason, reports))
    wholes = [one for one in stats.get("skipped", []) if isinstance(one, pytest.CollectReport)]
    lines += [f"{one.nodeid}: {_reason(one)}" for one in wholes if not not_tested([_reason(one)])]
    if lines:
        terminalreporter.section("not tested on this machine")
        for line in lines:
            terminalreporter.line(line)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return what a report says of a test that was skipped or failed."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
