"""What a guest process is asked, and which descriptors are closed in it because nobody refers to them any more."""

from __future__ import annotations

import gc
from typing import Any, cast

import pytest

from harness.guest import calls
from harness.remote.bpf import Bpf
from harness.vm.guest_process import GuestProcess
from harness.vm.machine import Machine, State


class FakeMachine:
    """Creates maps and programs under the lowest free descriptor, as a kernel does."""

    state = State.READY

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.asked: list[str] = []

    def request(self, process: int, request: calls.Request, timeout: float, *_: object, **__: object) -> Any:
        name, arguments, _keywords, _line = request
        self.asked.append(name)
        if name == "process.close":
            self.open -= set(arguments)
            return None
        fd = min(set(range(3, 2000)) - self.open)
        self.open.add(fd)
        return (0, fd, b"") if name == "bpf.load" else (0, fd, {}, {})


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def bpf(machine: FakeMachine) -> Bpf:
    return Bpf(GuestProcess(cast("Machine", machine), 1))


def test_maps_and_programs_that_nobody_refers_to_are_closed(machine: FakeMachine, bpf: Bpf) -> None:
    kept = bpf.map("array")
    for _ in range(100):
        bpf.map("hash")
        bpf.prog("socket_filter", bytes(8))
    assert len(machine.open) < 5
    assert kept.fd in machine.open


def test_what_the_last_line_made_is_there_for_the_next(machine: FakeMachine, bpf: Bpf) -> None:
    fd = bpf.map("array").fd
    gc.collect()
    bpf.prog("socket_filter", bytes(8))  # it may load a map by that number
    assert fd in machine.open


@pytest.mark.parametrize("by_number", [False, True])
def test_a_descriptor_that_the_test_closed_is_not_closed_again(machine: FakeMachine, bpf: Bpf, by_number: bool) -> None:
    first = bpf.map("array")
    if by_number:
        bpf.close(first.fd)
    else:
        first.close()
    second = bpf.map("array")
    assert second.fd == first.fd
    del first
    others = [bpf.map("array") for _ in range(3)]
    assert machine.open == {second.fd, *(one.fd for one in others)}


def test_links_stay_until_the_test_ends(machine: FakeMachine, bpf: Bpf) -> None:
    number = bpf.raw_tracepoint(bpf.prog("raw_tracepoint", bytes(8)), "sys_enter").fd
    for _ in range(5):
        bpf.map("array")
    assert number in machine.open
