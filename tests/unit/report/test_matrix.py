"""A record as a table, and the table as text."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.cli import main
from harness.report.costs import costs_of
from harness.report.html import as_html, run_facts
from harness.report.markdown import as_markdown, changes_of
from harness.report.matrix import ENDINGS, Absent, Matrix, Row, area_of, matrix_of, words_of
from harness.report.terminal import show
from harness.results.file import write
from harness.results.outcomes import Outcome
from harness.results.types import Deselected, NotRun, RunRecord
from tests.unit.results.samples import kernel, many, observation, record, result, run

T = "harness/contracts/test_update.py::test_fd[hom.update.bad_fd]"
KERNELS = [kernel(version) for version in ("5.10.262", "6.1.192", "6.12.117", "7.2.2", "7.3")]
LABELS = [one.label for one in KERNELS]
HOSTILE = '<script>alert("1")</script> & </style> `x` | </td> <!-- \u2028'


def seen(label: str, answer: object, outcome: str = "passed", **fields: Any) -> Any:
    return result(
        T,
        label,
        outcome,
        contract="hom.update.bad_fd",
        observations=(observation("hom.update.bad_fd", answer),),
        **fields,
    )


def row(*results: Any, **fields: Any) -> Row:
    return matrix_of(record(*results, **{"kernels": KERNELS, **fields})).rows[0]


def test_a_cell_can_say_every_outcome_and_has_a_sign_for_each() -> None:
    assert sorted(ENDINGS, key=str) == sorted([*Outcome, *Absent], key=str)
    signs = [ending.sign for ending in ENDINGS if ending not in (Outcome.INFRASTRUCTURE, Absent.NOT_RUN)]
    assert len(set(signs)) == len(signs)


@pytest.mark.parametrize(
    ("test", "contract", "area"),
    [
        (T, "hom.update.bad_fd", "update"),
        (T, "mim.prog.null_check.inner", "prog"),
        (T, "hom.info", "info"),
        (T, "a frozen outer map", "harness/contracts/test_update.py"),
        ("a.py::test_b", "", "a.py"),
    ],
)
def test_behaviours_are_grouped_by_area(test: str, contract: str, area: str) -> None:
    assert area_of(test, contract) == area


def test_a_test_without_a_contract_is_called_by_its_name() -> None:
    assert words_of("a/b.py::TestX::test_value_size_is_four[hom-4]") == "value size is four [hom-4]"
    assert words_of("a/b.py::test_plain") == "plain"


@pytest.mark.parametrize(
    ("test", "contract"),
    [
        ("a.py::test_b[hom.update.bad_fd]", "hom.update.bad_fd"),
        ("a.py::test_b[raw-aom.info]", "aom.info"),
        ("a.py::test_b[6.1.192-4096]", ""),
        ("a.py::test_b[hash_of_maps]", ""),
        ("a.py::test_b", ""),
    ],
)
def test_a_test_that_could_not_tell_is_known_by_its_parameters(test: str, contract: str) -> None:
    (found,) = matrix_of(record(kernels=KERNELS, not_run=[NotRun(test, "6.1")])).rows
    assert found.title == (contract or words_of(test))


@pytest.mark.parametrize(
    ("observed", "text"),
    [
        ("EINVAL", "EINVAL"),
        (3, "3"),
        (None, "null"),
        (["a", 1], '["a", 1]'),
        ({"count": 3, "errno": "ENOENT"}, "count 3, errno ENOENT"),
        ({}, "{}"),
    ],
)
def test_answers_are_written_as_people_do(observed: object, text: str) -> None:
    assert row(seen("6.1", observed)).cells[1].seen == text


def test_boundaries_are_where_the_answer_differs_from_before() -> None:
    answers = ["EINVAL", "EINVAL", "ok", "ok", "E2BIG"]
    found = row(*(seen(label, answer) for label, answer in zip(LABELS, answers, strict=True)))
    assert found.boundaries == (False, False, True, False, True)


def test_a_contract_that_was_not_asked_is_left_out() -> None:
    why = "it is for kernels >=5.19"
    seen = (observation("hom.update.bad_fd", None, verdict="not asked", note=why),)
    skipped = result(T, "5.10", "unsupported", contract="hom.update.bad_fd", observations=seen)
    found = matrix_of(record(skipped, kernels=KERNELS)).rows[0]
    assert (found.cells[0].ending, found.cells[0].seen, found.cells[0].reason) == (Absent.LEFT_OUT, "", why)


def test_a_kernel_that_was_not_asked_makes_and_hides_no_boundary() -> None:
    results = [
        seen("5.10", "EINVAL"),
        result(T, "6.1", "unsupported", contract="hom.update.bad_fd"),
        result(T, "6.12", "infrastructure", contract="hom.update.bad_fd"),
        seen("7.2", "ok"),
    ]
    found = row(*results, not_run=[NotRun(T, "7.3")])
    assert found.boundaries == (False, False, False, True, False)
    assert [cell.ending for cell in found.cells][-1] is Absent.NOT_RUN


def test_a_failure_among_passes_is_two_boundaries() -> None:
    found = row(seen("5.10", "ok"), seen("6.1", "ok", "failed"), seen("6.12", "ok"))
    assert found.boundaries == (False, True, True, False, False)
    assert found.cells[-1].ending is Absent.NO_TEST


def test_answers_are_compared_from_kernel_to_kernel() -> None:
    made = record(seen("5.10", "EINVAL"), seen("6.1", "ok"), seen("6.12", "ok", "failed"), kernels=KERNELS)
    matrix = matrix_of(made)
    assert changes_of(matrix, matrix.rows[0]) == ["5.10 → 6.1: EINVAL → ok", "6.1 → 6.12: ok → FAILED (ok)"]


def test_columns_are_sorted_by_version_and_tests_for_none_of_them_are_rows_too() -> None:
    left_out = [Deselected("t::x", "5.10", ">=8.0")]
    made = record(seen("6.12", 1), seen("5.10", 1), kernels=KERNELS[::-1], left_out=left_out)
    matrix = matrix_of(made)
    assert [one.label for one in matrix.kernels] == LABELS
    assert [group.name for group in matrix.groups] == ["update", "t"]
    assert matrix.rows[1].cells[0].reason == "it is for kernels >=8.0"
    assert matrix.counts() == {Outcome.PASSED: 2, Absent.LEFT_OUT: 1}


def hostile() -> RunRecord:
    contract = f"hom.area.{HOSTILE}"
    return record(
        result(
            f"t.py::test[{HOSTILE}]",
            "6.1",
            "failed",
            contract=contract,
            reason=HOSTILE,
            failure=HOSTILE,
            output=HOSTILE,
            observations=(observation(contract, HOSTILE, {"x": HOSTILE}, sentence=HOSTILE, source=HOSTILE),),
        ),
        kernels=[kernel("6.1.192", origin=HOSTILE, release=HOSTILE)],
        runs=[run(arguments=(HOSTILE,), problems=(HOSTILE,), complete=False)],
    )


def test_what_a_kernel_says_is_text_in_a_page() -> None:
    page = as_html(hostile(), title=HOSTILE)
    assert page.count("<script") == page.count("</script>") == 2
    assert page.count("</style>") == 1
    assert "<!--" not in page
    assert "\u2028" not in page.partition('id="data">')[2]
    assert "alert(&#34;1&#34;)" in page


def test_what_a_kernel_says_is_text_in_markdown() -> None:
    made = as_markdown(hostile(), title=HOSTILE)
    assert "&lt;script&gt;" in made
    in_code = re.sub(r"`[^`]*`", "", made)
    assert "<script" not in in_code
    for line in made.splitlines():
        if line.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4), line


def test_a_page_for_many_kernels_is_small() -> None:
    size = len(as_html(many(200)).encode())
    assert size <= 1_000_000


def test_a_page_with_long_logs_everywhere_is_small_too() -> None:
    long = [
        result(
            f"t.py::test_{number}", label, "crashed", failure=f"{number} {label}\n" * 800, output=f"{number}x" * 4000
        )
        for number in range(200)
        for label in LABELS
    ]
    assert len(as_html(record(*long)).encode()) <= 2_000_000


def printed(made: RunRecord, width: int, **options: Any) -> str:
    stream = io.StringIO()
    show(made, Console(file=stream, width=width, highlight=False, **options))
    return stream.getvalue()


def test_a_wide_terminal_shows_answers_and_a_narrow_one_signs() -> None:
    made = record(seen("5.10", "EINVAL"), seen("6.1", "ok", "failed", reason="no"), kernels=KERNELS[:2])
    wide = printed(made, 120)
    assert re.search(r"hom\.update\.bad_fd +✓ EINVAL +◆✗ FAILED", wide)
    assert "hom.update.bad_fd on 6.1: FAILED: no" in wide
    assert "✓ 1 passed, ✗ 1 FAILED" in wide
    narrow = printed(made, 40)
    assert re.search(r"hom\.update\.bad_fd +✓ +◆✗", narrow)
    assert all(len(line) <= 40 for line in narrow.splitlines())


def test_a_terminal_without_signs_beyond_ascii_is_legible() -> None:
    made = record(seen("5.10", "EINVAL"), seen("6.1", "ok", "failed"), kernels=KERNELS[:2])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    show(made, Console(file=stream, width=120, highlight=False))
    stream.seek(0)
    assert re.search(r"hom\.update\.bad_fd +\+ EINVAL +\*F FAILED", stream.read())


@pytest.mark.parametrize("made", [record(), record(kernels=KERNELS), record(runs=[]), many(3)])
def test_little_is_shown_too(made: RunRecord) -> None:
    assert "<table" in as_html(made)
    assert as_markdown(made).startswith("## ")
    assert printed(made, 100)
    assert isinstance(matrix_of(made), Matrix)


def test_the_command_writes_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write(a, record(seen("5.10", "EINVAL")))
    write(b, record(seen("6.1", "ok", run="run2"), runs=[run(2)]))
    page, text = tmp_path / "new" / "r.html", tmp_path / "r.md"
    assert main(["report", str(a), str(b), "--html", str(page), "--markdown", str(text)]) == 0
    assert capsys.readouterr().out == ""
    assert "5.10 → 6.1: EINVAL → ok" in text.read_text()
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert main(["report", str(a)]) == 0
    assert "EINVAL" in capsys.readouterr().out
    assert main(["report", str(a), "--html", str(tmp_path)]) == 2
    assert f"the report {tmp_path} cannot be written: it is a folder" in capsys.readouterr().err


def test_what_verification_costs_is_a_table_by_kernel() -> None:
    costs = {"5.10": {"insns": 50, "stack": 8}, "6.1": {"insns": 100}, "6.12": {}, "7.3": {"insns": 40}}
    results = [result("x.o::p", label, cost=cost) for label, cost in costs.items()]
    kernels = [one for one in KERNELS if one.label in costs]
    made = record(*results, result("x.o::q", "6.1"), kernels=kernels)
    insns, stack = costs_of(matrix_of(made))
    assert [(table.figure, [row.title for row in table.rows]) for table in (insns, stack)] == [
        ("insns", ["p"]),
        ("stack", ["p"]),
    ]
    assert insns.rows[0].values == (50, 100, None, 40)
    assert insns.rows[0].steps == ("", "rose", "", "fell")
    assert insns.rows[0].shares == (50.0, 100.0, 0.0, 40.0)
    assert "| `p` | 50 | ▲ 100 |  | ▼ 40 |" in as_markdown(made)
    page = as_html(made)
    assert re.search(r'<td class="rose"><svg.*?height="100.0"/></svg>100<span aria-hidden="true"> ▲', page)
    assert "What verification costs" not in as_html(record(result("x.o::q", "6.1")))


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("--kernel=6.1", "t.py"), "pytest --kernel=6.1 t.py"),
        (("/usr/bin/harness", "check", "x.o"), "harness check x.o"),
        ((), "pytest"),
    ],
)
def test_the_page_says_what_was_run(arguments: tuple[str, ...], command: str) -> None:
    assert dict(run_facts(run(arguments=arguments)))["Command"] == command
