"""Finds where the answer flips in an ordered row of candidates, with as few runs as possible.

Pure: knows neither kernels nor tests. The candidates are positions 0 to count-1; an oracle returns the answer of one
position. Two neighbours with different answers are a flip.

The search first asks both ends of each group of candidates (the releases of one series are a group: later releases are
built on earlier ones). Between two asked candidates with different answers, it bisects until they are neighbours or no
candidate between them has an answer. Between two asked candidates with equal answers, it asks nothing more: it misses a
flip that is undone between them, and :attr:`Found.assumed` lists such pairs. With `exhaustive` it asks every candidate
and misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

Answer = TypeVar("Answer", bound=Hashable)


@dataclass(frozen=True)
class Flip(Generic[Answer]):
    """Two candidates with different answers, and no candidate with an answer between them.

    Attributes:
        last: Position of the last candidate with the old answer.
        first: Position of the first candidate with the new answer.
        before: The answer at `last`.
        after: The answer at `first`.
        without_answer: Positions between them; all were asked and had no answer.
    """

    last: int
    first: int
    before: Answer
    after: Answer
    without_answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bisected(Generic[Answer]):
    """The result of a search.

    Attributes:
        flips: In order of position.
        asked: Positions in the order in which they were asked.
        answers: Answers from the oracle or known before, by position; None for no answer.
        assumed: Pairs of positions with equal answers, between which candidates were not asked.
        outside: Positions before the first or after the last answer that were not asked.
    """

    flips: tuple[Flip[Answer], ...]
    asked: tuple[int, ...]
    answers: dict[int, Answer | None]
    assumed: tuple[tuple[int, int], ...]
    outside: tuple[int, ...]


def search(
    count: int,
    oracle: Callable[[int], Answer | None],
    *,
    groups: Sequence[Hashable] = (),
    known: Mapping[int, Answer | None] | None = None,
    exhaustive: bool = False,
    one_flip: bool = False,
) -> Bisected[Answer]:
    """Find where the answer flips.

    Args:
        count: Number of candidates, 0 or more.
        oracle: Returns a position's answer; called at most once for each.
        groups: The group of each candidate; a group's candidates are neighbours. None: all are one group.
        known: Answers (None for no answer) that are known before; the oracle is not called for these.
        exhaustive: Ask every candidate.
        one_flip: Assume one flip in the whole row, regardless of groups, and stop when it is found. The last candidate
            is asked only when the search leads there. When three answers show that there are more flips, these are
            found too. It takes at most 1 + ceil(log2(count)) questions when every candidate answers.

    Returns:
        The flips and all answers. Without `exhaustive` and `one_flip`, a group of n candidates that all answer takes 2
        questions, and at most ceil(log2(n - 1)) more for each flip found in it.

    Raises:
        ValueError: `groups` does not have one entry for each candidate.
    """
    if groups and len(groups) != count:
        raise ValueError(f"{count} candidates, but {len(groups)} groups")
    row = _Positions(count, oracle, known or {})
    if exhaustive:
        for position in range(count):
            row.ask(position)
    elif one_flip:
        row.find_one()
    else:
        for first, end in _spans(groups or [0] * count):
            row.ask_ends(first, end)
    row.refine()
    return row.found()


def _spans(groups: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each stretch of equal groups."""
    first = 0
    for position in range(1, len(groups) + 1):
        if position == len(groups) or groups[position] != groups[first]:
            yield first, position
            first = position


class _Positions(Generic[Answer]):
    def __init__(self, count: int, oracle: Callable[[int], Answer | None], known: Mapping[int, Answer | None]) -> None:
        self._count = count
        self._oracle = oracle
        self._answers = dict(known)
        self._asked: list[int] = []

    def ask(self, position: int) -> Answer | None:
        if position not in self._answers:
            self._asked.append(position)
            self._answers[position] = self._oracle(position)
        return self._answers[position]

    def ask_ends(self, first: int, end: int) -> None:
        """Ask the first and the last of a group, or the nearest candidates that answer.

        From an end without an answer, the steps inwards double: a stretch without answers costs the logarithm of its
        length.
        """
        for start, sign in ((first, 1), (end - 1, -1)):
            step = 0
            while step < end - first and self.ask(start + sign * step) is None:
                step = 2 * step + 1

    def answered(self) -> list[int]:
        return sorted(position for position, answer in self._answers.items() if answer is not None)

    def refine(self) -> None:
        """Bisect between all neighbouring answers that differ."""
        answered = self.answered()
        open_pairs = list(pairwise(answered))
        while open_pairs:
            low, high = open_pairs.pop(0)
            if self._answers[low] == self._answers[high]:
                continue
            middle = self._ask_between(low, high)
            if middle is not None:
                open_pairs[:0] = [(low, middle), (middle, high)]

    def _ask_between(self, low: int, high: int) -> int | None:
        """Ask the candidates between two positions, middle first, until one answers; return its position."""
        for position in sorted(range(low + 1, high), key=lambda one: abs(2 * one - low - high)):
            if self.ask(position) is not None:
                return position
        return None

    def find_one(self) -> None:
        known = self.answered()
        if len({self._answers[position] for position in known}) > 1:
            return
        low = next((position for position in range(self._count) if self.ask(position) is not None), None)
        if low is None:
            return
        high = self._count
        if known and self._answers[known[0]] == self._answers[low]:
            low = known[-1]
        elif known:
            high = known[0]
        while (middle := self._ask_between(low, high)) is not None:
            if self._answers[middle] == self._answers[low]:
                low = middle
            else:
                high = middle

    def found(self) -> Bisected[Answer]:
        answered = self.answered()
        flips = []
        assumed = []
        for last, first in pairwise(answered):
            before, after = self._answers[last], self._answers[first]
            assert before is not None, "it was answered"
            assert after is not None, "it was answered"
            between = range(last + 1, first)
            if before != after:
                flips.append(Flip(last, first, before, after, tuple(between)))
            elif any(position not in self._answers for position in between):
                assumed.append((last, first))
        inside = range(answered[0], answered[-1]) if answered else range(0)
        return Bisected(
            tuple(flips),
            tuple(self._asked),
            dict(sorted(self._answers.items())),
            tuple(assumed),
            tuple(one for one in range(self._count) if one not in self._answers and one not in inside),
        )
