"""Plugin of the pytest that tests mutants (`-p harness.mutants.inner_plugin`): writes reports, orders tests.

It follows a plan: chosen tests for each of some mutants. When several mutants are in one kernel, it sets the mutant's
switch in the guest before each test.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestError, InfrastructureError
from harness.mutants.switches import PARAMETERS
from harness.pytest_plugin.options import VM_FIXTURE
from harness.pytest_plugin.state import ALONE
from harness.results import properties
from harness.testing import Guest

REPORTS = "HARNESS_MUTANTS_REPORTS"
"""Path of the file for reports, one line of JSON each."""
PLAN = "HARNESS_MUTANTS_PLAN"
"""Path of a JSON list of rounds, as :func:`harness.mutants.session.whole_round` makes them."""

_SETTLE = 0.2
"""Seconds for the kernel to do deferred frees after a test, before the passed mutants are read."""

_ATTEMPTS = 2
"""Number of failures that count as a failure: on a busy machine, a test may fail once for another reason."""

_now: dict[str, Any] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the rounds of the plan; each ends at the first test that fails."""
    if session.testsfailed:
        return None  # a collection error, which pytest reports
    items = {item.nodeid: item for item in session.items}
    for item in session.items:
        # A machine has one mutant's switch at a time, and what a mutant damages is not the next test's.
        item.stash[ALONE] = True
    properties_of = {item.nodeid: list(item.user_properties) for item in session.items}
    for one in json.loads(Path(os.environ[PLAN]).read_text()):
        _now.clear()
        _now.update(one, failed=False)
        tests = list(items)[one["part"] :: one["of"]] if one["tests"] is None else one["tests"]
        tests = [test for test in tests if test in items]
        begun = time.monotonic()
        for place, test in enumerate(tests):
            if one["seconds"] and time.monotonic() - begun > one["seconds"]:
                break
            item = items[test]
            following = items[tests[place + 1]] if place + 1 < len(tests) else None
            for attempt in range(1, _ATTEMPTS + 1):
                _now.update(failed=False, attempt=attempt)
                # It may have run before for another mutant.
                item.user_properties[:] = properties_of[test]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if not _now["failed"]:
                    break
            if _now["failed"] and not one["watch"]:
                break
        session._setupstate.teardown_exact(None)
        _write({"round": one["mutant"], "tests": len(tests)})
    return True


@pytest.fixture(autouse=True)
def thrown_switch(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turn the current mutant on in the guest's kernel; afterwards read which mutants the kernel has come past."""
    if _now.get("number") is None or VM_FIXTURE not in request.fixturenames:
        yield
        return
    guest = Guest(request.getfixturevalue(VM_FIXTURE))
    _ask_what_to_expect(request)
    found = guest.call(throw, PARAMETERS, _now["number"])
    if found != _now["number"]:
        raise InfrastructureError(f"the switch of {_now['mutant']} did not stay: {found}, not {_now['number']}")
    yield
    if _now["watch"]:
        passed = ""
        # The test's own report covers a guest that is gone.
        with contextlib.suppress(GuestError):
            passed = guest.call(passed_after, PARAMETERS, _SETTLE)
        _write({"watched": request.node.nodeid, "passed": passed})
    guest.close()


def _ask_what_to_expect(request: pytest.FixtureRequest) -> None:
    """Run the probes that decide expectations on the kernel without the mistake.

    Their answers are kept for the session: if a mutant answered, it and all later mutants would be compared with the
    mistake.
    """
    if "probed" in request.fixturenames:
        request.getfixturevalue("probed")(request.getfixturevalue("contract"))


def throw(folder: str, number: int) -> int:
    """Turn one mutant on; return the number that is on."""
    Path(folder, "mutants_passed").write_text("0")
    Path(folder, "mutant").write_text(str(number))
    return int(Path(folder, "mutant").read_text())


def passed_after(folder: str, seconds: float) -> str:
    """Return the mutants that the kernel has come past, after it has settled, as a hexadecimal bitmap."""
    time.sleep(seconds)
    return Path(folder, "mutants_passed").read_text().strip()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the report of one phase of a test at once, before anything else can go wrong."""
    if report.failed:
        _now["failed"] = True
    if report.when == "call" or not report.passed:
        _write(
            {
                "mutant": _now.get("mutant", ""),
                "attempt": _now.get("attempt", 1),
                "test": report.nodeid,
                "when": report.when,
                "outcome": "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome,
                "seconds": round(report.duration, 3),
                "troubles": properties.values(report.user_properties, properties.TROUBLE),
                "leaks": [leak["text"] for leak in properties.values(report.user_properties, properties.LEAK)],
                "faults": [fault["title"] for fault in properties.values(report.user_properties, properties.FAULT)],
                "message": _message(report) if report.failed else "",
                "at": time.time(),
            }
        )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write a collection error."""
    if report.failed:
        _write(
            {
                "mutant": "",
                "test": report.nodeid,
                "when": "collect",
                "outcome": "failed",
                "message": report.longreprtext,
            }
        )


def _message(report: pytest.TestReport) -> str:
    """Return the message of a failed test, without the lines of the test itself."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash is not None else report.longreprtext


def _write(record: dict[str, object]) -> None:
    with Path(os.environ[REPORTS]).open("a") as stream:
        stream.write(json.dumps(record) + "\n")
