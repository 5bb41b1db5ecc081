"""Verdicts, what is kept of them, and the table: pure, from reports as a pytest under `recorder` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import CacheError, UsageError
from harness.mutants import table
from harness.mutants.edit import Edit, Mutant
from harness.mutants.state import KnownResults, MutantResult
from harness.mutants.status import MutantStatus, judge
from harness.mutants.table import EQUIVALENT, OPEN, Explanation
from harness.util.data import read_toml

PRESENCE = "test_presence"


def report(test: str, outcome: str = "passed", when: str = "call", *troubles: str, **more: Any) -> dict[str, Any]:
    return {
        "test": test,
        "when": when,
        "outcome": outcome,
        "troubles": list(troubles),
        "leaks": [],
        "faults": [],
        "message": "",
        **more,
    }


HERE = report(f"presence.py::{PRESENCE}[mutant]")


def test_all_that_passes_survives() -> None:
    verdict = judge([HERE, report("a"), report("b", "skipped", "setup")], status=0, presence=PRESENCE)
    assert (verdict.status, verdict.ran) == (MutantStatus.SURVIVED, 2)


@pytest.mark.parametrize(
    ("failed", "how", "message"),
    [
        (report("a", "failed", message="assert 1 == 2"), "assertion", "assert 1 == 2"),
        (report("a", "failed", "setup", message="x"), "error", "x"),
        (report("a", "failed", "call", "crashed", message="panic"), "crashed", "panic"),
        (report("a", "failed", "call", "hung"), "hung", ""),
        (report("a", "failed", "setup", "missing"), "missing", ""),
        (report("a", "failed", "teardown", "leak", leaks=["map 3", "map 4"]), "leak", "map 3; map 4"),
        (report("a", "failed", "teardown", "fault", faults=["BUG: x"]), "fault", "BUG: x"),
    ],
)
def test_a_failure_kills(failed: dict[str, Any], how: str, message: str) -> None:
    verdict = judge([HERE, failed], status=1, presence=PRESENCE)
    assert (verdict.status, verdict.how, verdict.test, verdict.message) == (MutantStatus.KILLED, how, "a", message)


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        ([HERE, report("a", "failed", "setup", "infrastructure", message="no memory")], 1),
        ([HERE, report("a", "failed", "setup", "infrastructure", message="did not boot in 120 s")], 1),
        ([{"test": "a", "when": "collect", "outcome": "failed", "message": "SyntaxError"}], 2),
        ([HERE, report("a")], 3),
        ([], 0),
        ([report("a")], 0),
        ([{**HERE, "outcome": "failed"}], 1),
    ],
)
def test_trouble_outside_the_kernel_gives_no_verdict(reports: list[dict[str, Any]], status: int) -> None:
    assert judge(reports, status=status, presence=PRESENCE).status is MutantStatus.UNKNOWN


def test_a_kernel_that_dies_before_it_is_ready_is_killed() -> None:
    message = "6.1 did not boot\n | Kernel panic - not syncing: Fatal exception"
    verdict = judge([report("a", "failed", "setup", "infrastructure", message=message)], status=1, presence=PRESENCE)
    assert (verdict.status, verdict.how) == (MutantStatus.KILLED, "crashed")


# state


def mutant(name: str = "x/y/drop-1", old: str = "a;") -> Mutant:
    return Mutant(name, "drop", "y: a statement is left out", (Edit("f", 0, old, ";"),))


def result(name: str = "x/y/drop-1", status: MutantStatus = MutantStatus.KILLED, **more: Any) -> MutantResult:
    return MutantResult(name, "drop", "w", "a;", ";", status, **more)


def test_results_stay_and_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    results = KnownResults(path)
    results.add(result(status=MutantStatus.UNKNOWN))
    results.add(result(test="t", how="leak"))
    again = KnownResults(path)
    found = again.get(mutant())
    assert found == result(test="t", how="leak")
    assert again.of([mutant(), mutant("other")]) == [found]
    assert again.killers() == {"t": 1}


def test_a_result_of_other_text_is_none(tmp_path: Path) -> None:
    results = KnownResults(tmp_path / "r")
    results.add(result())
    assert results.get(mutant(old="b;")) is None


def test_an_incomplete_line_is_ignored_and_others_can_follow(tmp_path: Path) -> None:
    path = tmp_path / "r"
    KnownResults(path).add(result("one"))
    with path.open("a") as stream:
        stream.write('{"mutant": "tw')
    results = KnownResults(path)
    results.add(result("three"))
    assert [found.mutant for found in KnownResults(path).of([mutant("one"), mutant("two"), mutant("three")])] == [
        "one",
        "three",
    ]


def test_a_file_of_something_else_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text('{"mutant": "x"}\n')
    with pytest.raises(CacheError, match="line 1"):
        KnownResults(path)


def test_the_same_kernel_has_the_same_status(tmp_path: Path) -> None:
    results = KnownResults(tmp_path / "r")
    results.add(result("killed", build_id="1", suite="old"))
    results.add(result("survived", MutantStatus.SURVIVED, build_id="2", suite="old"))
    assert results.same_kernel("1", "new") is not None
    assert results.same_kernel("2", "old") is not None
    assert results.same_kernel("2", "new") is None
    assert results.same_kernel("3", "new") is None


# the table

KNOWN = {
    "same": Explanation("same", "a;", ";", EQUIVALENT, "nobody reads it"),
    "hard": Explanation("hard", "a;", ";", OPEN, "needs two processors"),
    "stale": Explanation("stale", "b;", ";", EQUIVALENT, "of another text"),
}
RESULTS = [
    result("dead", test="tests/t.py::test_a[mutant]", how="assertion", message="1 | 2\nmore"),
    result("dead2"),
    result("dead3"),
    result("same", MutantStatus.SURVIVED),
    result("hard", MutantStatus.SURVIVED),
    result("stale", MutantStatus.SURVIVED),
    result("bin", MutantStatus.SAME),
    result("copy", MutantStatus.TWIN, twin="dead"),
    result("no", MutantStatus.UNBUILT),
    result("lost", MutantStatus.UNKNOWN),
]


def test_the_score_leaves_out_what_cannot_be_killed() -> None:
    score = table.score(RESULTS, KNOWN)
    assert (score.killed, score.survived, score.equivalent) == (3, 2, 2)
    assert (score.twins, score.unbuilt, score.unknown) == (1, 1, 1)
    assert score.percent == 60.0
    assert score.unexplained == ("stale",)
    assert table.score([], {}).percent == 0.0


def test_the_table_has_a_line_for_each() -> None:
    lines = table.as_markdown(RESULTS, KNOWN)
    assert len(lines) == 2 + len(RESULTS)
    assert lines[2] == "| dead | `a;` → `;` | killed (assertion) | t.py::test_a[mutant] | 1 \\| 2 more |"
    assert "survived: open |  | needs two processors" in lines[6]
    assert "as dead" in lines[9]
    rows = table.as_rows(RESULTS, KNOWN)
    assert rows[0] == ("dead", "a; → ;", ("killed (assertion)", "green"), "t.py::test_a[mutant]", "1 | 2 more")
    assert len(rows) == len(RESULTS)
    assert {len(row) for row in rows} == {len(table.HEADER)}


@pytest.mark.parametrize(
    "rows",
    [
        [{"mutant": "x"}],
        [{"mutant": "x", "was": "a", "becomes": "b", "verdict": "perhaps", "reason": "r"}],
        [{"mutant": "x", "was": "a", "becomes": "b", "verdict": OPEN, "reason": ""}],
        [{"mutant": "x", "was": "a", "becomes": "b", "verdict": OPEN, "reason": "r"}] * 2,
    ],
)
def test_a_poor_explanation_is_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises(UsageError):
        table.explanations(rows)


def test_the_explanations_that_are_shipped_are_sound() -> None:
    table.explanations(read_toml("kernels", "mutants/survivors.toml")["survivor"])
