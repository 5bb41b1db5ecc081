"""What the tests of a run record answered on one kernel, in the form in which releases are compared.

Pure. Imports the records beside it and :mod:`harness.run.boundary`.
"""

from __future__ import annotations

import json
from typing import Any

from harness.record.types import Observation, Record, Result
from harness.run.boundary import Answer, Reading

_SILENT = ("unsupported", "infrastructure")
"""Outcomes that say nothing of what the kernel does."""


def reading_of(record: Record, kernel: str, *, contract: str = "") -> Reading:
    """Return what a record says of a kernel.

    Args:
        record: The record.
        kernel: The kernel's label in it.
        contract: Only tests of the contract with this id; "" for all tests.
    """
    answers: dict[str, Answer] = {}
    silent: dict[str, str] = {}
    booted = False
    for result in record.results:
        if result.kernel != kernel or contract not in ("", result.contract):
            continue
        booted = booted or _booted(result)
        if result.outcome in _SILENT:
            silent[result.test] = result.reason or result.outcome
        else:
            answers[result.test] = answer_of(result)
    for left_out in record.left_out:
        if left_out.kernel == kernel:
            silent.setdefault(left_out.test, f"the test is for kernels {left_out.condition}")
    for missing in record.not_run:
        if missing.kernel == kernel:
            silent.setdefault(missing.test, "the run ended before it")
    return Reading(answers, silent, booted)


def answer_of(result: Result) -> Answer:
    """Return what a test came to, less what differs between any two runs.

    A failure that says no more than that an observation is not the one that was known of this kernel is none here: what
    was observed is the answer.
    """
    differs = any(one.verdict == "differs" for one in result.observations)
    answered = result.outcome == "passed" or (result.outcome == "failed" and differs and not result.trouble)
    told = tuple(_told(one) for one in result.observations)
    if answered and told:
        outcome, text = "answered", ", ".join(_shown(one.observed) for one in result.observations)
    else:
        outcome = " ".join([result.outcome, *result.trouble]) if result.outcome == "failed" else result.outcome
        text = outcome if not told else f"{outcome}, {', '.join(_shown(one.observed) for one in result.observations)}"
    good = result.outcome in ("passed", "xfailed")
    return Answer(outcome, told, text, good, "" if good else result.reason)


def _told(observation: Observation) -> str:
    return json.dumps([observation.contract or observation.sentence, observation.observed], sort_keys=True)


def _shown(observed: Any) -> str:
    return observed if isinstance(observed, str) else json.dumps(observed)


def _booted(result: Result) -> bool:
    """Whether the test's machine was booted for it: one that was saved before takes less time than its boot took."""
    return result.boot is None or result.setup >= result.boot
