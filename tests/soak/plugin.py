"""Writes a line of JSON for each test of a soak: how it ended, and what the pytest process uses then.

pytest keeps the reports of every test until its end, some KiB each. Those of tests that passed are thrown away here, so
that what grows is the harness.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.results import properties


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare which turns are taken, and where the lines go."""
    group = parser.getgroup("soak")
    group.addoption("--soak-turns", metavar="FIRST:END", default="0:1")
    group.addoption("--soak-lines", metavar="FILE", type=Path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each turn."""
    first, end = map(int, metafunc.config.getoption("--soak-turns").split(":"))
    metafunc.parametrize("turn", range(first, end))


def pytest_configure(config: pytest.Config) -> None:
    """Start writing."""
    config.pluginmanager.register(Lines(config.getoption("--soak-lines")), "soak-lines")


class Lines:
    """Writes the lines.

    Args:
        path: The file; appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Write the line of a test that is over."""
        self._kinds = []
        result = yield
        forget_passed(item)
        line = {"turn": item.callspec.params["turn"], "kinds": self._kinds, **usage()}  # type: ignore[attr-defined]
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a phase of the test failed."""
        if not report.passed:
            troubles = [trouble.value for trouble in properties.troubles(report.user_properties)]
            self._kinds += troubles or [report.outcome]


def forget_passed(item: pytest.Item) -> None:
    """Throw away what pytest keeps of tests that passed."""
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    for kind in ("", "passed"):
        reporter.stats.pop(kind, None)
    item.user_properties.clear()


def usage() -> dict[str, int]:
    """Return what this process uses: KiB of memory of its own, descriptors."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"rss": int(status["VmRSS"].split()[0]), "descriptors": len(list(Path("/proc/self/fd").iterdir()))}
