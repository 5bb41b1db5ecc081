"""Which kernel selftests are compiled for."""

from __future__ import annotations

import pytest

from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.selftests.against import by_nearness


@pytest.mark.parametrize(
    ("tree", "order"),
    [
        ("6.1.150", ["6.1.192", "6.1.4", "6.12.3", "5.10.9"]),
        ("6.12", ["6.12.3", "6.1.192", "6.1.4", "5.10.9"]),
        ("6.6", ["6.12.3", "6.1.192", "6.1.4", "5.10.9"]),
    ],
)
def test_kernels_of_the_trees_series_come_first_and_then_the_newest(tree: str, order: list[str]) -> None:
    choices = [
        Choice(text, KernelVersion.parse(text), "debian", text) for text in ("6.1.192", "5.10.9", "6.12.3", "6.1.4")
    ]
    assert [one.label for one in by_nearness(choices, KernelVersion.parse(tree))] == order
