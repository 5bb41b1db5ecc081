"""Kernels shared out among CI jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.kernel import lockfile
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.results.file import write
from harness.shards import as_github, as_gitlab, as_json, share
from tests.unit.results.samples import record, result


def choice(number: int) -> Choice:
    return Choice(f"6.{number}", KernelVersion(6, number), "debian", f"6.{number}-cloud=6.{number}-1", "cloud")


counts = st.integers(1, 40)


@given(counts, counts)
def test_every_kernel_is_in_one_shard_and_no_shard_has_many_more_than_another(kernels: int, shards: int) -> None:
    choices = [choice(number) for number in range(kernels)]
    shared = share(choices, shards)
    assert len(shared) == min(kernels, shards)
    assert sorted((one for shard in shared for one in shard.choices), key=lambda one: one.version) == choices
    sizes = [len(shard.choices) for shard in shared]
    assert max(sizes) - min(sizes) <= 1
    assert [shard.number for shard in shared] == list(range(1, len(shared) + 1))
    assert {shard.count for shard in shared} == {len(shared)}
    assert all(list(shard.choices) == sorted(shard.choices, key=lambda one: one.version) for shard in shared)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20), st.integers(1, 8))
def test_dear_kernels_are_shared_out_first(costs: list[float], shards: int) -> None:
    choices = [choice(number) for number in range(len(costs))]
    known = {one.label: cost for one, cost in zip(choices, costs, strict=True)}
    shared = share(choices, shards, known)
    assert shared == share(choices, shards, dict(reversed(known.items())))
    # A shard that has more than the others together with its cheapest kernel would have given that one away.
    least = min(shard.load for shard in shared)
    for shard in shared:
        assert shard.load == pytest.approx(sum(known[one.label] for one in shard.choices))
        assert shard.load - min(known[one.label] for one in shard.choices) <= least + 1e-9


def test_a_kernel_of_unknown_cost_costs_what_is_usual() -> None:
    shared = share([choice(number) for number in range(3)], 3, {"6.0": 10.0, "6.1": 20.0})
    assert [shard.load for shard in shared] == [10.0, 20.0, 15.0]


def test_what_ci_systems_read() -> None:
    shards = share([choice(1), choice(2), choice(12)], 2)
    github = as_github(shards, "locks/")
    assert "\n" not in github
    assert json.loads(github) == {
        "include": [
            {"shard": "1/2", "number": "1", "kernels": "6.1 6.12", "lock": "locks/shard-1.lock"},
            {"shard": "2/2", "number": "2", "kernels": "6.2", "lock": "locks/shard-2.lock"},
        ]
    }
    gitlab = json.loads(as_gitlab(shards, ""))
    assert gitlab["shard"]["extends"] == ".shard"
    assert gitlab["shard"]["parallel"]["matrix"][1] == {
        "SHARD": "2/2",
        "NUMBER": "2",
        "KERNELS": "6.2",
        "LOCK": "shard-2.lock",
    }
    [first, _] = json.loads(as_json(shards, ""))
    assert [one["key"] for one in first["choices"]] == ["6.1-cloud=6.1-1", "6.12-cloud=6.12-1"]


def test_the_command_writes_lock_files_of_exact_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = tmp_path / "kernels.lock"
    lockfile.write(every, [choice(1), choice(2), choice(12)], {})
    assert main(["matrix", f"--kernel=@{every}", "--shards=5", "--format=github", f"--locks={tmp_path}/locks"]) == 0
    out, err = capsys.readouterr()
    assert "3 kernels make 3 shards, not 5" in err
    locks = [entry["lock"] for entry in json.loads(out)["include"]]
    assert locks == [f"{tmp_path}/locks/shard-{number}.lock" for number in (1, 2, 3)]
    assert [lockfile.read(Path(lock)) for lock in locks] == [[choice(1)], [choice(2)], [choice(12)]]


def test_an_earlier_run_says_what_kernels_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every, earlier = tmp_path / "kernels.lock", tmp_path / "record.json"
    lockfile.write(every, [choice(1), choice(12), choice(16)], {})
    write(earlier, record(result("t", "6.1", call=1.0), result("t", "6.12", call=50.0), result("u", "6.16", call=2.0)))
    words = ["matrix", f"--kernel=@{every}", "--shards=2", f"--locks={tmp_path}"]
    assert main([*words, f"--costs={earlier}"]) == 0
    assert [shard["kernels"] for shard in json.loads(capsys.readouterr().out)] == ["6.1 6.16", "6.12"]
    assert main([*words, f"--costs={every}"]) != 0
    assert "run record" in capsys.readouterr().err


def test_kernels_that_cannot_be_named_are_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--kernel=nonsense", "--shards=2", f"--locks={tmp_path}"]) == 2
    assert "'nonsense' is not a kernel selector" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
