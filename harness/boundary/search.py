"""Where the answers of tests flip among releases: what a kernel answered, and the search over many.

Pure but for the oracle it is given. Imports :mod:`harness.boundary.bisect`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from harness.boundary.bisect import Found, search


@dataclass(frozen=True)
class Answer:
    """What one test came to on one kernel; two are equal when the kernels behaved alike.

    Attributes:
        outcome: "answered" when the test came to its end or failed only because what it observed is not what was known
            of that kernel; else what became of it: "failed", "crashed", "hung", "xfailed".
        observed: What it observed, in a form that can be compared.
        text: The same for people.
        good: Whether the test passed, or failed as expected.
        reason: One line on a failure, or "".
    """

    outcome: str
    observed: tuple[str, ...] = ()
    text: str = field(default="", compare=False)
    good: bool = field(default=True, compare=False)
    reason: str = field(default="", compare=False)


@dataclass(frozen=True)
class Reading:
    """What tests came to on one kernel.

    Attributes:
        answers: By test.
        silent: Why the others gave no answer, by test; "" stands for all when no test was run.
        booted: Whether the kernel was booted for it; a machine that an earlier run had saved needs no boot.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    booted: bool = False

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
        """Say why a test has no answer."""
        return self.silent.get(test) or self.silent.get("") or "it was not run"


@dataclass(frozen=True)
class Boundaries:
    """What a search over releases came to.

    Attributes:
        readings: Of each release that was asked, by position, in the order of asking.
        found: By test.
    """

    readings: dict[int, Reading]
    found: dict[str, Found[Answer]]

    @property
    def booted(self) -> int:
        """How many kernels were booted."""
        return sum(reading.booted for reading in self.readings.values())


def find(
    count: int,
    oracle: Callable[[int], Reading],
    *,
    groups: Sequence[Hashable] = (),
    known: Mapping[int, Reading] | None = None,
    exhaustive: bool = False,
    one_flip: bool = False,
) -> Boundaries:
    """Find where the answer of each test flips.

    A release is run once, with all the tests, and what it answered is known of each of them.

    Args:
        count: Number of releases, in order.
        oracle: Runs the tests on the release at a position; called once at most for each.
        groups: As for :func:`harness.boundary.bisect.search`.
        known: What is known of releases beforehand, by position.
        exhaustive: As for :func:`harness.boundary.bisect.search`.
        one_flip: As there.
    """
    readings = dict(known or {})
    found: dict[str, Found[Answer]] = {}

    def ask(position: int) -> Reading:
        if position not in readings:
            readings[position] = oracle(position)
        return readings[position]

    def search_for(answer: Callable[[Reading], Answer | None]) -> Found[Answer]:
        return search(
            count,
            lambda position: answer(ask(position)),
            groups=groups,
            known={position: answer(reading) for position, reading in readings.items()},
            exhaustive=exhaustive,
            one_flip=one_flip,
        )

    # Which tests there are is known only when a kernel has run them.
    if one_flip:
        next((position for position in range(count) if ask(position).answers), None)
    else:
        search_for(lambda reading: Answer("any") if reading.answers else None)
    before = -1
    while before != len(readings):
        before = len(readings)
        for test in dict.fromkeys(test for _, reading in sorted(readings.items()) for test in reading.answers):
            found[test] = search_for(partial(_answer_of, test))
    return Boundaries(readings, found)


def _answer_of(test: str, reading: Reading) -> Answer | None:
    return reading.answers.get(test)
