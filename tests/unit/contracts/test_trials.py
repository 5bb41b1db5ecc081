"""What configuration trials take away, and what their records show."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.contracts.trials import THINGS, judged, run, trials, words
from harness.errors import RecordError
from tests.unit.results.samples import observation, record, result


def test_each_thing_is_taken_away_alone_and_then_in_sets() -> None:
    found = trials(len(THINGS) + 30)
    assert [one for one in found if len(one) == 1] == [(name,) for name in THINGS]
    sets = found[len(THINGS) :]
    assert len(set(sets)) == 30
    assert all(2 <= len(one) <= 6 for one in sets)
    assert trials(len(THINGS) + 30) == found
    assert trials(len(THINGS) + 30, seed=2) != found


def test_the_words_of_a_set_are_put_together() -> None:
    assert words(["tracefs", "smp", "bpffs", "cap_bpf", "cap_perfmon"]) == (
        "harness.without=tracefs,bpf harness.drop=39,38 nosmp"
    )
    assert words(["compiler", "user_namespaces"]) == (
        "harness.set=/proc/sys/net/core/bpf_jit_enable:0,/proc/sys/user/max_user_namespaces:0"
    )


@pytest.mark.parametrize(
    ("outcome", "failed"), [("passed", 0), ("unsupported", 0), ("failed", 1), ("infrastructure", 1), ("leaked", 1)]
)
def test_a_contract_passes_or_is_not_asked(outcome: str, failed: int) -> None:
    asked = observation("hom.a", "ok", "ok")
    missing = observation("hom.b", None, verdict="not asked", note="6.1 lacks tracefs")
    trial = judged(
        ("tracefs",),
        record(
            result("test.py::test_it[hom.a]", "6.1", outcome, reason="why", observations=(asked,)),
            result("test.py::test_it[hom.b]", "6.1", "unsupported", observations=(missing,)),
        ),
    )
    assert (trial.asked, trial.not_asked) == (1, {"6.1 lacks tracefs": 1})
    assert list(trial.failures) == [f"test.py::test_it[hom.a]: {outcome}: why"] * failed


def test_an_earlier_record_does_not_speak_for_a_run_that_wrote_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    earlier = tmp_path / "earlier.json"
    earlier.write_text("{}")
    with pytest.raises(RecordError, match="wrote no record"):
        run("6.1", ("tracefs",), earlier, 20, [])
