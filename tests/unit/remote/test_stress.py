"""Work in pieces, and how fast it went."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.remote.guest import Guest
from harness.remote.stress import PIECE, Stress, per_second, pieces


class FakeGuest:
    """Calls functions here."""

    def call(self, function: Any, *arguments: Any, timeout: float, **keywords: Any) -> Any:
        return function(*arguments, **keywords)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [(1, [1]), (PIECE, [PIECE]), (PIECE + 1, [PIECE, 1]), (100_000, [PIECE] * (100_000 // PIECE))],
)
def test_pieces_are_all_rounds(rounds: int, expected: list[int]) -> None:
    assert list(pieces(rounds)) == expected


def test_rounds_a_second() -> None:
    assert per_second(1000, 0.5) == 2000
    assert per_second(1, 0.0) == 0


def test_all_rounds_are_done_and_counted() -> None:
    asked: list[tuple[str, int]] = []

    def work(what: str, rounds: int) -> float:
        asked.append((what, rounds))
        return rounds / 1000

    stress = Stress(PIECE * 2 + 5, "test_x", lambda _: None)
    stress.run(cast("Guest", FakeGuest()), work, "a")
    stress.run(cast("Guest", FakeGuest()), work, "b", rounds=3)
    assert asked == [("a", PIECE), ("a", PIECE), ("a", 5), ("b", 3)]
    assert [one["rounds"] for one in stress.throughputs] == [PIECE * 2 + 5, 3]
    assert [one["per_second"] for one in stress.throughputs] == [1000, 1000]


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.remote.stress.SAY_EVERY", -1.0)
    lines: list[str] = []
    Stress(PIECE * 2, "test_x", lines.append).run(cast("Guest", FakeGuest()), lambda rounds: rounds / 500)
    assert lines == [
        f"test_x: {PIECE} of {PIECE * 2} rounds, 500/s",
        f"test_x: {PIECE * 2} of {PIECE * 2} rounds, 500/s",
    ]
