"""The guest's processes: their ids, names, and whether they run.

Runs in the guest.
"""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False

_SHOWN_COMMAND = 120


def processes() -> list[int]:
    """Return the ids of all processes, including kernel threads."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def lives(pid: int) -> bool:
    """Return whether a process runs, possibly only in a thread other than its first, and is not a kernel thread."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    ended = fields[0] in "ZX" and int(fields[17]) < 2
    return not ended and fields[1] != "2" and pid != 2


def calm(pid: int) -> None:
    """Let a process run only while nothing else does: one that spins would take the time of those that look at it."""
    # It may end meanwhile; and a process may put its own /proc elsewhere.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def spins(pid: int) -> bool:
    """Return whether a thread of a process wants a processor now."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "R":
                    return True
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
    return False


def open_children(pid: int) -> int | None:
    """Return an open file that lists the children of a process; None on a kernel without CONFIG_PROC_CHILDREN."""
    try:
        return os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def command_of(pid: int) -> str:
    """Return the command line of a process, or its name; a fork that did not start a program is named as such."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file, open("/proc/self/cmdline", "rb") as own:
            words = file.read()
            if words == own.read():
                return "forked by a function"
        if words:
            shown = words.decode(errors="replace").replace("\0", " ").strip()
            return shown if len(shown) <= _SHOWN_COMMAND else f"{shown[:_SHOWN_COMMAND]} ..."
        with open(f"/proc/{pid}/comm") as name:
            return name.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"
