"""The golden set: the answers of every kernel that was ever run agree with the tables as they are now."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from harness.cli import main
from harness.cli.contracts import GOLDEN
from harness.contracts import contracts, golden
from harness.contracts.contract import Contract
from harness.contracts.golden import Golden
from harness.errors import RecordError
from harness.kernel.vendor import vendor_of
from harness.kernel.version import KernelVersion
from harness.results.file import write
from tests.unit.results.samples import observation, record, result


@pytest.fixture(scope="module")
def kernels() -> list[Golden]:
    return golden.read(GOLDEN)


def disagreements(kernels: Iterable[Golden], tables: dict[str, Contract]) -> list[str]:
    return [
        f"{one.kernel.name}: {one.contract} is {one.observed!r}, expected {one.verdict.expected!r}"
        for one in golden.judged(kernels, tables)
        if one.verdict.word == "differs"
    ]


def test_no_kernel_disagrees_with_a_table(kernels: list[Golden]) -> None:
    assert disagreements(kernels, contracts()) == []


LIKE = {"4.18.0-147.5.1.el8-minimal": "5.0", "6.5.0-27-generic-minimal": "6.5"}
"""The vendors' kernels of the set, Red Hat's and Ubuntu's, each with the release that answers as it does."""


def test_no_answer_is_unexplained_but_of_a_vendors_kernel(kernels: list[Golden]) -> None:
    judged = golden.judged(kernels, contracts())
    observed = {(one.kernel.release, one.contract) for one in judged if one.verdict.word == "observed"}
    assert {contract for release, contract in observed if not vendor_of(release)} == set()
    assert {release for release, _ in observed} == set(LIKE)


@pytest.mark.parametrize("release", LIKE)
def test_a_vendors_kernel_answers_as_the_release_that_it_took_its_changes_from(
    kernels: list[Golden], release: str
) -> None:
    [vendors] = [one for one in kernels if one.release == release]
    found = golden.nearest(vendors, kernels)
    assert found is not None
    assert (found.kernel.version, found.otherwise) == (LIKE[release], {})


TURNED = {
    "aom.create.key_size.8": ("5.10", "ok"),
    "hom.create.btf_ids": ("6.1", "ok"),
    "aom.waits.update": ("6.1", "waits once"),
    "hom.waits.lookup": ("6.1", "returns at once"),
    "aom.waits_batch.update_batch": ("6.1", "waits once"),
    "hom.lifetime.last_reference.delete": ("6.1", "alive"),
    "hom.privilege.update.nobody": ("5.10", "ok"),
    "hom.freeze.without_capabilities.allowed": ("6.1", "ok"),
    "hom.fdinfo.memlock": ("6.1", "grows"),
    "hom.prog.refused_with.no_null_check": ("6.1", "R1 type=map_ptr_or_null expected=map_ptr"),
}
"""Ten expectations, each with a series and an answer that its kernels do not give."""


@pytest.mark.parametrize("name", TURNED)
def test_an_expectation_that_is_turned_round_is_caught(kernels: list[Golden], name: str) -> None:
    series, answer = TURNED[name]
    right = contracts()[name]
    wrong = turned(right, KernelVersion.parse(series), answer)
    assert wrong != right
    found = disagreements(kernels, {**contracts(), name: wrong})
    assert found
    assert all(f": {name} is " in one for one in found)


def turned(right: Contract, version: KernelVersion, answer: str) -> Contract:
    """Return a contract whose range around the last release of a series has another answer."""
    last = dataclasses.replace(version, patch=9999)
    changed = [
        tuple(dataclasses.replace(one, answer=answer) if one.holds(last) else one for one in ranges)
        for ranges in (right.ranges, right.backports)
    ]
    return dataclasses.replace(right, ranges=changed[0], backports=changed[1])


SEEN = Golden("6.1.3", "6.1.3-x", "minimal", "ab" * 32, {"hom.a": "ok", "hom.b": [1]}, {"ids": "yes"})


def test_answers_that_were_not_given_again_are_kept(tmp_path: Path) -> None:
    first = golden.add(tmp_path, SEEN)
    again = golden.add(tmp_path, msgspec.structs.replace(SEEN, answers={"hom.a": "EINVAL"}, probed={}))
    assert first == again
    assert first.name == "6.1.3-x=minimal=abababab.json.gz"
    (found,) = golden.read(tmp_path)
    assert found == msgspec.structs.replace(SEEN, answers={"hom.a": "EINVAL", "hom.b": [1]})


