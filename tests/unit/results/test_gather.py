"""Phases of tests in, results out."""

from __future__ import annotations

from typing import Any

import pytest

from harness.results.gather import FAILURE_LIMIT, Gatherer, Phase, plain, shortened
from harness.results.ids import kernel_of, without_kernel
from harness.results.outcomes import Outcome
from harness.results.types import RecordedResult

OBSERVED = {
    "contract": "hom.create.value_size.8",
    "sentence": "8 is refused",
    "takes": "errno",
    "observed": "EINVAL",
    "expected": None,
    "source": "",
    "verdict": "observed",
}


@pytest.mark.parametrize(
    ("nodeid", "kernel", "test"),
    [
        ("a.py::test_b[6.1]", "6.1", "a.py::test_b"),
        ("a.py::test_b[hom-6.1-x]", "6.1", "a.py::test_b[hom-x]"),
        ("a.py::test_b[6.1-x]", "6.1", "a.py::test_b[x]"),
        ("a.py::test_b[16.1-6.1]", "6.1", "a.py::test_b[16.1]"),
        ("a.py::test_b[6.12-6.1]", "6.1", "a.py::test_b[6.12]"),
        ("a.py::test_b[6.10-6.1]", "6.1", "a.py::test_b[6.10]"),
        ("a.py::test_b[6.1-6.1]", "6.1", "a.py::test_b[6.1]"),
        ("a.py::test_b[x-/k/6.1-rc1/vmlinux-y]", "/k/6.1-rc1/vmlinux", "a.py::test_b[x-y]"),
        ("a.py::test_b[/k/\\xfc]", "/k/ü", "a.py::test_b"),
        ("a.py::test_b", "6.1", "a.py::test_b"),
        ("a.py::test_b[x]", "6.1", "a.py::test_b[x]"),
    ],
)
def test_the_kernel_is_taken_out_of_an_id(nodeid: str, kernel: str, test: str) -> None:
    assert without_kernel(nodeid, kernel) == test


def test_the_longest_kernel_that_fits_is_the_one() -> None:
    assert kernel_of("a.py::t[x-6.1-rc1]", ["6.1", "6.1-rc1"]) == "6.1-rc1"
    assert kernel_of("a.py::t[x]", ["6.1"]) is None


def gathered(*phases: dict[str, Any], kernels: tuple[str, ...] = ()) -> tuple[RecordedResult | None, Gatherer]:
    gatherer = Gatherer("r1")
    result = None
    for phase in phases:
        result = gatherer.add(Phase(**{"nodeid": "t.py::t[6.1]", "outcome": "passed", **phase}), kernels)
    return result, gatherer


KERNEL = ("kernel", "6.1")


def test_a_result_is_made_of_three_phases() -> None:
    known = [KERNEL, ("release", "6.1.0"), ("machine", {"start": 0.2, "boot": 4.5}), ("contract", "hom.x")]
    result, _ = gathered(
        {"when": "setup", "seconds": 0.25, "properties": known},
        {"when": "call", "seconds": 1.5, "properties": [*known, ("observation", OBSERVED)]},
        {"when": "teardown", "seconds": 0.125, "properties": [*known, ("observation", OBSERVED)]},
    )
    assert result is not None
    assert (result.test, result.kernel, result.outcome.value, result.contract) == ("t.py::t", "6.1", "passed", "hom.x")
    assert (result.setup, result.call, result.teardown, result.start, result.boot) == (0.25, 1.5, 0.125, 0.2, 4.5)
    assert result.seconds == 1.875
    assert [one.observed for one in result.observations] == ["EINVAL"]


def test_the_worst_phase_counts_and_trouble_at_the_end_does_not_colour_the_test() -> None:
    lost = [KERNEL, ("trouble", "infrastructure")]
    result, _ = gathered(
        {"when": "setup", "properties": [KERNEL]},
        {"when": "call", "outcome": "failed", "text": "assert 1 == 2", "reason": "1 == 2", "properties": [KERNEL]},
        {"when": "teardown", "properties": [KERNEL]},
    )
    assert result is not None
    assert (result.outcome.value, result.reason, result.failure) == ("failed", "1 == 2", "assert 1 == 2")
    result, _ = gathered(
        {"when": "setup", "outcome": "failed", "properties": lost}, {"when": "teardown", "properties": lost}
    )
    assert result is not None
    assert (result.outcome.value, result.trouble) == ("infrastructure", ("infrastructure",))


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("crashed", "crashed"),
        ("hung", "hung"),
        ("protocol", "protocol"),
        ("ended", "failed"),
        ("leak", "leaked"),
        ("fault", "faulted"),
        ("missing", "failed"),
    ],
)
def test_what_ended_a_test_is_its_outcome(word: str, outcome: str) -> None:
    troubled = {"outcome": "failed", "properties": [KERNEL, ("trouble", word)]}
    result, _ = gathered({"when": "call", **troubled}, {"when": "teardown", "properties": troubled["properties"]})
    assert result is not None
    assert (result.outcome.value, result.trouble) == (outcome, (word,))


@pytest.mark.parametrize("word", ["rain", ["leak"], None])
def test_a_projects_own_property_of_that_name_is_not_trouble(word: object) -> None:
    result, _ = gathered(
        {"when": "call", "outcome": "failed", "properties": [KERNEL, ("trouble", word)]}, {"when": "teardown"}
    )
    assert result is not None
    assert (result.outcome, result.trouble) == (Outcome.FAILED, ())


