"""The command that runs one failed test alone."""

from __future__ import annotations

from typing import Literal

import pytest

from harness.pytest_plugin import evidence


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--kernel=6.1", "tests/a.py", "-x"], ["--kernel=6.1", "-x"]),
        (["--record=r.json", "--record", "r.json", "--junit-xml=j.xml", "--junitxml", "j.xml"], []),
        (["-n", "2", "-n2", "--numprocesses=4", "--dist", "load"], []),
        (["--lf", "-q", "--verdicts", "--accel=tcg"], ["--accel=tcg"]),
        (["-k", "tests and not slow", "-nothing"], ["-k", "tests and not slow", "-nothing"]),
        (["--record"], []),
    ],
)
def test_what_is_about_the_whole_run_is_dropped(words: list[str], kept: list[str]) -> None:
    found = evidence._without(words, evidence._DROPPED, flags=evidence._DROPPED_FLAGS, places=["tests/a.py"])
    assert found == kept


def test_the_kernels_are_dropped_where_one_is_named() -> None:
    assert evidence._without(["--kernel", "6.1", "--kernel=6.12", "-x"], ["--kernel"]) == ["-x"]


def report(
    when: Literal["call", "teardown"], outcome: Literal["passed", "failed"], *captions: str
) -> pytest.TestReport:
    sections = [(caption, "text") for caption in captions]
    return pytest.TestReport("t.py::test_x", ("t.py", 0, "test_x"), {}, outcome, None, when, sections)


@pytest.mark.parametrize(
    ("failed", "shown"),
    [
        (
            ("Guest stdout of f", evidence.CONSOLE, evidence.REPEAT),
            ["Guest stdout of f", evidence.ALSO_FOUND, evidence.CONSOLE, evidence.REPEAT],
        ),
        ((evidence.REPEAT,), [evidence.ALSO_FOUND, evidence.REPEAT]),
        (("Guest stdout of f",), ["Guest stdout of f", evidence.ALSO_FOUND]),
    ],
)
def test_what_the_teardown_found_is_shown_before_how_to_run_the_test(failed: tuple[str, ...], shown: list[str]) -> None:
    order = evidence.EvidenceLast()
    call = report("call", "failed", *failed)
    teardown = report("teardown", "passed", "Captured stdout teardown", evidence.ALSO_FOUND)
    for one in (call, teardown):
        order.pytest_runtest_logreport(one)
    assert [caption for caption, _ in call.sections] == shown
    assert [caption for caption, _ in teardown.sections] == ["Captured stdout teardown"]


def test_what_is_found_after_a_test_that_passed_stays_where_it_is() -> None:
    order = evidence.EvidenceLast()
    teardown = report("teardown", "failed", evidence.ALSO_FOUND, evidence.REPEAT)
    for one in (report("call", "passed"), teardown):
        order.pytest_runtest_logreport(one)
    assert [caption for caption, _ in teardown.sections] == [evidence.ALSO_FOUND, evidence.REPEAT]
