"""What the leak check finds on kernels that give maps no ids: pins, processes, and the memory that maps lock."""

from __future__ import annotations

import pytest

from harness.kernel.types import Choice
from tests.plugin.inner import inner_runs

pytestmark = pytest.mark.kernel("<4.13")

SEEDS = """
import os
import signal

from harness.guest.api import bpf as raw


def test_a_pin(bpf):
    bpf.map("hash").pin("/sys/fs/bpf/x")


def leave_daemon():
    raw.map_create("hash", 4, 4, 8)
    here, there = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(there, b"!")
        signal.pause()
    os.read(here, 1)  # before that it is of the group that ends with the test


def test_a_process(guest):
    guest.call(leave_daemon, closes=False)


def tidy():
    os.close(raw.map_create("hash", 4, 4, 8))


def test_nothing(guest):
    guest.call(tidy)
"""
LOCKED = "leaked: 4 KiB of locked memory are still charged for maps or programs; this kernel gives them no ids"


def test_seeded_leaks_are_found(kernel_choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> None:
    with inner_runs(tmp_path_factory) as new_inner:
        inner = new_inner()
        inner.write(test_seeds=SEEDS)
        result = inner.run(f"--kernel={kernel_choice.label}", "-rA")
    leaks = {"test_a_pin": "the pin /sys/fs/bpf/x is still there", "test_a_process": "still runs: forked by a function"}
    for test, what in leaks.items():
        section = result.section(test, kernel_choice.label)
        assert what in section
        assert LOCKED in section
    assert result.outcomes("test_nothing", kernel_choice.label) == ["PASSED"]
    assert "maps by id: BPF_MAP_GET_NEXT_ID came with 4.13" in result.out
