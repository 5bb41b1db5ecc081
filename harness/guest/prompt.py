"""The guest's side of an interactive prompt: runs the user's input in one guest process with its own names.

The process captures the output. An interrupt only ends the running input.

Runs in the guest.
"""

from __future__ import annotations

import os
import signal
import sys

from harness.guest.api import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RAISED, LEAVE = "raised", "leave"

_MODULES = ("ctypes", "errno", "os", "socket", "struct", "sys", "time")

_names: dict[str, Any] = {}
_state: dict[str, Any] = {"compile": None, "count": 0, "last": ""}


def start() -> list[str]:
    """Start; return the predefined names."""
    import codeop
    from pathlib import Path

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _state["compile"] = codeop.Compile()
    _names.update({name: __import__(name) for name in _MODULES}, bpf=bpf, Path=Path, cat=cat, ls=ls, dmesg=dmesg)
    given = list(_names)
    # Names from the module site that users expect.
    _names.update(__name__="__main__", __builtins__=__builtins__, exit=sys.exit, quit=sys.exit)
    return given


def run(source: str) -> str:
    """Run one statement, or show the value of an expression, like Python's own prompt.

    Returns:
        "", RAISED when it raised (the traceback is printed), or LEAVE when it asked to leave.
    """
    import linecache
    import traceback

    _state["count"] += 1
    file = f"<input {_state['count']}>"
    linecache.cache[file] = len(source), None, source.splitlines(True), file
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        exec(_state["compile"](source + "\n", file, "single"), _names)  # noqa: S102 - the purpose of a prompt
        _state["last"] = ""
    except SystemExit:
        _state["last"] = LEAVE
    except BaseException as error:  # noqa: BLE001 - shown to the user
        shown = error.__traceback__.tb_next if error.__traceback__ is not None else None
        traceback.print_exception(type(error), error, shown)
        _state["last"] = RAISED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return last()


def command(words: list[str]) -> str:
    """Run a program of the guest and print its output.

    Returns:
        "", or RAISED when it could not be started or ended with a status other than 0.
    """
    import subprocess

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
        if status:
            print(f"{words[0]}: " + (f"killed by signal {-status}" if status < 0 else f"exit status {status}"))
        _state["last"] = RAISED if status else ""
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _state["last"] = RAISED
    except OSError as error:
        print(f"{words[0]}: {error.strerror}; the guest has only what the image and tests put there", file=sys.stderr)
        _state["last"] = RAISED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return last()


def has_program(name: str) -> bool:
    """Return whether :func:`command` would find a program of this name."""
    import shutil

    return shutil.which(name) is not None


def last() -> str:
    """Return the last result of :func:`run` or :func:`command`, for a host that lost the answer."""
    return str(_state["last"])


def complete(text: str) -> list[str]:
    """Return the completions of a name or attribute."""
    import rlcompleter

    completer = rlcompleter.Completer(_names)
    found: list[str] = []
    while (word := completer.complete(text, len(found))) is not None and len(found) < 200:
        found.append(word)
    return found


# Functions that users expect in a machine without a shell.


def cat(path: str) -> None:
    """Print a file."""
    with open(path, "rb") as file:
        print(file.read().decode(errors="replace"), end="")


def ls(path: str = "/") -> None:
    """Print the content of a folder."""
    print(*sorted(os.listdir(path)), sep="\n")


def dmesg(count: int = 30) -> None:
    """Print the last `count` records of the kernel's log."""
    records = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                records.append(os.read(log, 8192).decode(errors="replace"))
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overwritten: continue with the next record
    finally:
        os.close(log)
    for record in records[-count:]:
        head, _, text = record.partition(";")
        microseconds = int(head.split(",")[2])
        print(f"[{microseconds / 1e6:12.6f}] {text.splitlines()[0]}")
