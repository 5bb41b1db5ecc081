"""Records in the forms of kernel CI systems: KTAP read back, KCIDB's report checked by its own schema."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import kcidb_io
import msgspec
import pytest

from harness.cli import main
from harness.report.export.kcidb import as_kcidb
from harness.report.export.ktap import as_ktap
from harness.results.file import write
from harness.results.outcomes import Outcome
from harness.results.types import Deselected, Fault, Leak, NotRun, RunRecord
from tests.unit.results.samples import many, observation, record, result

OUTCOMES = [outcome.value for outcome in Outcome]


def one_of_each() -> RunRecord:
    return record(
        *(result(f"tests/test_a.py::test_{word}", "6.1", word, reason=f"why #{word}\nmore") for word in OUTCOMES),
        result("tests/test_b.py::test_x[a b/ü]", "6.12", observations=(observation("hom.x", "EINVAL"),)),
        result(
            "harness/contracts/test_c.py::test_y[hom.y]",
            "6.12",
            contract="hom.y",
            observations=(observation("hom.y", "EINVAL", "EINVAL"),),
            leaks=(Leak("map", "map 7 is left"),),
            faults=(Fault("WARN", "WARNING: at x", excerpt="ok 1 nothing\nnot ok 2 nothing"),),
            failure="\0binary",
        ),
        left_out=[Deselected("tests/test_d.py::test_z", "6.1", ">=6.16")],
        not_run=[NotRun("tests/test_e.py::test_z", "6.12")],
    )


class Parsed(typing.NamedTuple):
    """A line of KTAP with a result: whether it is ok, its description and what follows the sign."""

    ok: bool
    name: str
    directive: str


def parse(text: str) -> dict[str, list[Parsed]]:
    """Read KTAP of one level of subtests; plans and numbers must be right."""
    lines = text.splitlines()
    assert lines[0] == "KTAP version 1"
    found: dict[str, list[Parsed]] = {}
    inner: list[Parsed] = []
    planned = [0, 0]
    for line in lines[1:]:
        level = 1 if line.startswith("  ") else 0
        words = line.strip()
        if plan := re.fullmatch(r"1\.\.(\d+)", words):
            planned[level] = int(plan[1])
        elif match := re.fullmatch(r"(not ok|ok) (\d+) ([^#]*?)(?: # (.*))?", words):
            one = Parsed(match[1] == "ok", match[3], match[4] or "")
            if level:
                inner.append(one)
                assert int(match[2]) == len(inner)
            else:
                assert len(inner) == planned[1]
                found[one.name] = inner
                assert int(match[2]) == len(found)
                assert one.ok == all(below.ok for below in inner)
                inner = []
        else:
            assert words.startswith("# ") or words in ("KTAP version 1", "#"), words
    assert len(found) == planned[0]
    return found


def test_each_outcome_has_its_words_in_ktap() -> None:
    found = parse(as_ktap(one_of_each()))
    words = {one.name.rpartition("_")[2]: (one.ok, one.directive) for one in found["6.1"]}
    assert words.pop("z") == (True, "SKIP it is for kernels >=6.16")
    assert words == {
        "passed": (True, "why _passed more"),
        "xfailed": (True, "XFAIL why _xfailed more"),
        "unsupported": (True, "SKIP why _unsupported more"),
        "failed": (False, "why _failed more"),
        "faulted": (False, "why _faulted more"),
        "leaked": (False, "why _leaked more"),
        "crashed": (False, "why _crashed more"),
        "hung": (False, "TIMEOUT why _hung more"),
        "protocol": (False, "why _protocol more"),
        "infrastructure": (False, "ERROR why _infrastructure more"),
    }
    assert found["6.12"][-1] == Parsed(False, "tests/test_e.py::test_z", "ERROR the run ended before it")
    text = as_ktap(one_of_each())
    assert "  # Totals: pass:1 fail:6 xfail:1 xpass:0 skip:2 error:1" in text.splitlines()
    assert "  # WARN: WARNING: at x" in text.splitlines()


def test_a_large_record_is_whole_in_ktap() -> None:
    whole = many(60)
    found = parse(as_ktap(whole))
    assert sum(map(len, found.values())) == len(whole.results) + len(whole.left_out) + len(whole.not_run)


@pytest.mark.parametrize("made", [one_of_each(), many(60), record()], ids=["each", "many", "none"])
def test_kcidb_takes_the_report(made: RunRecord) -> None:
    report = as_kcidb(made, "kernel_harness")
    assert kcidb_io.schema.LATEST.is_valid_exactly(report)
    assert len(report["tests"]) == len(made.results) + len(made.left_out) + len(made.not_run)
    assert len({test["id"] for test in report["tests"]}) == len(report["tests"])
    assert {test["build_id"] for test in report["tests"]} <= {build["id"] for build in report["builds"]}
    assert {one["checkout_id"] for one in report["builds"]} == {checkout["id"] for checkout in report["checkouts"]}


def test_kcidbs_schema_is_not_content_with_anything() -> None:
    report = as_kcidb(one_of_each(), "kernel_harness")
    report["tests"][0]["status"] = "passed"
    assert not kcidb_io.schema.LATEST.is_valid_exactly(report)


def test_each_outcome_has_its_status_in_kcidb() -> None:
    tests = {test["misc"]["test"]: test for test in as_kcidb(one_of_each(), "ci")["tests"]}
    statuses = {name.rpartition("_")[2]: test["status"] for name, test in tests.items() if "test_a.py" in name}
    assert statuses == {
        "passed": "PASS",
        "xfailed": "DONE",
        "unsupported": "SKIP",
        "failed": "FAIL",
        "faulted": "FAIL",
        "leaked": "FAIL",
        "crashed": "FAIL",
        "hung": "FAIL",
        "protocol": "FAIL",
        "infrastructure": "MISS",
    }
    # What nobody judged did not pass.
    assert tests["tests/test_b.py::test_x[a b/ü]"]["status"] == "DONE"
    assert tests["tests/test_b.py::test_x[a b/ü]"]["path"] == "kernel_harness.tests.test_b.test_x.a_b"
    assert tests["harness/contracts/test_c.py::test_y[hom.y]"]["path"] == "kernel_harness.hom.y"
    assert tests["tests/test_d.py::test_z"]["status"] == "SKIP"
    assert tests["tests/test_e.py::test_z"]["status"] == "MISS"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = one_of_each()
    write(tmp_path / "r.json", made)
    assert main(["export", str(tmp_path / "r.json"), "--format=ktap"]) == 0
    assert capsys.readouterr().out == as_ktap(made)
    out = tmp_path / "report.json"
    assert main(["export", str(tmp_path / "r.json"), "--format=kcidb", "--origin=mine", f"--output={out}"]) == 0
    assert json.loads(out.read_text()) == as_kcidb(made, "mine")
    assert main(["export", str(tmp_path / "r.json"), "--format=kcidb", "--origin=Not Mine"]) == 2
    assert "is not an origin" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.json"), "--format=ktap"]) != 0


def test_kcidb_knows_the_architecture_of_each_kernel() -> None:
    made = many(60)
    kernels = tuple(
        msgspec.structs.replace(kernel, architecture=name)
        for kernel, name in zip(made.kernels, ("", "amd64", *["arm64"] * 60), strict=False)
    )
    report = as_kcidb(msgspec.structs.replace(made, kernels=kernels, results=(), left_out=(), not_run=()), "o")
    assert [build["architecture"] for build in report["builds"]] == [
        "x86_64",
        "x86_64",
        *["arm64"] * (len(kernels) - 2),
    ]