def test_a_run_of_a_part_does_not_say_what_is_not_asked(tmp_path: Path) -> None:
    whole = msgspec.structs.replace(SEEN, not_asked={"6.1.3 lacks btf": 8})
    golden.add(tmp_path, whole)
    golden.add(tmp_path, msgspec.structs.replace(SEEN, answers={"hom.a": "ok"}, not_asked={"6.1.3 lacks btf": 1}))
    assert golden.read(tmp_path) == [whole]
    golden.add(tmp_path, SEEN)
    assert golden.read(tmp_path) == [SEEN]


def test_the_same_answers_are_the_same_file(tmp_path: Path) -> None:
    first = golden.add(tmp_path, SEEN).read_bytes()
    assert golden.add(tmp_path, SEEN).read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"no gzip", b"\x1f\x8b\x08"])
def test_a_damaged_file_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json.gz").write_bytes(content)
    with pytest.raises(RecordError, match=r"a\.json\.gz is not a file of the golden set"):
        golden.read(tmp_path)


def test_an_empty_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no golden set"):
        golden.read(tmp_path)


MEMLOCK = "hom.fdinfo.memlock"


def added(tmp_path: Path, answer: str) -> list[str]:
    """Add the record of a run on 6.1 that saw an answer; return the command line that names the golden set."""
    skipped = observation("hom.waits.update", None, None, verdict="not asked", note="6.1 lacks wait_trace")
    probed = observation("hom.prog.interpreter", "EINVAL", "EINVAL", source="the probe interpreter: no")
    seen = (observation(MEMLOCK, answer, "stays"), skipped, probed)
    results = [
        result(f"test.py::test_it[{one.contract}]", "6.1", contract=one.contract, observations=(one,)) for one in seen
    ]
    write(tmp_path / "run.json", record(*results))
    folder = ["--golden", str(tmp_path / "golden")]
    assert main(["contracts", *folder, "--add", str(tmp_path / "run.json")]) == 0
    return ["contracts", *folder]


def test_a_record_is_added_with_one_command(tmp_path: Path) -> None:
    added(tmp_path, "stays")
    (found,) = golden.read(tmp_path / "golden")
    assert found.answers == {MEMLOCK: "stays", "hom.prog.interpreter": "EINVAL"}
    assert (found.probed, found.not_asked) == ({"interpreter": "no"}, {"6.1 lacks wait_trace": 1})


@pytest.mark.parametrize(
    ("answer", "status", "counts"), [("stays", 0, ["2", "0", "0", "1"]), ("grows", 1, ["1", "1", "0", "1"])]
)
def test_the_command_names_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, status: int, counts: list[str]
) -> None:
    command = added(tmp_path, answer)
    capsys.readouterr()
    assert main(command) == status
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[-4:] == counts
    assert (f'{MEMLOCK}: "grows", expected "stays"' in out) is bool(status)


def test_ranges_that_no_kernel_has_confirmed_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = added(tmp_path, "stays")
    capsys.readouterr()
    assert main([*command, "--unknown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if MEMLOCK in line.split(", "))
    assert lines[place + 1].startswith('  from 6.4: "grows"')
    assert sum(MEMLOCK in line.split(", ") for line in lines) == 1  # the other range was seen


def test_a_record_without_contracts_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run.json", record(result("test.py::test_it", "6.1")))
    assert main(["contracts", "--golden", str(tmp_path), "--add", str(tmp_path / "run.json")]) != 0
    assert "has no answer to a contract" in capsys.readouterr().err


def test_the_kernel_that_answers_most_alike_is_found() -> None:
    def answers(version: str, release: str, *values: str) -> Golden:
        return Golden(version, release, answers=dict(zip(("hom.a", "hom.b", "hom.c"), values, strict=False)))

    old, new = answers("4.18", "4.18-x", "a", "b", "c"), answers("5.14", "5.14-x", "A", "B", "c")
    vendor = answers("4.18", "4.18.0-348.el8.x86_64", "A", "B", "C")
    found = golden.nearest(vendor, [old, new, vendor])
    assert found is not None
    assert (found.kernel, found.alike, dict(found.otherwise)) == (new, 2, {"hom.c": ("C", "c")})
    assert golden.nearest(vendor, [vendor]) is None


def test_the_command_names_the_nearest_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = added(tmp_path, "stays")
    golden.add(
        tmp_path / "golden", Golden("6.5", "6.5-x", answers={MEMLOCK: "grows", "hom.prog.interpreter": "EINVAL"})
    )
    golden.add(tmp_path / "golden", Golden("6.2", "6.2-x", answers={MEMLOCK: "grows", "hom.prog.interpreter": "ok"}))
    capsys.readouterr()
    assert main([*command, "--nearest", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "6.1.192-cloud-amd64 is most like 6.5 (6.5-x): 1 answers alike, 1 otherwise",
        f'  {MEMLOCK}: "stays", there "grows"',
    ]
