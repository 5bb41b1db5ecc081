"""Programs that are asked for the names of their tests: the wait ends, whatever they do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.programs.listing import printed_list

IN_TIME = 60.0


def listed(code: str, cwd: Path, timeout: float = IN_TIME) -> str:
    return printed_list([sys.executable, "-c", code], cwd, timeout=timeout)


def test_what_it_prints_is_returned(tmp_path: Path) -> None:
    assert listed("import os; print('TestÜ', os.getcwd())", tmp_path) == f"TestÜ {tmp_path}\n"


def test_it_has_no_input_to_wait_for(tmp_path: Path) -> None:
    assert listed("import sys; print(repr(sys.stdin.read()))", tmp_path) == "''\n"


@pytest.mark.parametrize(
    ("code", "timeout", "said"),
    [
        ("import time; time.sleep(1000)", 0.2, "did not end within 0.2 s"),
        ("while True: print('TestA' * 1000)", IN_TIME, "printed more than 8 MiB"),
        ("import sys; print('-test.list: what?', file=sys.stderr); sys.exit(2)", IN_TIME, "ended with status 2"),
        ("import os; os.abort()", IN_TIME, "was ended by SIGABRT"),
    ],
)
def test_a_program_that_cannot_list_is_one_error(tmp_path: Path, code: str, timeout: float, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        listed(code, tmp_path, timeout)
    assert said in raised.value.what
    assert "run it by hand" in raised.value.hint
    if "status 2" in said:
        assert raised.value.detail == "-test.list: what?"


def test_what_it_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    fork = """
import os, time
if os.fork() == 0:
    time.sleep(1000)
print("TestA")
"""
    assert listed(fork, tmp_path) == "TestA\n"
