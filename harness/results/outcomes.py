"""How a test ended: the outcomes, and the trouble that ends a test which no assertion ended.

README.md has the table of outcomes: how the terminal, JUnit, the record and the exit status show each. Pure.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable

from harness.errors import (
    CapabilityMissing,
    GuestEnded,
    GuestHung,
    HarnessError,
    InfrastructureError,
    KernelCrashed,
    ProtocolBroken,
)


class Ending(enum.Enum):
    """A word for how a test ended, as records have it, and how a reader sees it."""

    shown: str
    """The word that a reader sees."""
    sign: str
    """A sign that says it without colour."""

    # With defaults, for type checkers take this for the signature of Outcome("passed") too.
    def __new__(cls, word: str, shown: str = "", sign: str = "") -> Ending:  # noqa: PYI034 - typing.Self came with 3.11
        """Make a member whose value is the word in records."""
        member = object.__new__(cls)
        member._value_ = word
        member.shown = shown
        member.sign = sign
        return member

    @property
    def is_bad(self) -> bool:
        """Whether it is a failure of the kernel or the test."""
        return self in _BAD

    @property
    def is_verdict(self) -> bool:
        """Whether the kernel gave an answer."""
        return self in _BAD or self in (Outcome.PASSED, Outcome.XFAILED)


class Outcome(Ending):
    """How one test ended on one kernel, the worst first."""

    INFRASTRUCTURE = "infrastructure", "no verdict", "?"
    PROTOCOL = "protocol", "BROKE PROTOCOL", "⇎"
    CRASHED = "crashed", "CRASHED", "☠"
    HUNG = "hung", "HUNG", "⧗"
    FAULTED = "faulted", "FAULTED", "⚠"
    LEAKED = "leaked", "LEAKED", "⚑"
    FAILED = "failed", "FAILED", "✗"
    UNSUPPORTED = "unsupported", "skipped", "-"
    XFAILED = "xfailed", "xfailed", "≈"
    PASSED = "passed", "passed", "✓"


_BAD = frozenset({Outcome.PROTOCOL, Outcome.CRASHED, Outcome.HUNG, Outcome.FAULTED, Outcome.LEAKED, Outcome.FAILED})


class Trouble(enum.Enum):
    """What ended a test when no assertion did; the value is its word in records. The first of several says most."""

    outcome: Outcome
    """The outcome of a test that it ended."""

    INFRASTRUCTURE = "infrastructure", Outcome.INFRASTRUCTURE
    PROTOCOL = "protocol", Outcome.PROTOCOL
    CRASHED = "crashed", Outcome.CRASHED
    HUNG = "hung", Outcome.HUNG
    LEAK = "leak", Outcome.LEAKED
    FAULT = "fault", Outcome.FAULTED
    ENDED = "ended", Outcome.FAILED
    MISSING = "missing", Outcome.FAILED

    def __new__(cls, word: str, outcome: Outcome) -> Trouble:  # noqa: PYI034 - typing.Self came with 3.11
        """Make a member whose value is the word in records."""
        member = object.__new__(cls)
        member._value_ = word
        member.outcome = outcome
        return member


_TROUBLES: dict[type[HarnessError], Trouble] = {
    InfrastructureError: Trouble.INFRASTRUCTURE,
    ProtocolBroken: Trouble.PROTOCOL,
    KernelCrashed: Trouble.CRASHED,
    GuestHung: Trouble.HUNG,
    GuestEnded: Trouble.ENDED,
    CapabilityMissing: Trouble.MISSING,
}


def trouble_of(error: BaseException) -> Trouble | None:
    """Return the trouble that an error is; None for one of the test's own."""
    return next((trouble for kind, trouble in _TROUBLES.items() if isinstance(error, kind)), None)


def counted(outcomes: Iterable[Outcome]) -> str:
    """Return how many there are of each, the worst first: "1 FAILED, 2 passed"."""
    found = Counter(outcomes)
    return ", ".join(f"{found[one]} {one.shown}" for one in Outcome if found[one])


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of some outcomes, of which there is at least one."""
    return min(outcomes, key=list(Outcome).index)


def outcome_of(reported: str, *, expected: bool, troubles: Iterable[Trouble]) -> Outcome:
    """Return the outcome of a test, by one of its reports.

    Args:
        reported: "failed", "lost" for an attempt whose machine was lost, "skipped", or anything else for a pass.
        expected: Whether the test was expected to fail (xfail).
        troubles: What ended it.
    """
    if reported in ("failed", "lost"):
        return worst([trouble.outcome for trouble in troubles] or [Outcome.FAILED])
    if reported == "skipped":
        return Outcome.XFAILED if expected else Outcome.UNSUPPORTED
    return Outcome.PASSED
