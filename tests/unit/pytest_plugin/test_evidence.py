"""The command that runs one failed test alone."""

from __future__ import annotations

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
