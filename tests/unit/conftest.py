"""Settings of the unit tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from harness import needs

# No deadline: how long an example takes says more about the machine's other users than about the code. In CI the same
# examples each time, so that a submission fails for what it changed.
settings.register_profile("harness", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("harness")


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the width of the terminal that the tests were started in; readline sets it in workers of xdist."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def take_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes the machine lack something in the table of needs, by a name of it."""

    def lack(name: str) -> None:
        real, lost = needs.find, needs.need(name)

        def find(wanted: needs.Need) -> Path | None:
            return None if wanted is lost else real(wanted)

        monkeypatch.setattr(needs, "find", find)

    return lack
