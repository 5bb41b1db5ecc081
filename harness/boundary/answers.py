"""The answers of one kernel in a run record, in the form in which releases are compared.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.boundary.search import Reading, ReleaseAnswer
from harness.results.ids import behaviour_of, contract_in
from harness.results.outcomes import Outcome
from harness.results.types import Observation, RecordedResult, RunRecord

_SILENT = (Outcome.UNSUPPORTED, Outcome.INFRASTRUCTURE)
"""Outcomes that say nothing about the kernel's behaviour."""


def reading_of(
    record: RunRecord, kernel: str, *, contract: str = "", about: Callable[[str], bool] = lambda _: True
) -> Reading:
    """Return a kernel's answers from a record.

    Args:
        record: The record.
        kernel: The kernel's label in it.
        contract: Id of the contract whose observations are the answers, whichever test took them; "" for all tests.
        about: Returns whether a test is meant, by its id.
    """
    answers: dict[str, ReleaseAnswer] = {}
    silent: dict[str, str] = {}
    for result in record.results:
        if result.kernel != kernel or not about(result.test):
            continue
        if contract and contract != (result.contract or contract_in(result.test)):
            continue
        name = behaviour_of(result.test)
        reason = _why_silent(result)
        if reason:
            silent[name] = reason
        else:
            answers[name] = answer_of(result)
    for left_out in record.left_out:
        if left_out.kernel == kernel and about(left_out.test):
            silent.setdefault(contract or behaviour_of(left_out.test), f"the test is for kernels {left_out.condition}")
    for missing in record.not_run:
        if missing.kernel == kernel and about(missing.test):
            silent.setdefault(contract or behaviour_of(missing.test), "the run ended before it")
    return Reading(answers, {name: why for name, why in silent.items() if name not in answers})


def _why_silent(result: RecordedResult) -> str:
    if result.outcome in _SILENT:
        return result.reason or result.outcome.value
    return ""


def answer_of(result: RecordedResult) -> ReleaseAnswer:
    """Return a test's answer, without details that differ from run to run.

    A failure that only says that the observation differs from the expected one is not a failure here: the observation
    is the answer.
    """
    differs = any(one.verdict == "differs" for one in result.observations)
    seen = tuple(_text_of(one) for one in result.observations)
    shown = ", ".join(_shown(one.observed) for one in result.observations)
    judged = result.outcome is Outcome.FAILED and not result.trouble and differs
    if seen and (result.outcome is Outcome.PASSED or judged):
        return ReleaseAnswer("answered", seen, shown, not differs, result.reason if differs else "")
    trouble = result.trouble if result.outcome is Outcome.FAILED else ()
    outcome = " ".join([result.outcome.value, *trouble])
    good = result.outcome in (Outcome.PASSED, Outcome.XFAILED)
    return ReleaseAnswer(outcome, seen, f"{outcome}, {shown}" if seen else outcome, good, "" if good else result.reason)


def _text_of(observation: Observation) -> str:
    return json.dumps([observation.contract or observation.sentence, observation.observed], sort_keys=True)


def _shown(observed: Any) -> str:
    return observed if isinstance(observed, str) else json.dumps(observed)
