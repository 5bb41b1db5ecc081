"""Tests without a kernel, with the fixtures that a soak's tests have: they show what pytest itself keeps of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", params=[6.1])
def choice(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def machine(choice: float) -> Iterator[float]:
    held = [choice]
    yield choice
    held.clear()


@pytest.fixture
def inner(machine: float) -> Iterator[float]:
    held = [machine]
    yield machine
    held.clear()


@pytest.fixture
def guest(inner: float) -> float:
    return inner


@pytest.fixture
def loader() -> str:
    return ""


@pytest.fixture
def bpf(inner: float, loader: str) -> float:
    return inner


def test_turn(turn: int, guest: float, bpf: float) -> None:
    assert (turn >= 0, guest) == (True, bpf)
