"""Tests without a kernel, with as many fixtures as a soak's tests have: they show what pytest itself keeps of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", params=[6.1])
def choice(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def vm(choice: float) -> Iterator[float]:
    held = [choice]
    yield choice
    held.clear()


@pytest.fixture
def guest(vm: float) -> Iterator[float]:
    held = [vm]
    yield vm
    held.clear()


@pytest.fixture
def bpf(guest: float) -> float:
    return guest


def test_turn(turn: int, guest: float, bpf: float) -> None:
    assert (turn >= 0, guest) == (True, bpf)
