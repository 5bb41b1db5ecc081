"""Repeats work many times in a guest: in pieces, to show progress, and with measured throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

from harness.remote.guest import Guest

PIECE = 10_000
"""Rounds in one call."""

SAY_EVERY = 5.0
"""Seconds between two lines of progress."""

_TIMEOUT = 600.0


class Throughput(TypedDict):
    """The speed of repeated work in the guest.

    Attributes:
        rounds: Number of repetitions.
        seconds: Duration, measured in the guest.
        per_second: Repetitions per second.
    """

    rounds: int
    seconds: float
    per_second: int


class Stress:
    """Repeats functions in the guest.

    Args:
        rounds: The user's number of rounds.
        name: The test's name in lines of progress.
        say: Prints a line of progress.

    Attributes:
        rounds: The number of rounds for a test without a lower limit.
        throughputs: The measurements so far.
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
            guest: The guest.
            function: Gets the arguments and the number of rounds; returns the seconds that they took.
            *arguments: Plain values.
            rounds: Total number of rounds; default: the user's number.
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
    """Return the number of rounds of each call."""
    return [min(PIECE, rounds - done) for done in range(0, rounds, PIECE)]


def per_second(rounds: int, seconds: float) -> int:
    """Return the rounds per second."""
    return round(rounds / seconds) if seconds > 0 else 0
