"""Finds the releases between which the answers of tests flip: a kernel's answers, and the search over releases.

Pure except for the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from harness.boundary.bisect import Bisected, search


@dataclass(frozen=True)
class ReleaseAnswer:
    """A test's answer on one kernel; two answers are equal when the kernels behaved alike.

    Attributes:
        outcome: "answered" when the test finished, or failed only because its observation differs from the expected
            one; else its outcome: "failed", "crashed", "hung", "xfailed".
        observed: The observation, in a form that can be compared.
        text: The same as text for the user.
        good: Whether the test passed or failed as expected.
        reason: One line about a failure, or "".
    """

    outcome: str
    observed: tuple[str, ...] = ()
    text: str = field(default="", compare=False)
    good: bool = field(default=True, compare=False)
    reason: str = field(default="", compare=False)


@dataclass(frozen=True)
class Reading:
    """The answers of tests on one kernel.

    Attributes:
        answers: By test.
        silent: The reason of each test without an answer, by test; "" means all tests when none was run.
    """

    answers: dict[str, ReleaseAnswer] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of it in one line, for people."""
        texts = list(dict.fromkeys(answer.text for answer in self.answers.values()))
        if len(self.answers) == 1:
            return texts[0]
        if texts:
            return f"{len(self.answers)} tests: " + ", ".join(texts)
        return "no answer: " + ("; ".join(dict.fromkeys(self.silent.values())) or "no test was run")

    def why(self, test: str) -> str:
        """Return why a test has no answer."""
        return self.silent.get(test) or self.silent.get("") or "it was not run"


@dataclass(frozen=True)
class Boundaries:
    """The result of a search over releases.

    Attributes:
        readings: The reading of each asked release, by position, in the order of asking.
        found: The search's result by test.
    """

    readings: dict[int, Reading]
    found: dict[str, Bisected[ReleaseAnswer]]


def find(
    count: int,
    oracle: Callable[[int], Reading],
    *,
    groups: Sequence[Hashable] = (),
    known: Mapping[int, Reading] | None = None,
    exhaustive: bool = False,
    one_flip: bool = False,
) -> Boundaries:
    """Find the flips of each test's answer.

    Each release is run once, with all tests; its answers serve the search of every test.

    Args:
        count: Number of releases, in order.
        oracle: Runs the tests on the release at a position; called once at most for each.
        groups: As for :func:`harness.boundary.bisect.search`.
        known: Readings of releases that are known before, by position.
        exhaustive: As for :func:`harness.boundary.bisect.search`.
        one_flip: As for :func:`harness.boundary.bisect.search`.
    """
    readings = dict(known or {})
    found: dict[str, Bisected[ReleaseAnswer]] = {}

    def ask(position: int) -> Reading:
        if position not in readings:
            readings[position] = oracle(position)
        return readings[position]

    def search_for(answer: Callable[[Reading], ReleaseAnswer | None]) -> Bisected[ReleaseAnswer]:
        return search(
            count,
            lambda position: answer(ask(position)),
            groups=groups,
            known={position: answer(reading) for position, reading in readings.items()},
            exhaustive=exhaustive,
            one_flip=one_flip,
        )

    # The tests are known only after a kernel has run them.
    if one_flip:
        next((position for position in range(count) if ask(position).answers), None)
    else:
        search_for(lambda reading: ReleaseAnswer("any") if reading.answers else None)
    before = -1
    while before != len(readings):
        before = len(readings)
        for test in dict.fromkeys(test for _, reading in sorted(readings.items()) for test in reading.answers):
            found[test] = search_for(partial(_answer_of, test))
    return Boundaries(readings, found)


def _answer_of(test: str, reading: Reading) -> ReleaseAnswer | None:
    return reading.answers.get(test)
