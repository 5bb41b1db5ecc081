"""Interruptions that reach a process while the garbage collector calls a finaliser."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc
import os
import signal
import sys
import time

from harness.util.interrupts import heed


class Terminated(BaseException):
    pass


class InACycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))


class Broken(InACycle):
    def __del__(self):
        raise ValueError("a defect of its own")


sys.unraisablehook = lambda lost: print(type(lost.exc_value).__name__, flush=True)
restore = heed(Terminated())
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Broken()
    InACycle()
    gc.collect()
    print("goes on", flush=True)
    time.sleep(50)
except BaseException as error:
    print(type(error).__name__, flush=True)
restore()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert sys.unraisablehook.__name__ == "<lambda>"
"""


@pytest.mark.parametrize(("number", "error"), [(15, "Terminated"), (2, "KeyboardInterrupt")])
def test_a_signal_whose_exception_is_lost_is_sent_again(number: int, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(number)], check=True, timeout=40, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.split("\n") == ["ValueError", "goes on", error, ""]
