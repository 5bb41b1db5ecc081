"""The run record of a check."""

from __future__ import annotations

from pathlib import Path

from harness.check.record import CheckRecord, recorded
from harness.check.results import Author, Kind, Result, Verdict
from harness.report.matrix import matrix_of
from harness.results.file import read
from harness.results.outcomes import Outcome
from tests.unit.results.samples import kernel


def row(name: str, verdict: Verdict = Verdict.OK, kind: Kind = Kind.PROGRAM, **fields: object) -> Result:
    return Result("6.1", "x.bpf.o", name, kind, verdict, "load", **fields)  # type: ignore[arg-type]


def test_rows_of_one_name_have_tests_of_their_own() -> None:
    kinds = [row("x.bpf.o", kind=Kind.OBJECT), row("maps", kind=Kind.MAPS), row("maps"), row("maps", kind=Kind.LOADER)]
    assert [recorded(one, "r").test for one in kinds] == [
        "x.bpf.o",
        "x.bpf.o::the maps",
        "x.bpf.o::maps",
        "x.bpf.o::maps (loader)",
    ]


def test_each_verdict_has_an_outcome() -> None:
    assert {verdict: recorded(row("p", verdict), "r").outcome for verdict in Verdict} == {
        Verdict.OK: Outcome.PASSED,
        Verdict.REFUSED: Outcome.FAILED,
        Verdict.FAILED: Outcome.FAILED,
        Verdict.KILLED: Outcome.FAILED,
        Verdict.HUNG: Outcome.HUNG,
        Verdict.OVER_BUDGET: Outcome.FAILED,
        Verdict.FAULTED: Outcome.FAULTED,
        Verdict.CRASHED: Outcome.CRASHED,
        Verdict.LOST: Outcome.INFRASTRUCTURE,
    }


def test_a_result_keeps_its_answer_reason_cost_and_faults() -> None:
    refused = recorded(
        row("p", Verdict.REFUSED, errno=13, author=Author.KERNEL, by="kernel", line="R0 !read_ok", message="the log"),
        "r",
    )
    assert [one.observed for one in refused.observations] == ["EACCES"]
    assert (refused.reason, refused.failure) == ("EACCES at load by the kernel: R0 !read_ok", "the log")
    good = recorded(row("p", cost={"insns": 12}, faults=("WARN: at kernel/bpf/x.c:12",), message="the log"), "r")
    assert (good.cost, good.failure) == ({"insns": 12}, "")
    assert [(one.kind, one.title) for one in good.faults] == [("WARN", "at kernel/bpf/x.c:12")]
    assert recorded(row("p", Verdict.LOST), "r").observations == ()


def test_the_record_is_complete_when_the_command_says_so(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = CheckRecord(path, ["harness", "check", "x.bpf.o"])
    record.add(kernel("6.1.192"), [row("x.bpf.o", kind=Kind.OBJECT), row("my_prog", cost={"insns": 12})], None)
    assert not read(path).complete  # the journal of a run that was killed now
    record.finish(1)
    found = read(path)
    assert (found.complete, found.runs[0].exit_status) == (True, 1)
    assert [(one.test, one.title) for one in matrix_of(found).rows] == [
        ("x.bpf.o", "x.bpf.o"),
        ("x.bpf.o::my_prog", "my_prog"),
    ]
