"""Waiting for a condition."""

from __future__ import annotations

import pytest

from harness.testing import eventually


def test_the_first_true_value_is_returned() -> None:
    values = iter([0, [], 7, 8])
    assert eventually(lambda: next(values)) == 7


def test_what_never_comes_true_is_a_failure_with_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"did not come true within 0.01 s; at last it was \[\]"):
        eventually(list, within=0.01)
