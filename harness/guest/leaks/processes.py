"""The guest's processes: their ids, names, and whether they run.

Runs in the guest.
"""

from __future__ import annotations

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
