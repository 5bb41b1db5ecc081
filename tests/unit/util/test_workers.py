"""Jobs in processes of their own: their results, their errors, and what is left when they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import InfrastructureError, UsageError
from harness.util import workers
from harness.util.workers import Say
from tests.processes import has_ended, wait_until


def squares(job: int, say: Say) -> Iterator[tuple[int, int]]:
    say(f"job {job}")
    yield job * job, os.getpid()
    yield -job, os.getpid()


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_results_come_with_the_position_of_their_job(at_once: int) -> None:
    said: list[str] = []
    done = list(workers.do([3, 4, 5], squares, at_once=at_once, say=said.append))
    assert sorted((number, value) for number, (value, _) in done) == [
        (0, -3),
        (0, 9),
        (1, -4),
        (1, 16),
        (2, -5),
        (2, 25),
    ]
    assert sorted(said) == ["job 3", "job 4", "job 5"]
    pids = {pid for _, (_, pid) in done}
    assert len(pids) == (1 if at_once == 1 else 3)
    assert (os.getpid() in pids) == (at_once == 1)


def test_jobs_run_at_the_same_time(tmp_path: Path) -> None:
    def meet(job: int, say: Say) -> Iterator[int]:
        say("here")
        (tmp_path / str(job)).touch()
        wait_until(lambda: (tmp_path / str(1 - job)).exists(), about="the other job")
        yield job

    assert sorted(workers.do([0, 1], meet, at_once=2, say=print)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (UsageError("no such map", expected="another"), UsageError, "no such map"),
        (KeyError("x"), RuntimeError, "KeyError: 'x'"),
    ],
)
def test_what_a_job_raises_ends_all_jobs(tmp_path: Path, error: Exception, raised: type[Exception], words: str) -> None:
    def work(job: int, say: Say) -> Iterator[int]:
        say("here")
        if job:
            wait_until((tmp_path / "pid").exists, about="the other job")
            raise error
        try:
            (tmp_path / "new").write_text(str(os.getpid()))
            (tmp_path / "new").rename(tmp_path / "pid")
            signal.pause()
        finally:
            (tmp_path / "cleared up").touch()
        yield job

    with pytest.raises(raised, match=words):
        list(workers.do([0, 1, 1], work, at_once=2, say=print))
    assert (tmp_path / "cleared up").exists()
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_a_signal_that_comes_just_before_a_wait_is_sent_again(tmp_path: Path) -> None:
    def work(job: int, say: Say) -> Iterator[int]:
        say("here")
        if job:
            wait_until((tmp_path / "deaf").exists, about="the other job")
            raise UsageError("no such map", expected="another")
        end = signal.getsignal(signal.SIGTERM)
        # The first is over before the wait begins, as far as the wait can see.
        signal.signal(signal.SIGTERM, lambda number, _: print(signal.signal(number, end)))
        (tmp_path / "deaf").touch()
        signal.pause()
        signal.pause()
        yield job

    with pytest.raises(UsageError, match="no such map"):
        list(workers.do([0, 1], work, at_once=2, say=print))


def test_a_process_that_is_killed_is_no_result() -> None:
    def work(job: int, say: Say) -> Iterator[int]:
        say("here")
        os.kill(os.getpid(), signal.SIGKILL)
        yield job

    with pytest.raises(InfrastructureError, match="ended with status -9 before the job was done"):
        list(workers.do([0, 1], work, at_once=2, say=print))


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from harness.util import workers

folder = Path(sys.argv[1])

def work(job, say):
    try:
        (folder / f"new{job}").write_text(str(os.getpid()))
        (folder / f"new{job}").rename(folder / f"pid{job}")
        while True:
            signal.pause()
    finally:
        (folder / f"cleared up {job}").touch()
    yield job

list(workers.do([0, 1], work, at_once=2, say=print))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for job in (0, 1):
        wait_until((tmp_path / f"pid{job}").exists, about=f"job {job}")
    pids = [int((tmp_path / f"pid{job}").read_text()) for job in (0, 1)]
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.kill()
    _, said = process.communicate(timeout=120)
    wait_until(lambda: all(map(has_ended, pids)), about="the jobs' processes")
    if number is signal.SIGINT:
        assert said.count("Traceback") == 1, said  # the parent's own KeyboardInterrupt
        assert all((tmp_path / f"cleared up {job}").exists() for job in (0, 1))
