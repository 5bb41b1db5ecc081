"""JUnit's file: lost infrastructure is an error there, trouble of the guest a failure, a lost attempt no test case.

pytest makes what fails in a test's call a `<failure>`, and what is found before or after it an `<error>`. It has
no hook for this, so the file is changed after pytest has written it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Generator
from pathlib import Path

import pytest

from harness.results import properties
from harness.results.outcomes import Outcome, worst


class JUnit:
    """Changes the file at the end of the run.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Rewrite the file."""
        yield
        if not self._path.exists():
            return
        tree = ET.parse(self._path)  # noqa: S314 - pytest has written it
        if sum(_corrected(suite) for suite in tree.iter("testsuite")):
            tree.write(self._path, encoding="utf-8", xml_declaration=True)


def _corrected(suite: ET.Element) -> bool:
    """Correct a suite and its counts; return whether there was anything to correct."""
    before = len(suite), len(list(suite.iter("failure")))
    for case in suite.findall("testcase"):
        found = [(str(one.get("name")), str(one.get("value"))) for one in case.iter("property")]
        troubles = properties.troubles(found)
        if properties.values(found, properties.LOST):
            suite.remove(case)
        elif troubles:
            is_lost = worst(trouble.outcome for trouble in troubles) is Outcome.INFRASTRUCTURE
            for one in [*case.findall("failure"), *case.findall("error")]:
                one.tag = "error" if is_lost else "failure"
    if before == (len(suite), len(list(suite.iter("failure")))):
        return False
    for name, tag in (("errors", "error"), ("failures", "failure"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    return True
