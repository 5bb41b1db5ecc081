"""Bisection over candidates of which some have no answer, against a search that asks all of them."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.boundary.bisect import Bisected, Flip, search


class Row:
    """An oracle that knows all answers and counts the questions."""

    def __init__(self, answers: str) -> None:
        self.answers = answers
        self.asked: list[int] = []

    def __call__(self, position: int) -> str | None:
        assert position not in self.asked, "asked twice"
        self.asked.append(position)
        return None if self.answers[position] == "?" else self.answers[position]


def all_flips(answers: str) -> list[tuple[int, int]]:
    known = [position for position, answer in enumerate(answers) if answer != "?"]
    return [(last, first) for last, first in pairwise(known) if answers[last] != answers[first]]


def pairs(found: Bisected[str]) -> list[tuple[int, int]]:
    return [(flip.last, flip.first) for flip in found.flips]


rows = st.text("ABC?", max_size=40)


@given(rows)
def test_every_flip_is_found_when_all_are_asked(answers: str) -> None:
    found = search(len(answers), Row(answers), exhaustive=True)
    assert pairs(found) == all_flips(answers)
    assert sorted(found.asked) == list(range(len(answers)))
    assert found.assumed == ()
    assert found.outside == ()


@given(rows, st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_what_is_found_is_true_and_what_is_missed_is_named(answers: str, widths: list[int]) -> None:
    groups = [number for number, width in enumerate(widths) for _ in range(width)][: len(answers)]
    groups += [-1] * (len(answers) - len(groups))
    row = Row(answers)
    found = search(len(answers), row, groups=groups)
    assert list(found.asked) == row.asked
    assert {one: found.answers[one] for one in found.asked} == {
        one: None if answers[one] == "?" else answers[one] for one in row.asked
    }
    true = all_flips(answers)
    for flip in found.flips:
        assert (flip.last, flip.first) in true
        assert (flip.before, flip.after) == (answers[flip.last], answers[flip.first])
        assert flip.without_answer == tuple(range(flip.last + 1, flip.first))
        assert set(flip.without_answer) <= set(found.asked)
    # A flip that was missed lies in what the result says was not looked at.
    unseen = [range(low, high + 1) for low, high in found.assumed]
    for last, first in set(true) - set(pairs(found)):
        inside = any(last in one and first in one for one in unseen)
        outside = last in found.outside or first in found.outside
        assert inside or outside


@given(st.integers(2, 200), st.data())
def test_one_flip_in_one_group_costs_the_ends_and_a_logarithm(count: int, data: st.DataObject) -> None:
    change = data.draw(st.integers(1, count - 1))
    row = Row("A" * change + "B" * (count - change))
    found = search(count, row)
    assert pairs(found) == [(change - 1, change)]
    assert len(row.asked) <= 2 + (ceil(log2(count - 1)) if count > 2 else 0)


@given(st.integers(1, 200), st.data())
def test_when_one_flip_is_taken_for_granted_the_last_need_not_be_asked(count: int, data: st.DataObject) -> None:
    change = data.draw(st.integers(1, count))
    row = Row("A" * change + "B" * (count - change))
    found = search(count, row, one_flip=True)
    assert pairs(found) == ([] if change == count else [(change - 1, change)])
    assert len(row.asked) <= 1 + ceil(log2(count))


def test_thirty_releases_take_six_questions() -> None:
    for change in range(1, 30):
        row = Row("A" * change + "B" * (30 - change))
        assert pairs(search(30, row, one_flip=True)) == [(change - 1, change)]
        assert len(row.asked) <= 6


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=8))
def test_one_flip_in_each_series_is_found_however_many_there_are(series: list[tuple[int, int]]) -> None:
    # As with a fix that went into each stable series at a release of its own.
    answers = "".join("A" * min(change, size) + "B" * max(size - change, 0) for size, change in series)
    groups = [number for number, (size, _) in enumerate(series) for _ in range(size)]
    row = Row(answers)
    found = search(len(answers), row, groups=groups)
    assert pairs(found) == all_flips(answers)
    assert len(row.asked) <= sum(2 + ceil(log2(max(size - 1, 1))) for size, _ in series)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_those_without_an_answer_are_stepped_over(before: int, after: int, data: st.DataObject) -> None:
    answers = "A" * before + "B" * after
    lost = data.draw(st.sets(st.integers(0, len(answers) - 1)))
    holed = "".join("?" if number in lost else answer for number, answer in enumerate(answers))
    known = [position for position, answer in enumerate(holed) if answer != "?"]
    row = Row(holed)
    found = search(len(holed), row)
    ends_answer = bool(known) and holed[0] != "?" and holed[-1] != "?"
    if ends_answer:
        assert pairs(found) == all_flips(holed)
    assert all(found.answers[flip.last] == "A" for flip in found.flips)


@given(rows, st.data())
def test_what_is_known_is_not_asked_for(answers: str, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from(range(len(answers))))) if answers else set()
    known = {one: None if answers[one] == "?" else answers[one] for one in chosen}
    for one_flip, exhaustive in ((False, False), (True, False), (False, True)):
        row = Row(answers)
        found = search(len(answers), row, known=known, one_flip=one_flip, exhaustive=exhaustive)
        assert not chosen & set(row.asked)
        assert list(found.asked) == row.asked
        assert set(pairs(found)) <= set(all_flips(answers))
        assert known.items() <= found.answers.items()
        values = [answers[one] for one in sorted(chosen) if answers[one] != "?"]
        # Whatever is known to differ has a flip between.
        assert len(found.flips) >= sum(a != b for a, b in pairwise(values))


def test_thirty_releases_of_which_the_ends_are_known_take_five_questions() -> None:
    for change in range(1, 30):
        row = Row("A" * change + "B" * (30 - change))
        assert pairs(search(30, row, known={0: "A", 29: "B"})) == [(change - 1, change)]
        assert len(row.asked) <= 5


def test_a_flip_between_which_nothing_answers_says_so() -> None:
    assert search(5, Row("A???B")).flips == (Flip(0, 4, "A", "B", (1, 2, 3)),)


def test_a_flip_there_and_back_is_missed_and_the_gap_is_named() -> None:
    found = search(9, Row("AAABBAAAA"))
    assert found.flips == ()
    assert found.assumed == ((0, 8),)
    assert pairs(search(9, Row("AAABBAAAA"), exhaustive=True)) == [(2, 3), (4, 5)]


def test_three_answers_are_two_flips() -> None:
    assert pairs(search(9, Row("AAABBBCCC"))) == [(2, 3), (5, 6)]


def test_a_group_that_never_answers_costs_the_logarithm_of_its_length() -> None:
    row = Row("A" * 3 + "?" * 31 + "B" * 3)
    found = search(37, row, groups=[0] * 3 + [1] * 31 + [2] * 3)
    # The flip is somewhere in the group, and to say where it all of it has to be asked.
    assert pairs(found) == [(2, 34)]
    row = Row("A" * 3 + "?" * 31 + "A" * 3)
    found = search(37, row, groups=[0] * 3 + [1] * 31 + [2] * 3)
    assert found.flips == ()
    assert len(row.asked) <= 4 + 2 * 6
    assert found.assumed == ((0, 2), (2, 34), (34, 36))


def test_nothing_is_found_in_nothing() -> None:
    assert search(0, Row("")) == Bisected((), (), {}, (), ())
    assert search(3, Row("???"), one_flip=True).flips == ()
    assert search(1, Row("A")).answers == {0: "A"}


def test_groups_are_one_for_each_candidate() -> None:
    with pytest.raises(ValueError, match="3 candidates, but 2 groups"):
        search(3, Row("AAA"), groups=[1, 2])
