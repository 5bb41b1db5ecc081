"""Where the threads of a guest process are, for a process that does not answer.

Python's frames by a signal, whose handler is C code of the interpreter, so that it also works while the process waits
for a lock; and each thread's state and kernel stack from /proc.

Runs in the guest.
"""

from __future__ import annotations

import faulthandler
import os
import time

from harness.guest.capture import Capture

_SIGNAL = 64
"""The last real-time signal: no program uses it."""
_WITHIN, _PAUSE = 1.0, 0.02
_OURS = (b"/harness/guest/", b'File "/init"')
"""Frames that every guest process has below those of the test."""


def prepare() -> None:
    """Let this process, and those that it forks, write their stacks to standard error at the signal."""
    faulthandler.register(_SIGNAL, file=2, all_threads=True)


def of(pid: int, capture: Capture) -> tuple[bytes, int]:
    """Return the stacks of all threads of a process as text, and the length of its standard error before them."""
    before = capture.errors_so_far()
    os.kill(pid, _SIGNAL)
    end, size = time.monotonic() + _WITHIN, -1
    # It is complete when nothing more comes.
    while time.monotonic() < end and (size != capture.errors_so_far() or size == before):
        size = capture.errors_so_far()
        time.sleep(_PAUSE)
    lines = capture.errors_since(before).splitlines(keepends=True)
    frames = b"".join(line for line in lines if not any(place in line for place in _OURS))
    return (frames or b"(no Python frames: the process takes no signal)\n") + _in_kernel(pid), before


def _in_kernel(pid: int) -> bytes:
    lines = []
    for thread in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        folder = f"/proc/{pid}/task/{thread}"
        try:
            state = next(line for line in _read(f"{folder}/status").split(b"\n") if line.startswith(b"State:"))
            lines.append(b"thread %s: %s\n" % (thread.encode(), state[6:].strip()))
            lines += [b"  %s\n" % line for line in _read(f"{folder}/stack").splitlines()]
        except OSError:
            continue  # the thread has ended, or this kernel shows no stacks
    return b"".join(lines)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
