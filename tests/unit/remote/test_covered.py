"""Steps from line to line of functions that run in the guest, and where coverage.py gets them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.guest.process import Steps, unpack
from harness.remote import covered, pickling
from tests.unit.remote.picklable import constant


def halve(number: int) -> int:
    if number % 2:
        return constant()
    return number // 2


def steps_of(function: Callable[..., Any], *arguments: Any) -> set[tuple[str, int, int]]:
    """Return the steps of a function that is pickled and run as in the guest, by a tracer of this process's own."""
    pickled = pickling.pack(function)
    unpacked = unpack(pickled.code, pickled.names, pickled.imports)
    steps = Steps()
    before = sys.gettrace()
    sys.settrace(steps.enter)
    try:
        unpacked(*arguments)
    finally:
        sys.settrace(before)
    return steps.found


def lines_of(function: Callable[..., Any]) -> tuple[str, int]:
    code = function.__code__
    return code.co_filename, code.co_firstlineno


def test_the_lines_that_run_are_noted_in_order() -> None:
    file, first = lines_of(halve)
    assert steps_of(halve, 4) == {(file, -first, first + 1), (file, first + 1, first + 3), (file, first + 3, -first)}


def test_a_function_from_another_module_is_of_its_own_file() -> None:
    file, first = lines_of(constant)
    assert {step for step in steps_of(halve, 3) if step[0] == file} == {
        (file, -first, first + 1),
        (file, first + 1, -first),
    }


class FakeCoverage:
    """What this package uses of coverage.Coverage."""

    def __init__(self, *, branch: bool) -> None:
        self.branch = branch
        self.added: dict[str, Any] = {}

    def get_data(self) -> FakeCoverage:
        return self

    def get_option(self, name: str) -> bool:
        assert name == "run:branch"
        return self.branch

    def measured_files(self) -> set[str]:
        return {__file__}

    def add_arcs(self, arcs: dict[str, Any]) -> None:
        assert self.branch
        self.added |= arcs

    def add_lines(self, lines: dict[str, Any]) -> None:
        assert not self.branch
        self.added |= lines


@pytest.mark.parametrize(("branch", "expected"), [(True, {(-7, 8), (8, -7)}), (False, {8})])
def test_only_files_that_are_measured_get_them(branch: bool, expected: set[Any], tmp_path: Path) -> None:
    coverage = FakeCoverage(branch=branch)
    covered.add(coverage, [(__file__, -7, 8), (__file__, 8, -7), (str(tmp_path / "other.py"), -1, 2)])
    assert coverage.added == {__file__: expected}
