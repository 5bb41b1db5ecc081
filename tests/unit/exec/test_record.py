"""The record of foreign programs."""

from __future__ import annotations

from pathlib import Path

from harness.exec.formats import parse_go
from harness.exec.record import ExecRecord
from harness.exec.run import Done
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.results.file import read
from harness.results.outcomes import Outcome

GO = """=== RUN   TestMany
=== RUN   TestMany/one
    many_test.go:18: wrong
=== RUN   TestMany/two
--- FAIL: TestMany (0.01s)
    --- FAIL: TestMany/one (0.00s)
    --- PASS: TestMany/two (0.00s)
=== RUN   TestAlone
--- FAIL: TestAlone (0.00s)
FAIL
"""


def test_a_test_that_failed_by_the_tests_in_it_says_so(tmp_path: Path) -> None:
    record = ExecRecord(tmp_path / "r.json", ["harness", "exec"])
    record.add_choice(Choice("6.1", KernelVersion(6, 1, 192), "debian", "k"), None, "")
    record.add("6.1", "many.test", Done(1, outcome=Outcome.FAILED, suite=parse_go(GO)), 1.0)
    record.finish(1)
    assert {one.test: one.reason for one in read(tmp_path / "r.json").results} == {
        "many.test::TestMany/one": "wrong",
        "many.test::TestMany/two": "",
        "many.test::TestMany": "1 of the tests in it failed",
        "many.test::TestAlone": "",
        "many.test": "exit status 1",
    }
