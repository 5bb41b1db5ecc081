"""Several records become one, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cli import main
from harness.errors import RecordError
from harness.results.file import parse, read, write
from harness.results.merge import Prefer, merge, missing_shards
from harness.results.outcomes import Outcome
from harness.results.types import Deselected, NotRun, RunRecord
from tests.unit.results.samples import kernel, many, observation, record, result, run


def named(*records: RunRecord) -> list[tuple[str, RunRecord]]:
    return [(f"{number}.json", one) for number, one in enumerate(records, 1)]


def of(number: int, *results: Any, **fields: Any) -> RunRecord:
    return record(*results, **{"runs": [run(number)], **fields})


def test_shards_by_kernel_become_one() -> None:
    a = of(1, result("t::a", "6.12"), result("t::b", "6.12"))
    b = of(2, result("t::a", "6.1", run="run2"), result("t::b", "6.1", run="run2"))
    merged = merge(named(a, b))
    assert [(one.test, one.kernel) for one in merged.results] == [
        ("t::a", "6.1"),
        ("t::a", "6.12"),
        ("t::b", "6.1"),
        ("t::b", "6.12"),
    ]
    assert [one.id for one in merged.runs] == ["run1", "run2"]
    assert [one.label for one in merged.kernels] == ["6.1", "6.12"]
    assert merged.complete
    assert merge(named(b, a)) == merged


def test_what_one_did_not_reach_and_another_did_was_run() -> None:
    a = of(1, result("t::a", "6.1"), not_run=[NotRun("t::b", "6.1"), NotRun("t::c", "6.1")])
    b = of(2, result("t::b", "6.1", run="run2"), left_out=[Deselected("t::d", "6.1", ">=6.2")])
    merged = merge(named(a, b))
    assert merged.not_run == (NotRun("t::c", "6.1"),)
    assert merged.left_out == b.left_out
    assert not merged.complete


def test_a_verdict_wins_over_no_verdict_in_any_order() -> None:
    lost, passed = result("t::a", "6.1", "infrastructure"), result("t::a", "6.1", run="run2")
    for records in ((of(1, lost), of(2, passed)), (of(2, passed), of(1, lost))):
        assert [one.outcome.value for one in merge(named(*records)).results] == ["passed"]


def test_the_later_of_two_that_agree_is_kept() -> None:
    first = result("t::a", "6.1", observations=(observation("x", "EPERM"),))
    again = result("t::a", "6.1", run="run2", call=9.0, observations=(observation("x", "EPERM"),))
    assert [one.run for one in merge(named(of(2, again), of(1, first))).results] == ["run2"]


@pytest.mark.parametrize(
    "other",
    [
        result("t::a", "6.1", "failed", run="run2"),
        result("t::a", "6.1", run="run2", observations=(observation("x", "EPERM"),)),
    ],
)
def test_two_that_contradict_each_other_are_an_error(other: Any) -> None:
    first = result("t::a", "6.1", observations=(observation("x", "EINVAL"),))
    with pytest.raises(RecordError, match="contradict each other on 1 result") as caught:
        merge(named(of(1, first), of(2, other)))
    assert "t::a on 6.1: passed (EINVAL) in 1.json" in caught.value.detail
    for prefer, kept in (
        (Prefer.LATEST, "run2"),
        (Prefer.WORST, "run2" if other.outcome is Outcome.FAILED else "run1"),
    ):
        merged = merge(named(of(1, first), of(2, other)), prefer=prefer)
        assert [one.run for one in merged.results] == [kept]


def test_one_label_is_one_kernel() -> None:
    a = of(1, result("t::a", "6.1"), kernels=[kernel("6.1.192")])
    b = of(2, result("t::a", "6.1", "failed", run="run2"), kernels=[kernel("6.1.190")])
    with pytest.raises(RecordError, match=r"two different kernels are called '6.1': 6.1.192 .* in 1.json, 6.1.190"):
        merge(named(a, b))
    merged = merge(named(a, b), relabel=True)
    assert [(one.kernel, one.outcome.value) for one in merged.results] == [("6.1.190", "failed"), ("6.1.192", "passed")]
    assert [one.label for one in merged.kernels] == ["6.1.190", "6.1.192"]
    assert parse(msgspec.json.encode(merged), "merged") == merged


def test_two_builds_of_one_version_are_kept_apart_by_their_digests() -> None:
    a = of(1, result("t::a", "6.1"), kernels=[kernel("6.1.192")])
    b = of(2, result("t::a", "6.1", run="run2"), kernels=[kernel("6.1.192", config_digest="c" * 64, digest="d" * 64)])
    with pytest.raises(RecordError, match="two different kernels"):
        merge(named(a, b))
    assert [one.label for one in merge(named(a, b), relabel=True).kernels] == ["6.1.192-00061192", "6.1.192-dddddddd"]


def test_an_unavailable_kernel_is_replaced_by_the_same_available_one() -> None:
    never = kernel("6.1.192", digest="", config_digest="", release="", origin="")
    a = of(1, result("t::a", "6.1", "infrastructure"), kernels=[never])
    b = of(2, result("t::a", "6.1", run="run2"))
    for records in ((a, b), (b, a)):
        assert merge(named(*records)).kernels == (kernel("6.1.192"),)


def test_a_record_and_itself_are_the_same_record() -> None:
    made = many(60)
    assert merge(named(made, made)) == merge(named(made))


def test_an_unfinished_copy_of_a_run_gives_way_to_the_whole() -> None:
    whole = of(1, result("t::a", "6.1"))
    early = record(runs=[run(1, complete=False, exit_status=None, seconds=0.0)], not_run=[NotRun("t::a", "6.1")])
    assert merge(named(early, whole)) == whole


def test_every_shard_must_be_there() -> None:
    def shard(number: int, of_all: int) -> Any:
        return run(number, shard=f"{number}/{of_all}")

    assert missing_shards([shard(1, 3), shard(3, 3), run(5)]) == ["2/3"]
    assert missing_shards([shard(1, 2), shard(2, 2)]) == []
    a = record(result("t::a", "6.1"), runs=[shard(1, 2)])
    with pytest.raises(RecordError, match="shards are missing: 2/2"):
        merge(named(a))
    assert len(merge(named(a), partial=True).results) == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = (tmp_path / name for name in ("a.json", "b.json", "out.json"))
    write(a, of(1, result("t::a", "6.1")))
    write(b, of(2, result("t::a", "6.12", run="run2")))
    assert main(["merge", str(a), str(b), "-o", str(out)]) == 0
    assert "2 runs, 2 kernels, 1 tests" in capsys.readouterr().out
    assert read(out) == merge(named(read(a), read(b)))
    write(b, of(2, result("t::a", "6.1", "failed", run="run2")))
    before = out.read_bytes()
    assert main(["merge", str(a), str(b), "-o", str(out)]) == 2
    assert "--prefer latest" in capsys.readouterr().err
    assert out.read_bytes() == before
