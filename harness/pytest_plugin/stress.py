"""Work that is repeated many times in a guest: in pieces, so that progress shows, with its throughput measured.

Imports the remote API below it; knows nothing of pytest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from harness.remote.guest import Guest
from harness.results.properties import Throughput

PIECE = 10_000
"""Rounds that are done in one call."""

SAY_EVERY = 5.0
"""Seconds between two lines on how far it is."""

_TIMEOUT = 600.0


class Stress:
    """Repeats functions in the guest.

    Args:
        rounds: How many rounds the user wants.
        name: What lines on progress call the test.
        say: Prints such a line.

    Attributes:
        rounds: How many rounds a test makes that has no reason to make fewer.
        throughputs: What was measured so far.
    """

    def __init__(self, rounds: int, name: str, say: Callable[[str], None]) -> None:
        self.rounds = rounds
        self.throughputs: list[Throughput] = []
        self._name = name
        self._say = say

    def run(
        self, guest: Guest, function: Callable[..., float], *arguments: Any, rounds: int | None = None, **keywords: Any
    ) -> None:
        """Call a function until it has done all rounds.

        Args:
            guest: Where.
            function: Takes the arguments, and the rounds that it is to do; returns the seconds that they took.
            *arguments: Plain values.
            rounds: How many in all; as many as the user wants when it is not said.
            **keywords: Plain values.
        """
        wanted = self.rounds if rounds is None else rounds
        done, seconds = 0, 0.0
        said = time.monotonic()
        for piece in pieces(wanted):
            seconds += guest.call(function, *arguments, rounds=piece, timeout=_TIMEOUT, **keywords)
            done += piece
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                self._say(f"{self._name}: {done} of {wanted} rounds, {per_second(done, seconds)}/s")
        self.throughputs.append({"rounds": done, "seconds": round(seconds, 3), "per_second": per_second(done, seconds)})


def pieces(rounds: int) -> Iterable[int]:
    """Return how many rounds each call does."""
    return [min(PIECE, rounds - done) for done in range(0, rounds, PIECE)]


def per_second(rounds: int, seconds: float) -> int:
    """Return how many rounds a second were done."""
    return round(rounds / seconds) if seconds > 0 else 0
