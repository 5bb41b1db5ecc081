"""What a program's report and exit status say of one test."""

from __future__ import annotations

import pytest

from harness.exec.formats import UNFINISHED, SuiteResult, parse_go, parse_tap
from harness.programs.kinds import WHOLE, Listed
from harness.programs.run import judge
from harness.results.outcomes import Outcome

TEST = Listed("TestA")
PASSES = "=== RUN   TestA\n=== RUN   TestA/b\n--- PASS: TestA (0.10s)\n    --- PASS: TestA/b (0.05s)\nPASS\n"
FAILS = PASSES.replace("PASS:", "FAIL:").replace("=== RUN   TestA/b\n", "=== RUN   TestA/b\n    a_test.go:4: got 3\n")


def test_a_test_passes_with_its_subtests_as_parts() -> None:
    verdict = judge(parse_go(PASSES), TEST, 0, (), listed=True)
    assert verdict.outcome is Outcome.PASSED
    assert [(part["name"], part["outcome"], part["seconds"]) for part in verdict.parts] == [("TestA/b", "passed", 0.05)]


def test_a_failure_begins_with_the_subtest_that_failed() -> None:
    verdict = judge(parse_go(FAILS), TEST, 1, (), listed=True)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "TestA/b: got 3")
    assert verdict.parts[0]["failure"].strip() == "a_test.go:4: got 3"


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (PASSES, 1, "the program ended with exit status 1"),
        ("=== RUN   TestA\n", 139, f"{UNFINISHED}\nthe program ended with exit status 139"),
        ("testing: warning: no tests to run\nPASS\n", 0, "the program did not report TestA"),
        ("", 2, "the program ended with exit status 2\nthe program did not report TestA"),
    ],
)
def test_a_pass_must_be_earned(text: str, status: int, said: str) -> None:
    verdict = judge(parse_go(text), TEST, status, (), listed=True)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, said)


def test_a_time_out_is_the_first_thing_that_is_said() -> None:
    verdict = judge(parse_go("=== RUN   TestA\n"), TEST, 124, ["x was ended after 5 s"], listed=True)
    assert verdict.reason == f"x was ended after 5 s\n{UNFINISHED}"


@pytest.mark.parametrize(
    ("text", "status", "outcome", "reason"),
    [
        ("1..2\nok 1 a\nok 2 b # SKIP none", 0, Outcome.PASSED, ""),
        ("1..2\nok 1 a\nnot ok 2 b", 1, Outcome.FAILED, "b: failed"),
        ("1..1\nok 1 a # SKIP no module", 0, Outcome.UNSUPPORTED, "no module"),
        ("1..1\nnot ok 1 a # TODO later", 0, Outcome.XFAILED, "later"),
        ("1..3\nok 1 a", 0, Outcome.FAILED, "3 tests were planned, 1 have a result"),
        ("1..1\nok 1 a", 139, Outcome.FAILED, "the program ended with exit status 139"),
    ],
)
def test_a_program_without_a_list_is_one_test(text: str, status: int, outcome: Outcome, reason: str) -> None:
    verdict = judge(parse_tap(text), Listed(WHOLE), status, (), listed=False)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_without_results_the_exit_status_counts() -> None:
    assert judge(SuiteResult(()), Listed(WHOLE), 0, (), listed=False).outcome is Outcome.PASSED
    assert judge(SuiteResult(()), Listed(WHOLE), 3, (), listed=False).reason == "the program ended with exit status 3"
