"""The guest's console: read continuously, kept, and searched for the end of a kernel."""

from __future__ import annotations

import re
import threading
from collections import deque
from pathlib import Path
from typing import IO

import pexpect

_KEPT_LINES = 2000
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|[\x00-\x08\x0b-\x1f\x7f]")

# The kernel's last lines. An oops in idle or interrupt context of the guest's only CPU ends with the first pattern.
_DEATH = re.compile(r"Kernel panic - not syncing: .*|KVM internal error.*|Kernel Offset: .*\]---")


def clean(line: str) -> str:
    """Return a console line without escape sequences and control characters."""
    return _ESCAPE.sub("", line)


def read_lines(log: Path) -> list[str]:
    """Return the last lines of a console that QEMU writes to a file."""
    return [clean(line.decode(errors="replace")).rstrip() for line in log.read_bytes().split(b"\n")][-_KEPT_LINES:]


# A panic that only says that there was an exception; the line that names it came before.
_FATAL_EXCEPTION = "Kernel panic - not syncing: Fatal exception"
_EXCEPTION = re.compile(
    r"(?:BUG: |kernel BUG at |(?:Oops: )?general protection fault|(?:PANIC: )?double fault|Unable to handle kernel ).*"
)
# It follows on a line that says more, where there is one.
_OOPS = re.compile(r"Oops\b.*\[#\d+\].*")


def cause_of_death(lines: list[str]) -> str | None:
    """Return the line that reports the kernel's death, with that of the exception which it died of; or None."""
    exception = ""
    for line in lines:
        match = _DEATH.search(line)
        if match is not None:
            return f"{exception} ({match[0]})" if exception and match[0].startswith(_FATAL_EXCEPTION) else match[0]
        found = _EXCEPTION.search(line) or (None if exception else _OOPS.search(line))
        exception = found[0] if found is not None else exception
    return None


_AGENT_EXIT = re.compile(r"Attempted to kill init! exitcode=0x0000[0-9a-f]{2}00")


def agent_exited(lines: list[str]) -> bool:
    """Return whether the guest's first process exited by itself: a defect of the harness, not of the kernel."""
    return any(_AGENT_EXIT.search(line) for line in lines)


def tail_of(lines: list[str], count: int = 25) -> str:
    """Return the last `count` lines that are not empty, as one text."""
    return "\n".join([line for line in lines if line][-count:]) or "(the console is empty)"


class Console:
    """Reads a pexpect child's output in a thread, so that a full terminal never stops the guest.

    Args:
        child: The program whose terminal is the console.
        log: File that receives every byte.
    """

    def __init__(self, child: pexpect.spawn[bytes], log: Path) -> None:
        self._child = child
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""
        self._lock = threading.Lock()
        self._log: IO[bytes] = log.open("wb")
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="harness-console", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            try:
                data = self._child.read_nonblocking(65536, timeout=None)
            except (pexpect.EOF, OSError, ValueError):
                # The program ended, or `close` closed its terminal: nothing more comes.
                break
            with self._lock:
                self._log.write(data)
                self._log.flush()
                *whole, self._partial = (self._partial + data).split(b"\n")
                self._lines.extend(clean(line.decode(errors="replace")).rstrip() for line in whole)
        with self._lock:
            if self._partial:
                self._lines.append(clean(self._partial.decode(errors="replace")))
                self._partial = b""
            self._log.close()
        self.ended.set()

    def lines(self) -> list[str]:
        """Return the last lines, oldest first."""
        with self._lock:
            tail = [clean(self._partial.decode(errors="replace"))] if self._partial else []
            return [*self._lines, *tail]
