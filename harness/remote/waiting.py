"""Waits for what the kernel does later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.01


def eventually(condition: Callable[[], T], *, within: float = 20.0) -> T:
    """Call a function until it returns something true, and return that.

    Args:
        condition: What is waited for, as in `eventually(lambda: number not in bpf.ids("map"))`.
        within: Seconds, more than 0: a generous bound, since a guest can be slow.

    Raises:
        AssertionError: It did not come true in time; the message has what the function returned last.
    """
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"the condition did not come true within {within:g} s; at last it was {found!r}")
        time.sleep(_PAUSE)
    return found
