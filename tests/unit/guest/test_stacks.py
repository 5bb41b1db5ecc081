"""The stacks of a process that does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.guest import stacks
from harness.guest.capture import Capture

HANGS = """
import sys, threading, time
from harness.guest import stacks
if len(sys.argv) == 1:
    stacks.prepare()
else:
    import signal
    signal.signal(64, signal.SIG_IGN)
print("before", file=sys.stderr, flush=True)

def waits(lock):
    lock.acquire()

lock = threading.Lock()
lock.acquire()
threading.Thread(target=waits, args=(lock,), daemon=True).start()

def spins():
    print("ready", flush=True)
    while True:
        pass

spins()
"""


@pytest.fixture(params=[(), ("deaf",)], ids=["hears", "deaf"])
def hanging(request: pytest.FixtureRequest) -> Iterator[tuple[bool, int, Capture]]:
    printed = Capture()
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, *request.param],
        stdout=subprocess.PIPE,
        stderr=printed.files[1],
        env={**os.environ, "PYTHONPATH": str(Path(stacks.__file__).parents[2])},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield not request.param, child.pid, printed
        child.kill()
    printed.close()


def test_all_threads_are_shown_and_what_was_printed_is_told_from_it(hanging: tuple[bool, int, Capture]) -> None:
    hears, pid, printed = hanging
    found, before = stacks.of(pid, printed)
    assert before == len(b"before\n")
    text = found.decode()
    assert (" in spins\n" in text and " in waits\n" in text) is hears, text
    assert ("no Python frames" in text) is not hears
    assert text.count("\nthread ") == 2, text
    assert f"thread {pid}: R (running)" in text