def test_skips_have_a_reason_and_expected_failures_are_not_skips() -> None:
    skipped: dict[str, Any] = {"when": "setup", "outcome": "skipped", "reason": "no BTF", "properties": [KERNEL]}
    result, _ = gathered(skipped, {"when": "teardown", "properties": [KERNEL]})
    assert result is not None
    assert (result.outcome.value, result.reason, result.failure) == ("unsupported", "no BTF", "")
    result, _ = gathered({**skipped, "expected": True}, {"when": "teardown", "properties": [KERNEL]})
    assert result is not None
    assert result.outcome is Outcome.XFAILED


def test_a_test_without_a_kernel_gives_no_result() -> None:
    result, gatherer = gathered({"when": "setup"}, {"when": "call"}, {"when": "teardown"})
    assert result is None
    assert gatherer.problems == []


def test_a_worker_that_ended_gives_no_verdict_on_the_kernel() -> None:
    crash = {"when": "???", "outcome": "failed", "text": "worker 'gw0' crashed"}
    result, _ = gathered({"when": "setup", "properties": [KERNEL]}, crash)
    assert result is not None
    assert (result.kernel, result.outcome.value) == ("6.1", "infrastructure")
    result, _ = gathered(crash, kernels=("6.12", "6.1"))
    assert result is not None
    assert (result.kernel, result.outcome.value) == ("6.1", "infrastructure")


def test_the_last_of_several_attempts_counts() -> None:
    passed = [{"when": when, "properties": [KERNEL]} for when in ("setup", "call", "teardown")]
    failed = [passed[0], {**passed[1], "outcome": "failed", "text": "no"}, passed[2]]
    result, _ = gathered(*failed, *passed)
    assert result is not None
    assert (result.outcome.value, result.attempts, result.failure) == ("passed", 2, "")


@pytest.mark.parametrize("void", ["call", "teardown"])
def test_an_attempt_that_does_not_count_leaves_nothing_but_its_number(void: str) -> None:
    passed = [{"when": when, "properties": [KERNEL]} for when in ("setup", "call", "teardown")]
    trouble = [KERNEL, ("trouble", "infrastructure")]
    first = [{**one, "outcome": "rerun", "properties": trouble} if one["when"] == void else one for one in passed]
    result, gatherer = gathered(*first)
    assert result is None
    result, gatherer = gathered(*first, passed[0], {**passed[1], "outcome": "failed", "text": "no"}, passed[2])
    assert result is not None
    assert (result.outcome.value, result.attempts, result.trouble) == ("failed", 2, ())
    assert gatherer.problems == []


def test_the_time_of_a_subtest_is_in_that_of_its_test() -> None:
    parts = [{"when": "call", "properties": [KERNEL], "seconds": 0.5, "is_part": True}] * 2
    result, _ = gathered(*parts, {"when": "call", "properties": [KERNEL], "seconds": 1.1}, {"when": "teardown"})
    assert result is not None
    assert result.call == 1.1


def test_a_property_of_another_shape_is_reported_and_nothing_else_is_lost() -> None:
    strange = [KERNEL, ("observation", "seen"), ("leak", {"kind": "map"}), ("observation", OBSERVED)]
    result, gatherer = gathered({"when": "call", "properties": strange}, {"when": "teardown", "properties": strange})
    assert result is not None
    assert len(result.observations) == 1
    assert result.leaks == ()
    assert [line.partition(": ")[0] for line in gatherer.problems] == ["t.py::t[6.1]"] * 2
    assert "'observation'" in gatherer.problems[0]
    assert "'leak'" in gatherer.problems[1]


def test_what_json_cannot_hold_is_written_another_way() -> None:
    assert plain({1: "a\udc80", "b": [b"\x01", 2**70, None, 1.5, True, {3}]}) == {
        "1": "a\\udc80",
        "b": ["01", str(2**70), None, 1.5, True, "{3}"],
    }


def test_long_texts_keep_their_start_and_end() -> None:
    text = "start" + "x" * 3 * FAILURE_LIMIT + "end"
    short = shortened(text)
    assert short.startswith("start")
    assert short.endswith("end")
    assert f"[... {len(text) - FAILURE_LIMIT} characters omitted ...]" in short
    assert len(short) < FAILURE_LIMIT + 60
    assert shortened("short") == "short"


def test_the_output_of_each_phase_is_there_once() -> None:
    captured, guest, found = ("Captured stdout call", "host"), ("Guest stdout of f", "guest"), ("Also found", "a splat")
    result, _ = gathered(
        {"when": "setup", "properties": [KERNEL]},
        {"when": "call", "properties": [KERNEL], "outcome": "failed", "sections": [captured, guest]},
        {"when": "teardown", "properties": [KERNEL], "sections": [captured, found]},
    )
    assert result is not None
    assert result.output.split("\n") == [
        *("--- Captured stdout call ---", "host", "--- Guest stdout of f ---", "guest"),
        *("--- Also found ---", "a splat"),
    ]


def test_an_attempt_that_was_lost_does_not_count_and_the_next_one_tells_of_it() -> None:
    lost = [KERNEL, ("trouble", "infrastructure"), ("lost", "QEMU was killed")]
    first, gatherer = gathered(
        {"when": "setup", "properties": [KERNEL]},
        {"when": "call", "outcome": "lost", "properties": lost},
        {"when": "teardown", "properties": [KERNEL, ("lost", "QEMU was killed")]},
    )
    assert first is None
    again = [KERNEL, ("retried_after", "QEMU was killed")]
    for when in ("setup", "call", "teardown"):
        second = gatherer.add(Phase("t.py::t[6.1]", when, "passed", properties=again))
    assert second is not None
    assert (second.outcome, second.attempts, second.lost) == (Outcome.PASSED, 2, ("QEMU was killed",))
    assert second.trouble == ()
