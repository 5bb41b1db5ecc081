"""Run records on disk: whole, cut short, foreign, damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

import harness.results
from harness.errors import RecordError
from harness.results.file import Journal, parse, read, schema, write
from harness.results.types import Deselected, NotRun, RunRecord
from harness.util import cache
from tests.unit.results.samples import kernel, many, record, result, run

PUBLISHED = Path(harness.results.__file__).parent / "run-record-1.schema.json"


def as_json(made: RunRecord) -> Any:
    return json.loads(msgspec.json.encode(made))


def test_the_published_schema_is_that_of_the_classes() -> None:
    """Made anew with `json.dumps(schema(), indent=1)`."""
    assert json.loads(PUBLISHED.read_text()) == schema()


def test_records_follow_the_published_schema() -> None:
    published = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    validator = jsonschema.Draft202012Validator(published)
    made = as_json(many(40))
    validator.validate(made)
    spoils: list[Callable[[Any], object]] = [
        lambda one: one.pop("format"),
        lambda one: one.update(version=2),
        lambda one: one["results"][0].update(outcome="fine"),
        lambda one: one["results"][0].pop("kernel"),
        lambda one: one["kernels"][0].update(version=6.1),
    ]
    for spoil in spoils:
        other = as_json(many(40))
        spoil(other)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(other)
        with pytest.raises(RecordError):
            parse(json.dumps(other).encode(), "other")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = many(40)
    write(tmp_path / "new" / "r.json", made)
    assert read(tmp_path / "new" / "r.json") == made
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.json"]
    # Somebody's `jq .` makes other lines of it.
    assert parse(json.dumps(as_json(made), indent=2).encode(), "x") == made


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a run record"),
        (b"{", "is not a run record"),
        (b"\x80\x81", "is not a run record"),
        (b"[1]", "is not a run record"),
        (b"{}", "is not a run record"),
        (b'{"format": "junit", "version": 1}', "is not a run record but 'junit'"),
        (b'{"format": "kernel-harness run record", "version": 2, "new": 1}', "is a run record of version 2"),
        (b'{"format": "kernel-harness run record"}', "is a run record of version None"),
        (b'{"format": "kernel-harness run record", "version": 1, "runs": 5}', r"\$.runs"),
        (b'{"format": "kernel-harness run record", "version": 1, "results": [{"test": 1}]}', r"\$.results\[0\].test"),
        (b'{"journal":true,"format":"kernel-harness run record","version":3}\n', "is a run record of version 3"),
        (b'{"journal":true,"format":"kernel-harness run record","version":1}\n{"run"\n{}\n', "is not a run record"),
    ],
)
def test_a_file_that_is_not_a_record_is_one_error(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(RecordError, match=complaint) as caught:
        read(tmp_path / "r.json")
    assert "r.json" in caught.value.what
    assert caught.value.expected


def test_a_newer_version_asks_for_a_newer_harness() -> None:
    with pytest.raises(RecordError) as caught:
        parse(b'{"format": "kernel-harness run record", "version": 9}', "x")
    assert "newer kernel-harness" in caught.value.hint


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (record(result("a::t", "6.1"), result("a::t", "6.1")), "two results of one test"),
        (record(result("a::t", "6.1"), kernels=[]), "the kernel '6.1', which is not among"),
        (record(result("a::t", "6.1", run="x")), "the run 'x', which is not among"),
        (record(kernels=[kernel("6.1.1"), kernel("6.1.2")]), "two of its kernels"),
        (record(runs=[run(), run()]), "two of its runs"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(made: RunRecord, complaint: str) -> None:
    with pytest.raises(RecordError, match=complaint):
        parse(msgspec.json.encode(made), "x")


def test_a_version_that_is_none_is_refused() -> None:
    made = as_json(record(result("a::t", "6.1")))
    made["kernels"][0]["version"] = "six"
    with pytest.raises(RecordError, match="'six' is not a kernel version"):
        parse(json.dumps(made).encode(), "x")


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize("where", ["", "file/r.json"])
def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot be written"):
        write(tmp_path / where, record())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def started(path: Path) -> Journal:
    journal = Journal(path)
    journal.add(run=run(complete=False, exit_status=None))
    journal.add(plan=[NotRun("a::t", "6.1"), NotRun("a::u", "6.1")], left_out=[Deselected("a::v", "6.1", ">=6.2")])
    journal.add(kernel=kernel("6.1.192", release=""))
    journal.add(result=result("a::t", "6.1"))
    return journal


def test_a_journal_is_a_record_that_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("an earlier record")
    journal = started(path)
    found = read(path)
    assert not found.complete
    assert [one.test for one in found.results] == ["a::t"]
    assert found.not_run == (NotRun("a::u", "6.1"),)
    assert found.left_out == (Deselected("a::v", "6.1", ">=6.2"),)
    # Cut anywhere, it still says all that was written in full.
    whole = path.read_bytes()
    assert whole.endswith(b"\n")
    for end in range(whole.index(b"\n") + 1, len(whole)):
        cut = parse(whole[:end], "cut")
        assert len(cut.results) == 0
    journal.close()


def test_a_finished_journal_is_a_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    journal = started(path)
    journal.add(kernel=kernel("6.1.192"))
    journal.add(result=result("a::u", "6.1"))
    assert journal.draft.reached_all
    journal.finish(run())
    found = read(path)
    assert found.complete
    assert json.loads(path.read_text())["kernels"][0]["release"] == "6.1.192-cloud-amd64"
    assert [one.test for one in found.results] == ["a::t", "a::u"]
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]


def test_results_are_in_the_order_of_the_plan(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "r.json")
    journal.add(plan=[NotRun(name, "6.1") for name in ("b", "a", "c")])
    for name in ("c", "a", "b"):
        journal.add(result=result(name, "6.1"))
    assert [one.test for one in journal.draft.record().results] == ["b", "a", "c"]
    journal.close()


def test_a_full_disk_is_reported_once_and_the_journal_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    journal = started(path)
    real = os.open("/dev/full", os.O_WRONLY)
    assert journal._stream is not None
    os.dup2(real, journal._stream.fileno())
    with pytest.raises(RecordError, match="cannot be written: No space left on device"):
        journal.add(result=result("a::u", "6.1"))
    journal.add(result=result("a::w", "6.1"))  # kept for the end, when there may be room again
    os.close(real)

    def full(final: Path) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache, "new_file", full)
        with pytest.raises(RecordError, match="No space left"):
            journal.finish(run())
    assert len(read(path).results) == 1
    journal.finish(run())
    assert len(read(path).results) == 3
