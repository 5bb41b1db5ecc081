"""Processes that a test started, or that were started for it: whether they have ended, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; it may not have been reaped yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # The command name may contain blanks and brackets; the fields after its closing bracket do not.
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 120, *, about: str = "") -> None:
    """Wait until something is so; an error, which says what it is about, when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it took too long: {about}"
        time.sleep(0.02)
