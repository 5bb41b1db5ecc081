"""Forgets what a test's earlier attempt left, where a plugin such as pytest-rerunfailures runs a test again."""

from __future__ import annotations

from typing import Any

import pytest

from harness.pytest_plugin.state import COMPLAINED, FOUND, OUTCOME, REPORTED
from harness.results import properties

_COLLECTED = pytest.StashKey[int]()
"""How many properties a test had before its first attempt."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin an attempt: what this plugin knows of a test is of one attempt; what others know is theirs."""
    first = item.stash.setdefault(_COLLECTED, len(item.user_properties))
    known = item.user_properties
    known[first:] = [one for one in known[first:] if one[0] not in properties.OF_AN_ATTEMPT]
    keys: tuple[pytest.StashKey[Any], ...] = (OUTCOME, COMPLAINED, FOUND, REPORTED)
    for key in keys:
        if key in item.stash:
            del item.stash[key]
