"""What counts as a change, and how comparisons are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import compare as command
from harness.cli import main
from harness.errors import RecordError
from harness.report.compare.changes import Change, Comparison, compare
from harness.report.compare.text import MARKDOWN_LIMIT, as_markdown, as_record, lines, summary
from harness.results.file import write
from harness.results.types import Deselected, NotRun, RecordedResult, RunRecord
from tests.unit.results.samples import SERIES, kernel, many, observation, record, result, run

T = "t.py::test_it[x]"


def cell(outcome: str = "passed", seen: object = None, **fields: Any) -> RecordedResult:
    observations = (observation("hom.area.it", seen),) if seen is not None else ()
    return result(T, "6.1", outcome, contract="hom.area.it", observations=observations, **fields)


def only(old: RunRecord, new: RunRecord) -> list[tuple[Change, str]]:
    (pair,) = compare(old, new).pairs
    return [(one.change, one.detail) for one in pair.differences]


NONE = record(kernels=[kernel("6.1.192")])
LEFT_OUT = record(kernels=[kernel("6.1.192")], left_out=[Deselected(T, "6.1", ">=6.2")])
NOT_RUN = record(kernels=[kernel("6.1.192")], not_run=[NotRun(T, "6.1")])


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (cell(), cell("failed"), Change.BROKEN),
        (cell("unsupported"), cell("faulted"), Change.BROKEN),
        (cell("xfailed"), cell("leaked"), Change.BROKEN),
        (cell("infrastructure"), cell("hung"), Change.BROKEN),
        (LEFT_OUT, cell("failed"), Change.BROKEN),
        (cell("failed"), cell("crashed"), Change.FAILURE),
        (cell("failed", "EPERM"), cell("failed", "E2BIG"), Change.FAILURE),
        (cell("failed", "EPERM"), cell("failed", "EPERM"), None),
        (cell("failed"), cell(), Change.FIXED),
        (cell("crashed"), cell("xfailed"), Change.FIXED),
        (cell("failed"), cell("unsupported"), Change.UNSUPPORTED),
        (cell(), cell("unsupported"), Change.UNSUPPORTED),
        (cell(), LEFT_OUT, Change.UNSUPPORTED),
        (cell("unsupported"), LEFT_OUT, None),
        (cell("unsupported"), cell(), Change.SUPPORTED),
        (LEFT_OUT, cell(), Change.SUPPORTED),
        (cell(seen="EPERM"), cell(seen="EPERM"), None),
        (cell(seen="EPERM"), cell(seen="ok"), Change.OBSERVATION),
        (cell(seen=1), cell(seen=True), Change.OBSERVATION),
        (cell(seen={"count": 1, "errno": "ok"}), cell(seen={"errno": "ok", "count": 1}), None),
        (cell(seen={"count": 1}), cell(seen={"count": "1"}), Change.OBSERVATION),
        (cell(seen="EPERM"), cell(), Change.OBSERVATION),
        (cell(), cell("infrastructure"), Change.LOST),
        (cell("failed"), NOT_RUN, Change.LOST),
        (cell("infrastructure"), NOT_RUN, None),
        (cell("unsupported"), NOT_RUN, None),
        (NOT_RUN, cell(), Change.REGAINED),
        (cell("infrastructure"), cell("unsupported"), Change.REGAINED),
        (NONE, cell(), Change.NEW),
        (NONE, LEFT_OUT, None),
        (cell(), NONE, Change.GONE),
        (LEFT_OUT, NONE, None),
    ],
)
def test_each_change_has_its_name(
    old: RecordedResult | RunRecord, new: RecordedResult | RunRecord, change: Change | None
) -> None:
    left, right = (one if isinstance(one, RunRecord) else record(one) for one in (old, new))
    assert [found for found, _ in only(left, right)] == ([] if change is None else [change])


def test_a_change_says_what_was_and_what_is() -> None:
    assert only(record(cell(seen="EPERM")), record(cell(seen="ok"))) == [(Change.OBSERVATION, "EPERM → ok")]
    assert only(record(cell(seen="EPERM")), record(cell("failed", "ok"))) == [
        (Change.BROKEN, "passed (EPERM) → FAILED (ok)")
    ]
    assert only(record(cell()), record(cell("unsupported", reason="no BTF"))) == [
        (Change.UNSUPPORTED, "passed → skipped: no BTF")
    ]
    several = [observation("a", 1), observation("a", 2), observation("b", "x")]
    others = [observation("a", 1), observation("a", 3), observation("c", "x")]
    old, new = (record(result(T, "6.1", observations=tuple(seen))) for seen in (several, others))
    assert only(old, new) == [(Change.OBSERVATION, "a #2: 2 → 3; b: x → nothing; c: nothing → x")]


def test_a_test_of_many_answers_shows_its_reason_instead() -> None:
    seen = (observation("", 1), observation("", 2))
    old = result("t.py::test_it[raw]", "6.1", observations=seen)
    new = result("t.py::test_it[raw]", "6.1", "failed", observations=seen, reason="it leaks")
    (pair,) = compare(record(old), record(new)).pairs
    assert [(one.title, one.detail) for one in pair.differences] == [("it [raw]", "passed → FAILED: it leaks")]


def test_a_contract_is_the_same_in_another_test() -> None:
    seen = (observation("hom.area.it", 1),)
    old = result("t.py::test_many[hom.area.it]", "6.1", contract="hom.area.it", observations=seen)
    new = result("u.py::test_one[hom.area.it]", "6.1", contract="hom.area.it", observations=seen)
    (pair,) = compare(record(old), record(new)).pairs
    assert (pair.differences, pair.same) == ((), 1)


def timed(*seconds: float) -> RunRecord:
    return record(*(result(f"t::{number}", "6.1", call=one) for number, one in enumerate(seconds)))


STEADY = (0.1, 0.2, 0.05, 0.3, 0.1, 0.1)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        (0.2, 0.9, [Change.SLOWER]),
        (0.9, 0.2, [Change.FASTER]),
        (0.2, 0.45, []),  # by no factor of three
        (0.01, 0.2, []),  # by no 0.3 s
    ],
)
def test_times_are_of_another_class_or_the_same(old: float, new: float, changes: list[Change]) -> None:
    assert [one for one, _ in only(timed(*STEADY, old), timed(*STEADY, new))] == changes


def test_a_slower_machine_makes_no_test_slower() -> None:
    slow = [one * 8 for one in STEADY]
    assert only(timed(*STEADY, 0.2), timed(*slow, 1.6)) == []
    (change, detail), *rest = only(timed(*STEADY, 0.2), timed(*slow, 9.9))
    assert (change, rest) == (Change.SLOWER, [])
    assert detail == "0.20 s → 9.90 s (all tests take 8 times as long)"
    # What nobody can tell from so few is not told.
    assert only(timed(0.2), timed(9.9)) == []


def test_kernels_are_paired_by_label_and_the_rest_is_named() -> None:
    old = record(result("t::a", "5.10"), result("t::a", "6.1"), kernels=[kernel("5.10.262"), kernel("6.1.190")])
    new = record(result("t::a", "6.1", "failed"), result("t::a", "6.12", "failed"))
    found = compare(old, new)
    assert [pair.title for pair in found.pairs] == ["6.1 (6.1.190 → 6.1.192)"]
    assert found.count([Change.BROKEN]) == 1
    told = [line for line, _ in lines(found, old, new)]
    assert told[:2] == ["Only in the old record: 5.10.", "Only in the new record: 6.12."]
    with pytest.raises(RecordError, match=r"no kernel in common: 5\.10, 6\.1 and 7\.3"):
        compare(old, record(result("t::a", "7.3")))


def test_one_release_on_two_architectures_is_a_pair() -> None:
    old = record(kernels=[kernel(f"{name}.1", label=name, architecture="amd64") for name in ("6.1", "6.12")])
    new = record(
        results=[result("t::a", "6.12-arm64")],
        kernels=[
            kernel("6.1.9", label="6.1-arm64", architecture="arm64"),
            kernel("6.12.9", label="6.12-arm64", architecture="arm64"),
        ],
    )
    found = compare(old, new)
    assert [pair.title for pair in found.pairs] == ["6.1 → 6.1-arm64", "6.12 → 6.12-arm64"]
    assert [one.change for one in found.pairs[1].differences] == [Change.NEW]
    both = record(kernels=[*new.kernels, kernel("6.1.7", label="6.1-s390x", architecture="s390x")])
    with pytest.raises(RecordError, match="no kernel in common"):
        compare(old, both)


def test_two_kernels_of_one_record() -> None:
    one = record(result("t::a", "6.1"), result("t::a", "6.12", "failed"), result("t::b", "6.12"))
    (pair,) = compare(one, one, ("6.1", "6.12.117")).pairs
    assert pair.title == "6.1 → 6.12"
    assert [found.change for found in pair.differences] == [Change.BROKEN, Change.NEW]
    with pytest.raises(RecordError, match=r"no kernel '6\.2'") as caught:
        compare(one, one, ("6.2", "6.12"))
    assert caught.value.expected == "one of: 6.1, 6.12"


def test_incomplete_records_are_reported() -> None:
    half = record(cell(), runs=[run(complete=False)], not_run=[NotRun("t::b", "6.1")])
    told = [line for line, _ in lines(compare(half, half), half, half)]
    assert "The old record is not complete; 1 tests did not run." in told
    assert told[-1] == "nothing changed; 2 the same"


def test_the_same_record_has_no_changes() -> None:
    one = many(100)
    found = compare(one, one)
    assert [pair.differences for pair in found.pairs] == [()] * len(SERIES)
    assert summary(found).startswith("nothing changed; 1100 the same, ")


def broken() -> tuple[Comparison, RunRecord, RunRecord]:
    tests = [f"t.py::test_it[<a|b>`{number}`]" for number in range(3)]
    old = record(*(result(test, label) for test in tests for label in ("5.10", "6.1", "6.12")))
    new = record(
        *(
            result(test, label, "failed" if number < 2 else "passed", reason="a < b | c `d` @torvalds *x*\nnext")
            for number, test in enumerate(tests)
            for label in ("5.10", "6.1", "6.12")
        )
    )
    return compare(old, new), old, new


def test_markdown_names_each_test_once_and_escapes_what_it_says() -> None:
    made = as_markdown(*broken(), [Change.BROKEN])
    assert made.splitlines()[0] == "### ❌ 6 broken; 3 the same"
    assert "\n#### broken: 6\n" in made
    rows = [line for line in made.splitlines() if line.startswith("| ✗")]
    assert len(rows) == 2
    assert rows[0].startswith(r"| ✗ `it [<a\|b>'0']` | all 3 kernels | passed → FAILED: a &lt; b \| c \`d\` ")
    assert "@torvalds" not in rows[0]
    assert "torvalds" in rows[0]
    folded = as_markdown(*broken(), [])
    assert folded.startswith("### ✅ ")
    assert "<details><summary>broken: 6</summary>" in folded


def test_markdown_fits_into_a_comment() -> None:
    old = record(*(result(f"t::{number}", "6.1") for number in range(2000)))
    new = record(*(result(f"t::{number}", "6.1", "failed", reason="x" * 100) for number in range(2000)))
    made = as_markdown(compare(old, new), old, new, [Change.BROKEN])
    assert len(made) < MARKDOWN_LIMIT
    shown = made.count("| ✗")
    assert f"\n{2000 - shown} more lines are omitted here.\n" in made


def test_json_holds_what_was_and_what_is() -> None:
    found, old, new = broken()
    made = json.loads(json.dumps(as_record(found, old, new, [Change.BROKEN])))
    assert made["regression"] is True
    assert made["summary"]["broken"] == 6
    (pair, *_) = made["pairs"]
    assert pair["changes"][0]["old"]["outcome"] == "passed"
    assert pair["changes"][0]["new"]["reason"].startswith("a < b")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 1),
        (["--fail-on", "none"], 0),
        (["--fail-on", "fixed,new"], 0),
        (["--fail-on", "fixed,broken"], 1),
        (["--fail-on", "any"], 1),
        (["--format", "json"], 1),
        (["--format", "markdown", "--fail-on", "none"], 0),
    ],
)
def test_the_exit_status_shows_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int
) -> None:
    _, old, new = broken()
    write(tmp_path / "old.json", old)
    write(tmp_path / "new.json", new)
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options]) == status
    assert "broken" in capsys.readouterr().out


def test_bad_input_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "old.json", record(cell()))
    assert main(["compare", str(tmp_path / "old.json")]) == 2
    assert "nothing to compare it with" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", "a", "b", "--fail-on", "bad"])
    assert "'bad' is not a list of: broken" in capsys.readouterr().err


def test_a_vendors_kernel_is_compared_with_the_one_that_answers_most_like_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(on: str, *values: str) -> list[RecordedResult]:
        names = [f"hom.area.{letter}" for letter in "abc"[: len(values)]]
        return [
            result(f"t.py::test_it[{name}]", on, contract=name, observations=(observation(name, value),))
            for name, value in zip(names, values, strict=True)
        ]

    both = [*answers("5.10", "a", "b", "c"), *answers("6.1", "A", "B", "c")]
    write(tmp_path / "old.json", record(*both))
    vendors = kernel("6.16.12", release="4.18.0-348.el8.x86_64")
    write(tmp_path / "new.json", record(*answers("6.16", "A", "B", "C"), kernels=[vendors]))
    command = ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), "--kernels", "nearest", "6.16"]
    assert main(command) == 0
    assert "6.1 → 6.16: c → C" in capsys.readouterr().out
    write(tmp_path / "old.json", record(kernels=[kernel("6.1.192")]))
    assert main(command) == 2
    assert "no kernel of the first record is near to 6.16" in capsys.readouterr().err


def test_the_command_knows_every_change() -> None:
    assert [change.value for change in Change] == command._CHANGES


@pytest.mark.parametrize(
    ("before", "after", "threshold", "changes"),
    [
        ({"insns": 100}, {"insns": 100}, 0, []),
        ({"insns": 100}, {"insns": 101}, 0, [(Change.COSTLIER, "insns rose from 100 to 101")]),
        ({"insns": 100}, {"insns": 105}, 5, []),
        ({"insns": 100}, {"insns": 106}, 5, [(Change.COSTLIER, "insns rose from 100 to 106")]),
        ({"insns": 100, "states": 3}, {"insns": 90, "states": 3}, 5, [(Change.CHEAPER, "insns fell from 100 to 90")]),
        ({"insns": 100, "states": 3}, {"insns": 90, "states": 4}, 0, [(Change.COSTLIER, "states rose from 3 to 4")]),
        ({"usec": 100}, {"usec": 900}, 0, []),
        ({}, {"insns": 9}, 0, []),
    ],
)
def test_what_verification_costs_is_compared(
    before: dict[str, int], after: dict[str, int], threshold: float, changes: list[tuple[Change, str]]
) -> None:
    (pair,) = compare(record(cell(cost=before)), record(cell(cost=after)), threshold=threshold).pairs
    assert [(one.change, one.detail) for one in pair.differences] == changes


def test_the_command_fails_on_costs_beyond_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write(old, record(cell(cost={"insns": 100})))
    write(new, record(cell(cost={"insns": 120})))
    assert main(["compare", str(old), str(new)]) == 0
    assert "cost more to verify: 1" in capsys.readouterr().out
    assert main(["compare", str(old), str(new), "--fail-on", "costlier"]) == 1
    assert main(["compare", str(old), str(new), "--fail-on", "costlier", "--threshold", "20"]) == 0
