"""A test whose infrastructure was lost runs again, once, on a fresh machine; both attempts are reported.

A lost machine says nothing about the kernel. A test that failed is never run again.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from harness.errors import LinkBroken
from harness.pytest_plugin.collection import kernel_of
from harness.pytest_plugin.state import ALONE, STATE
from harness.results import properties

if TYPE_CHECKING:
    from collections.abc import Sequence

LOST = "lost"
"""The outcome of a report whose test runs again."""

_MAY = pytest.StashKey[bool]()
_REASON = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object | None, object | None]:
    """Run a test again when its machine was lost."""
    if kernel_of(item) is None or _REASON in item.stash or _is_rerun_by_another(item):
        return (yield)
    known = list(item.user_properties)
    item.stash[_MAY] = True
    try:
        result = yield
    finally:
        del item.stash[_MAY]
    reason = item.stash.get(_REASON, "")
    if not reason or item.session.shouldstop or item.session.shouldfail:
        return result
    item.user_properties[:] = [*known, (properties.RETRIED, reason)]
    item.config.stash[STATE].output.say(f"{item.nodeid}: {reason}; it runs again on a fresh machine")
    again: object | None = item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
    return again


def _is_rerun_by_another(item: pytest.Item) -> bool:
    """Return whether pytest-rerunfailures runs the test again, as the user asked."""
    return bool(getattr(item.config.option, "reruns", None)) or item.get_closest_marker("flaky") is not None


def note_loss(item: pytest.Item, report: pytest.TestReport, error: BaseException) -> bool:
    """Make the report of a lost machine one that does not count, if the test can run again; return whether it can."""
    if not isinstance(error, LinkBroken) or not item.stash.get(_MAY, False) or item.stash.get(ALONE, False):
        return False
    reason = f"{type(error).__name__}: {error.what}"
    item.stash[_REASON] = reason
    lost: Sequence[tuple[str, object]] = [(properties.LOST, reason)]
    vars(report)["outcome"] = LOST  # none of pytest's outcomes counts it right
    report.user_properties += lost
    item.user_properties += lost  # for the report of the teardown, with which JUnit's entry is closed
    return True
