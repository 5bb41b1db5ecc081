"""The pytest that tests mutants: rounds of a plan, each with its own tests, over and over in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.mutants import inner_plugin

pytest_plugins = ["pytester"]

TESTS = """
from pathlib import Path
import pytest

def count(name):
    path = Path(name)
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    return len(path.read_text())

@pytest.fixture(scope="module")
def thing():
    return 1

def test_good(thing):
    count("good")

def test_bad(thing):
    assert count("bad") == 0, "it is bad"

def test_flaky():
    assert count("flaky") > 1

def test_last():
    pass
"""


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pytester.makepyfile(test_it=TESTS)
    Path("plan.json").write_text(json.dumps(plan))
    reports = Path("reports").absolute()
    reports.touch()
    monkeypatch.setenv(inner_plugin.PLAN, str(Path("plan.json").absolute()))
    monkeypatch.setenv(inner_plugin.REPORTS, str(reports))
    pytester.runpytest_subprocess("-p", inner_plugin.__name__)
    return [json.loads(line) for line in reports.read_text().splitlines()]


def round_of(mutant: str, tests: list[str] | None, *, watch: bool = False) -> dict[str, Any]:
    names = None if tests is None else [f"test_it.py::test_{name}" for name in tests]
    return {"mutant": mutant, "number": None, "tests": names, "watch": watch, "part": 0, "of": 1, "seconds": 0}


def outcomes(records: list[dict[str, Any]], mutant: str) -> list[tuple[str, int, str]]:
    return [
        (one["test"].rpartition("_")[2], one["attempt"], one["outcome"])
        for one in records
        if one.get("mutant") == mutant and "outcome" in one
    ]


def test_each_round_runs_its_tests_in_its_order_and_ends_at_the_first_that_fails_twice(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [round_of("one", ["last", "bad", "good"]), round_of("two", ["flaky", "good"]), round_of("three", ["bad"])]
    records = run(pytester, monkeypatch, plan)
    assert outcomes(records, "one") == [("last", 1, "passed"), ("bad", 1, "failed"), ("bad", 2, "failed")]
    assert outcomes(records, "two") == [("flaky", 1, "failed"), ("flaky", 2, "passed"), ("good", 1, "passed")]
    assert outcomes(records, "three") == [("bad", 1, "failed"), ("bad", 2, "failed")]
    assert [one["round"] for one in records if "round" in one] == ["one", "two", "three"]
    failed = next(one for one in records if one.get("outcome") == "failed")
    assert failed["message"].startswith("AssertionError: it is bad")


def test_a_round_that_watches_runs_everything(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    records = run(pytester, monkeypatch, [round_of("", None, watch=True)])
    assert [name for name, _, _ in outcomes(records, "")] == ["good", "bad", "bad", "flaky", "flaky", "last"]


def test_what_cannot_be_collected_is_written_down(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(test_broken="import nothing_of_that_name")
    records = run(pytester, monkeypatch, [round_of("one", ["last"])])
    assert [(one["when"], one["outcome"]) for one in records] == [("collect", "failed")]


def test_after_its_seconds_a_round_begins_no_further_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = run(pytester, monkeypatch, [{**round_of("one", ["good", "last"]), "seconds": 1e-9}])
    assert outcomes(records, "one") == []


SWITCHED = """
from pathlib import Path
import pytest
from harness.mutants import inner_plugin

def note(line):
    with Path("order").open("a") as stream:
        stream.write(line + "\\n")

class Guest:
    def __init__(self, vm):
        pass
    def call(self, function, folder, number):
        note(f"{function.__name__} {number}")
        return number
    def close(self):
        pass

inner_plugin.Guest = Guest

@pytest.fixture
def _harness_vm():
    return None

@pytest.fixture
def probed(_harness_vm):
    return lambda contract: note(f"probe {contract}")
"""

CONTRACTS = """
import pytest

@pytest.mark.parametrize("contract", ["one", "two"])
def test_it(contract, probed):
    pass
"""


def test_probes_run_on_the_kernel_before_the_mutant_is_turned_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(SWITCHED)
    pytester.makepyfile(test_contracts=CONTRACTS)
    tests = ["test_contracts.py::test_it[one]", "test_contracts.py::test_it[two]"]
    records = run(pytester, monkeypatch, [{**round_of("it", None), "tests": tests, "number": 7}])
    assert [(one["test"], one["outcome"]) for one in records if "outcome" in one] == [
        (test, "passed") for test in tests
    ]
    assert Path("order").read_text().split() == "probe one throw 7 probe two throw 7".split()
