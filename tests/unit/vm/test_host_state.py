"""Whether this machine let QEMU run, by what /proc says of its threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.vm.host_state import HostSample, Thread, Watch, is_busy, sample, trouble_in


def at(
    seconds: float, state: str = "S", *, ran: float = 0.0, waited: float = 0.0, suspended: float = 0.0
) -> HostSample:
    return HostSample(seconds, suspended, {1: Thread("S", 0.0, 0.0), 2: Thread(state, ran, waited)})


@pytest.mark.parametrize(
    "samples",
    [
        [at(0)],
        [at(0), at(5)],
        [at(0, "R"), at(5, "R", ran=5)],
        # A guest that spins on a busy machine: it hangs by itself all the same.
        [at(0, "R"), at(5, "R", ran=1, waited=4)],
        [HostSample(0, 0, {}), HostSample(5, 0, {})],
        [at(0), HostSample(5, 0, {})],
        [at(0, "R"), at(2, "R", waited=2)],
    ],
)
def test_a_qemu_that_could_run_is_no_trouble_of_the_host(samples: list[HostSample]) -> None:
    assert trouble_in(samples) is None


def stopped(seconds: float) -> HostSample:
    return HostSample(seconds, 0, {1: Thread("T", 0.0, 0.0), 2: Thread("T", 0.0, 0.0)})


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([stopped(0)], "QEMU is stopped (state T"),
        ([stopped(1), stopped(2), at(3)], "QEMU was stopped for most of 2 s"),
        ([at(0), at(5, "R", ran=0.2, waited=4.7)], "QEMU got 0.2 s of processor time in 5.0 s and waited for more"),
        # The processor's thread was made after the first look.
        ([HostSample(0, 0, {}), at(5, "R", ran=0.2, waited=4.7)], "QEMU got 0.2 s of processor time in 5.0 s"),
        ([at(0), at(5, suspended=300)], "this machine was suspended for 300 s"),
    ],
)
def test_what_the_host_did_is_said(samples: list[HostSample], words: str) -> None:
    assert words in (trouble_in(samples) or "")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (at(5), False),
        (at(5, "R", ran=5), True),
        # It ran whenever this machine let it.
        (at(5, "R", ran=1, waited=4), True),
        (at(5, "R", ran=0.2, waited=0.1), False),
        (HostSample(5, 0, {}), False),
    ],
)
def test_a_guest_that_spins_uses_what_time_it_gets(now: HostSample, expected: bool) -> None:
    assert is_busy([at(0), now]) is expected


def test_a_process_that_is_stopped_is_seen_and_one_that_ended_is_no_trouble() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        watch = Watch(child.pid)
        assert watch.trouble() is None
        os.kill(child.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while watch.trouble() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "QEMU is stopped (state T" in (watch.trouble() or "")
        child.kill()
    assert sample(child.pid).threads == {}
    assert Watch(child.pid).trouble() is None


def test_processor_time_is_counted() -> None:
    before = sample(os.getpid()).threads[os.getpid()]
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert sample(os.getpid()).threads[os.getpid()].ran > before.ran
