"""The search for the releases at which tests change their answers, on kernels made up."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.boundary.search import Boundaries, Reading, ReleaseAnswer, find


class Releases:
    """Rows of answers, one for each test; "?" is a test that gives none."""

    def __init__(self, **rows: str) -> None:
        self.rows = rows
        self.run: list[int] = []

    def __call__(self, position: int) -> Reading:
        assert position not in self.run, "run twice"
        self.run.append(position)
        return self.reading(position)

    def reading(self, position: int) -> Reading:
        row = {name: answers[position] for name, answers in self.rows.items()}
        return Reading(
            {name: ReleaseAnswer("answered", (answer,)) for name, answer in row.items() if answer != "?"},
            {name: "unsupported" for name, answer in row.items() if answer == "?"},
        )


def flips(found: Boundaries, test: str) -> list[tuple[int, int]]:
    return [(flip.last, flip.first) for flip in found.found[test].flips]


def test_tests_share_the_kernels_that_are_run() -> None:
    releases = Releases(one="AAAAAAAABBBBBBBB", two="AAAAAAAABBBBBBBB", three="AAAAAAAAAAAABBBB")
    found = find(16, releases)
    assert flips(found, "one") == flips(found, "two") == [(7, 8)]
    assert flips(found, "three") == [(11, 12)]
    assert len(releases.run) <= 2 + 4 + 3


def test_what_one_test_had_run_shows_a_flip_there_and_back_of_another() -> None:
    found = find(16, Releases(one="A" * 7 + "B" * 9, two="A" * 7 + "BB" + "A" * 7))
    assert flips(found, "two") == [(6, 7), (8, 9)]


def test_a_test_that_only_later_kernels_can_run_is_searched_too() -> None:
    found = find(8, Releases(old="AAAAAAAA", new="????AABB"))
    assert flips(found, "old") == []
    assert flips(found, "new") == [] or flips(found, "new") == [(5, 6)]
    found = find(8, Releases(new="????AABB"), exhaustive=True)
    assert flips(found, "new") == [(5, 6)]


def test_one_flip_is_found_with_the_first_half_of_the_ends() -> None:
    releases = Releases(one="A" * 13 + "B" * 17)
    assert flips(find(30, releases, one_flip=True), "one") == [(12, 13)]
    assert len(releases.run) <= 6


def test_what_a_record_knows_is_not_run() -> None:
    releases = Releases(one="A" * 13 + "B" * 17)
    known = {position: releases.reading(position) for position in (0, 20, 29)}
    found = find(30, releases, known=known)
    assert flips(found, "one") == [(12, 13)]
    assert not {0, 20, 29} & set(releases.run)
    assert len(releases.run) <= 5


def test_nothing_answers() -> None:
    found = find(3, Releases(one="???"))
    assert found.found == {}
    assert found.readings[0].why("one") == "unsupported"
    assert found.readings[0].why("two") == "it was not run"
    assert Reading(silent={"": "the kernel is not served"}).why("one") == "the kernel is not served"


@given(st.lists(st.text("AB?", min_size=12, max_size=12), min_size=1, max_size=4))
def test_every_run_gives_answers_to_all_tests(rows: list[str]) -> None:
    releases = Releases(**{f"test{number}": row for number, row in enumerate(rows)})
    found = find(12, releases)
    for test, one in found.found.items():
        assert set(one.answers) == set(releases.run)
        seen = [(position, answer) for position, answer in one.answers.items() if answer is not None]
        changes = [(a, b) for (a, x), (b, y) in pairwise(seen) if x != y]
        assert flips(found, test) == changes
