"""How results are printed: one row for each program, one column for each kernel, the reasons below."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from harness.check import table
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.table import as_markdown, as_records, as_text, tally
from harness.results.cost import FIGURES


def result(kernel: str, program: str, verdict: Verdict = Verdict.OK, file: str = "x.bpf.o", **more: object) -> Result:
    settings: dict[str, object] = {"kind": Kind.OBJECT if program == file else Kind.PROGRAM, "step": "load"}
    if verdict is Verdict.REFUSED:
        settings |= {"errno": 13, "author": Author.KERNEL, "by": "kernel", "line": "R0 !read_ok"}
    return Result(kernel, file, program, verdict=verdict, **{**settings, **more})  # type: ignore[arg-type]


RESULTS = [
    result("6.1", "x.bpf.o", Verdict.REFUSED, line="forgets: R0 !read_ok"),
    result("6.1", "forgets", Verdict.REFUSED),
    result("6.1", "fine"),
    result("6.12", "x.bpf.o"),
    result("6.12", "forgets"),
    result("6.12", "fine"),
]
LOST = result("7.9", "x.bpf.o", Verdict.LOST, step="start", line="no such kernel", author=Author.HARNESS)


def test_the_table_has_a_column_for_each_kernel_and_the_reasons_below() -> None:
    assert as_text(RESULTS).splitlines() == [
        "         6.1     6.12",
        "forgets  EACCES  ok",
        "fine     ok      ok",
        "",
        "forgets on 6.1: EACCES at load by the kernel: R0 !read_ok",
    ]


def test_an_object_has_a_row_where_its_programs_do_not_say_it() -> None:
    lines = as_text([*RESULTS, LOST]).splitlines()
    assert lines[1].split() == ["x.bpf.o", "EACCES", "ok", "lost"]
    assert lines[-1] == "x.bpf.o on 7.9: lost at start: no such kernel"
    assert as_text(
        [*RESULTS, result("6.1", "y.bpf.o", file="y.bpf.o"), result("6.1", "other", file="y.bpf.o")]
    ).splitlines()[4:6] == ["y.bpf.o    ok      -", "  other    ok      -"]


def test_progress_counts_the_rows_that_the_table_has() -> None:
    assert [tally(RESULTS[:3]), tally(RESULTS[3:]), tally([LOST])] == ["1 of 2 ok", "2 of 2 ok", "0 of 1 ok"]


def test_only_the_differences_are_printed_when_asked_for() -> None:
    assert "fine" not in as_text(RESULTS, differences=True)
    assert as_text(RESULTS[3:], differences=True) == "no row differs between the kernels"
    assert as_markdown(RESULTS[3:], differences=True) == "No row differs between the kernels."


def test_neighbours_with_equal_columns_share_one() -> None:
    kernels = ["5.10", "5.15", "6.1", "6.6", "6.12", "7.0"]
    bad = [result(kernel, "p", Verdict.REFUSED) for kernel in kernels[:3]]
    good = [result(kernel, "p") for kernel in kernels[3:]]
    assert as_text([*bad, *good]).splitlines() == [
        "   5.10 … 6.1  6.6 … 7.0",
        "p  EACCES      ok",
        "",
        "p on 5.10, 5.15, 6.1: EACCES at load by the kernel: R0 !read_ok",
    ]


def test_a_refusal_that_is_not_the_kernels_is_not_shown_as_its_errno() -> None:
    one = result("6.1", "t", Verdict.REFUSED, errno=22, author=Author.LIBBPF, by="libbpf v1.1", line="missing type")
    assert as_text([one]).splitlines()[1:] == [
        "t  libbpf",
        "",
        "t on 6.1: EINVAL at load by libbpf v1.1: missing type",
    ]


def test_a_note_on_what_was_taken_is_printed_once() -> None:
    note = "loaded; its section does not say where to attach"
    found = as_text([result("6.1", name, line=note) for name in ("a", "b")])
    assert found.splitlines()[-1] == f"a, b on 6.1: {note}"


def test_programs_of_one_name_are_told_apart() -> None:
    bad = [result(kernel, "p", Verdict.REFUSED, file=file) for file in ("x.o", "y.o") for kernel in ("6.1", "6.12")]
    whole = [result(kernel, file, file=file) for file in ("x.o", "y.o") for kernel in ("6.1", "6.12")]
    reason = "p of x.o, p of y.o on 6.1, 6.12: EACCES at load by the kernel: R0 !read_ok"
    assert as_text([*whole, *bad]).splitlines()[-1] == reason
    assert as_markdown([*whole, *bad]).splitlines()[2:] == [
        "| **`x.o`** | ok | ok |",
        "| `p` | EACCES | EACCES |",
        "| **`y.o`** | ok | ok |",
        "| `p` | EACCES | EACCES |",
        "",
        f"- {reason}",
    ]


def test_markdown_has_the_costs_too() -> None:
    assert as_markdown([result("6.1", "p", cost={"insns": 3})]).splitlines()[3:] == [
        "",
        f"| program | kernel | {' | '.join(FIGURES)} |",
        f"| --- | --- | {' | '.join('---:' for _ in FIGURES)} |",
        f"| p | 6.1 | 3 | {' | '.join('-' for _ in [*FIGURES][1:])} |",
    ]


def test_markdown_and_records_say_the_same() -> None:
    found = as_markdown([*RESULTS, result("6.12", "a|b", Verdict.REFUSED, line="R1 `x`|y")])
    assert "| `forgets` | EACCES | ok |" in found
    assert "R1 'x'\\|y" in found
    record = as_records(RESULTS)[1]
    assert (record["verdict"], record["errno_name"], record["author"]) == ("refused", "EACCES", "kernel")


def test_records_are_as_the_schema_says() -> None:
    schema = json.loads((Path(table.__file__).parent / "check-1.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    records = as_records([*RESULTS, LOST, result("6.1", "p", cost={"insns": 3})])
    validator.validate(records)
    item = schema["items"]["properties"]
    assert set(item["verdict"]["enum"]) == {one.value for one in Verdict}
    assert set(item["kind"]["enum"]) == {one.value for one in Kind}
    assert {one for one in item["author"]["enum"] if one} == {one.value for one in Author}
    assert list(item["cost"]["properties"]) == list(FIGURES)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate([{**records[0], "verdict": "perhaps"}])
