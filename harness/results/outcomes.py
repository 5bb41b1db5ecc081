"""How a test ended: the outcomes, and which of them a report stands for.

Pure. Imports the names of properties beside it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from harness.results import properties


class Outcome(enum.Enum):
    """What became of one test, the worst first; the value is the word a reader sees."""

    INFRASTRUCTURE = "no verdict"
    CRASHED = "CRASHED"
    HUNG = "HUNG"
    FAULTED = "FAULTED"
    LEAKED = "LEAKED"
    FAILED = "FAILED"
    UNSUPPORTED = "skipped"
    XFAILED = "xfailed"
    PASSED = "passed"


RANKS = list(Outcome)
"""The worst first."""

_BY_TROUBLE = {
    properties.TROUBLE_INFRASTRUCTURE: Outcome.INFRASTRUCTURE,
    properties.TROUBLE_CRASHED: Outcome.CRASHED,
    properties.TROUBLE_HUNG: Outcome.HUNG,
    properties.TROUBLE_FAULT: Outcome.FAULTED,
    properties.TROUBLE_LEAK: Outcome.LEAKED,
}


def outcome_of(reported: str, *, expected: bool, troubles: Iterable[str]) -> Outcome:
    """Return what became of a test, by one of its reports.

    Args:
        reported: "failed", "skipped", or anything else for a pass.
        expected: Whether the test was expected to fail (xfail).
        troubles: The words that say what ended it, as in :mod:`harness.results.properties`.
    """
    if reported == "failed":
        found = (_BY_TROUBLE.get(word, Outcome.FAILED) for word in troubles)
        return min(found, key=RANKS.index, default=Outcome.FAILED)
    if reported == "skipped":
        return Outcome.XFAILED if expected else Outcome.UNSUPPORTED
    return Outcome.PASSED
