"""What a record says of a kernel, as releases are compared by it."""

from __future__ import annotations

from typing import Any

from harness.boundary.answers import answer_of, reading_of
from harness.boundary.search import Reading
from harness.results.contracts import by_contract
from harness.results.outcomes import Outcome
from harness.results.types import FORMAT, VERSION, Deselected, NotRun, Observation, RecordedResult, RunRecord


def result(test: str = "t", outcome: str = "passed", **fields: Any) -> RecordedResult:
    return RecordedResult(**{"test": test, "kernel": "6.12", "run": "r", "outcome": Outcome(outcome), **fields})


def record(*results: RecordedResult, **fields: Any) -> RunRecord:
    return RunRecord(format=FORMAT, version=VERSION, results=results, **fields)


def seen(observed: object, verdict: Any = "observed", **fields: Any) -> Observation:
    return Observation(**{"sentence": "s", "observed": observed, "verdict": verdict, **fields})


def test_the_observation_is_the_answer_regardless_of_the_expectation() -> None:
    plain = answer_of(result(observations=(seen("EINVAL", "as expected", expected="EINVAL"),)))
    surprised = answer_of(
        result(outcome="failed", reason="it does not hold", observations=(seen("EINVAL", "differs", expected="ok"),))
    )
    assert plain == surprised
    assert (plain.text, plain.good, plain.reason) == ("EINVAL", True, "")
    assert (surprised.good, surprised.reason) == (False, "it does not hold")
    assert answer_of(result(observations=(seen("ok"),))) != plain
    assert answer_of(result(observations=(seen("EINVAL", contract="hom.x"),))) != plain


def test_a_failure_for_another_reason_is_an_answer_of_its_own() -> None:
    observations = (seen(1, "as expected"),)
    failed = answer_of(result(outcome="failed", observations=observations, reason="assert 1 == 2"))
    assert failed != answer_of(result(observations=observations))
    assert failed.text == "failed, 1"
    leaking = answer_of(result(outcome="leaked", trouble=("leak",), observations=(seen(1, "differs"),)))
    assert (leaking.text, leaking.good) == ("leaked, 1", False)
    crashed = answer_of(result(outcome="crashed", trouble=("crashed",)))
    assert crashed.text == "crashed"
    assert len({failed, leaking, crashed, answer_of(result())}) == 4


def test_an_outcome_that_says_nothing_about_the_kernel_is_not_an_answer() -> None:
    reading = reading_of(
        record(
            result("a"),
            result("b", outcome="unsupported", reason="there are no timers"),
            result("c", outcome="infrastructure", reason="BootError: no answer"),
            result("d", kernel="6.1"),
            left_out=(Deselected("e", "6.12", ">=7.0"), Deselected("e", "6.1", ">=7.0")),
            not_run=(NotRun("f", "6.12"),),
        ),
        "6.12",
    )
    assert set(reading.answers) == {"a"}
    assert reading.silent == {
        "b": "there are no timers",
        "c": "BootError: no answer",
        "e": "the test is for kernels >=7.0",
        "f": "the run ended before it",
    }


def test_of_a_contract_no_other_observation_counts() -> None:
    both = (seen("ok", contract="hom.a", verdict="as expected"), seen("EINVAL", contract="hom.ab", verdict="differs"))
    together = record(result("t", outcome="failed", contract="hom.a", observations=both, reason="hom.ab is broken"))
    together = by_contract(together)
    reading = reading_of(together, "6.12", contract="hom.a")
    assert reading.silent == {}
    assert reading.answers["hom.a"].good
    assert reading.answers["hom.a"] == answer_of(result(observations=both[:1]))
    other = reading_of(together, "6.12", contract="hom.ab").answers["hom.ab"]
    assert (other.text, other.good, other.reason) == ("EINVAL", False, "hom.ab is broken")
    assert reading_of(together, "6.12", contract="hom.c") == Reading()
    assert {name: one.text for name, one in reading_of(together, "6.12").answers.items()} == {
        "hom.a": "ok",
        "hom.ab": "EINVAL",
    }


def test_of_a_contract_each_loader_gives_an_answer() -> None:
    one = seen("ok", contract="hom.a")
    several = record(*(result(f"t[{name}-hom.a]", loader=name, observations=(one,)) for name in ("raw", "bcc")))
    assert set(reading_of(several, "6.12", contract="hom.a").answers) == {"hom.a", "hom.a (bcc)"}


def test_a_contract_that_could_not_be_asked_is_silent() -> None:
    gone = seen(None, "not asked", contract="hom.a", note="there is no such map type")
    made = record(result("t[hom.a]", outcome="unsupported", reason=gone.note, observations=(gone,)))
    reading = reading_of(made, "6.12", contract="hom.a")
    assert reading.answers == {}
    assert reading.silent == {"hom.a": "there is no such map type"}
    crashed = record(result("t[hom.a]", outcome="crashed", contract="hom.a"))
    assert reading_of(crashed, "6.12", contract="hom.a").answers["hom.a"].text == "crashed"
