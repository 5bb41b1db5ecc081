"""Records from before a contract was a test: what each says of several contracts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.report.html import as_html
from harness.report.matrix import matrix_of
from harness.results.contracts import by_contract
from harness.results.file import parse
from harness.results.ids import behaviour_of
from tests.unit.results.samples import kernel, observation, record, result

KERNELS = [kernel(version) for version in ("5.10.262", "6.1.192", "6.12.117", "7.2.2", "7.3")]


def two(label: str, first: object, second: object = None, outcome: str = "passed", expected: object = None) -> Any:
    observations = [observation("hom.batch.read", first)]
    if second is not None:
        observations.append(observation("hom.batch.write", second, expected))
    return result("t.py::t[hom.batch]", label, outcome, contract="hom.batch.read", observations=tuple(observations))


def test_each_contract_of_a_test_is_a_behaviour() -> None:
    made = record(
        two("5.10", "ENOTSUPP", "ENOTSUPP"),
        two("6.1", "ok", "ENOTSUPP"),
        two("6.12", "ok", "EPERM", "failed", "ENOTSUPP"),
        two("7.2", "ok", "ok", "leaked"),
        result("t.py::t[hom.batch]", "7.3", "unsupported"),
        kernels=KERNELS,
    )
    (group,) = matrix_of(by_contract(made)).groups
    assert group.name == "batch"
    read, write = group.rows
    assert (read.title, write.title) == ("hom.batch.read", "hom.batch.write")
    assert [cell.seen for cell in read.cells] == ["ENOTSUPP", "ok", "ok", "ok", ""]
    assert [cell.seen for cell in write.cells] == ["ENOTSUPP", "ENOTSUPP", "EPERM", "ok", ""]
    # The one that holds is not a failure, whatever becomes of the other; a leak is the whole test's.
    assert [cell.ending.name for cell in read.cells] == ["PASSED", "PASSED", "PASSED", "LEAKED", "UNSUPPORTED"]
    assert [cell.ending.name for cell in write.cells] == ["PASSED", "PASSED", "FAILED", "LEAKED", "UNSUPPORTED"]
    assert read.boundaries == (False, True, False, True, False)
    assert "hom.batch.write" in as_html(by_contract(made))


def test_what_a_test_did_not_come_to_has_no_verdict() -> None:
    failing = result(
        "t.py::t[hom.batch]", "6.1", "failed", observations=(observation("hom.batch.read", "ok", "ENOTSUPP"),)
    )
    made = record(two("5.10", "ENOTSUPP", "ENOTSUPP"), failing, kernels=KERNELS[:2])
    assert [row.cells[1].ending.name for row in matrix_of(by_contract(made)).rows] == ["FAILED", "INFRASTRUCTURE"]


def test_a_contract_that_was_not_asked_is_left_out_although_its_test_passed() -> None:
    why = "it is for kernels >=5.19"
    both = (
        observation("hom.batch.read", "ok", "ok"),
        observation("hom.batch.write", None, verdict="not asked", note=why),
    )
    passed = result("t.py::t[hom.batch]", "5.10", contract="hom.batch.read", observations=both)
    made = record(passed, two("6.1", "ok", "ok"), kernels=KERNELS[:2])
    read, write = matrix_of(by_contract(made)).rows
    assert [cell.ending.name for cell in read.cells] == ["PASSED", "PASSED"]
    assert [(cell.ending.name, cell.seen, cell.reason) for cell in write.cells] == [
        ("LEFT_OUT", "", why),
        ("PASSED", "ok", ""),
    ]
    assert write.boundaries == (False, False)


def test_a_record_is_read_by_contract() -> None:
    made = record(two("6.1", "ok", "EPERM"), result("t.py::t[raw-hom.batch]", "6.12"), kernels=KERNELS)
    found = parse(msgspec.json.encode(made), "run.json").results
    assert [(one.test, one.contract, one.observations[0].observed) for one in found[:2]] == [
        ("t.py::t[hom.batch.read]", "hom.batch.read", "ok"),
        ("t.py::t[hom.batch.write]", "hom.batch.write", "EPERM"),
    ]
    assert found[2] == made.results[1]
    assert by_contract(parse(msgspec.json.encode(made), "run.json")).results == found


def test_a_group_of_one_contract_is_called_after_it() -> None:
    made = by_contract(record(two("6.1", "ok")))
    assert [(one.test, one.contract) for one in made.results] == [("t.py::t[hom.batch.read]", "hom.batch.read")]


@pytest.mark.parametrize(
    ("test", "behaviour"),
    [
        ("t.py::test_x[hom.create.value_size.8]", "hom.create.value_size.8"),
        ("t.py::test_x[mim.prog.flag.rdonly_prog-store]", "mim.prog.flag.rdonly_prog-store"),
        ("t.py::test_x[raw-hom.create.plain]", "hom.create.plain"),
        ("t.py::test_x[hom.create.plain-libbpf]", "hom.create.plain (libbpf)"),
        ("t.py::test_x[run.json]", "t.py::test_x[run.json]"),
        ("t.py::test_x[hom.create-4096]", "hom.create-4096"),
        ("t.py::test_x", "t.py::test_x"),
    ],
)
def test_a_behaviour_is_a_contract_or_a_test(test: str, behaviour: str) -> None:
    assert behaviour_of(test) == behaviour
