"""The tests that a soak repeats: what a test of a user does, and each leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

from harness.testing import Bpf, Guest, raises_errno


def work(turn: int) -> list[int]:
    print(f"turn {turn}")
    return [turn, os.getpid()]


def write(path: str) -> int:
    return Path(path).write_text("x" * 100_000)


def test_turn(turn: int, guest: Guest, bpf: Bpf) -> None:
    """Do one of five things: a function with output, maps, a file, a map that is refused, calls in a row."""
    kind = turn % 5
    if kind == 0:
        assert guest.call(work, turn)[0] == turn
    elif kind == 1:
        inner = bpf.map("array")
        outer = bpf.map("hash_of_maps", inner=inner, max_entries=4)
        outer[1] = inner
        assert outer.lookup(1) == inner.id
    elif kind == 2:
        assert guest.call(write, f"/tmp/{turn}") == 100_000
    elif kind == 3:
        with raises_errno(22):
            bpf.map("array", max_entries=0)
    else:
        assert [guest.call(work, number)[0] for number in range(5)] == list(range(5))
