"""What the tests of a run record answered on one kernel, in the form in which releases are compared.

Pure. Imports the records beside it and :mod:`harness.boundary.search`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from harness.boundary.search import Answer, Reading
from harness.results.outcomes import Outcome
from harness.results.types import Observation, Result, RunRecord

_SILENT = (Outcome.UNSUPPORTED, Outcome.INFRASTRUCTURE)
"""Outcomes that say nothing of what the kernel does."""


def reading_of(
    record: RunRecord, kernel: str, *, contract: str = "", about: Callable[[str], bool] = lambda _: True
) -> Reading:
    """Return what a record says of a kernel.

    Args:
        record: The record.
        kernel: The kernel's label in it.
        contract: Id of the contract whose observations are the answers, whichever test took them; "" for all tests. A
            test of several contracts gives an answer for each.
        about: Says of a test's id whether it is meant.
    """
    answers: dict[str, Answer] = {}
    silent: dict[str, str] = {}
    booted = False
    for result in record.results:
        if result.kernel != kernel or not about(result.test):
            continue
        for wanted in [contract] if contract else _contracts(result):
            if wanted and not _of(result, wanted) and result.contract != wanted and result.outcome not in _SILENT:
                continue
            name = _name(wanted, result) if wanted else result.test
            booted = booted or _booted(result)
            reason = _why_silent(result, wanted)
            if reason:
                silent[name] = reason
            else:
                answers[name] = answer_of(result, wanted)
    for left_out in record.left_out:
        if left_out.kernel == kernel and about(left_out.test):
            silent.setdefault(contract or left_out.test, f"the test is for kernels {left_out.condition}")
    for missing in record.not_run:
        if missing.kernel == kernel and about(missing.test):
            silent.setdefault(contract or missing.test, "the run ended before it")
    return Reading(answers, {name: why for name, why in silent.items() if name not in answers}, booted)


def _contracts(result: Result) -> list[str]:
    """Return the contracts that a test observes, where it does several: each has answers of its own."""
    several = list(dict.fromkeys(one.contract for one in result.observations if one.contract))
    return several if len(several) > 1 else [""]


def _name(contract: str, result: Result) -> str:
    return contract if result.loader in ("", "raw") else f"{contract} ({result.loader})"


def _of(result: Result, contract: str) -> list[Observation]:
    return [one for one in result.observations if contract in ("", one.contract)]


def _asked(result: Result, contract: str) -> list[Observation]:
    return [one for one in _of(result, contract) if one.was_asked]


def _why_silent(result: Result, contract: str) -> str:
    if result.outcome in _SILENT:
        return result.reason or result.outcome.value
    return "" if _asked(result, contract) else "; ".join(one.note for one in _of(result, contract))


def answer_of(result: Result, contract: str = "") -> Answer:
    """Return what a test came to, less what differs between any two runs.

    A failure that says no more than that an observation is not the one that was known of this kernel is none here: what
    was observed is the answer.

    Args:
        result: The test on one kernel.
        contract: The contract that matters, of those that the test observes; "" for all.
    """
    asked = _asked(result, contract)
    # A test of several contracts may have failed for another one.
    judged = result.outcome is Outcome.FAILED and not result.trouble and _differs(result.observations)
    told = tuple(_told(one) for one in asked)
    shown = ", ".join(_shown(one.observed) for one in asked)
    if asked and (result.outcome is Outcome.PASSED or judged):
        differs = _differs(asked)
        return Answer("answered", told, shown, not differs, result.reason if differs else "")
    trouble = result.trouble if result.outcome is Outcome.FAILED else ()
    outcome = " ".join([result.outcome.value, *trouble])
    good = result.outcome in (Outcome.PASSED, Outcome.XFAILED)
    return Answer(outcome, told, f"{outcome}, {shown}" if told else outcome, good, "" if good else result.reason)


def _differs(observations: Iterable[Observation]) -> bool:
    return any(one.verdict == "differs" for one in observations)


def _told(observation: Observation) -> str:
    return json.dumps([observation.contract or observation.sentence, observation.observed], sort_keys=True)


def _shown(observed: Any) -> str:
    return observed if isinstance(observed, str) else json.dumps(observed)


def _booted(result: Result) -> bool:
    """Whether the test's machine was booted for it: one that was saved before takes less time than its boot took."""
    return result.boot is None or result.setup >= result.boot
