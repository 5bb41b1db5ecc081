"""Records of the kernel log: from /dev/kmsg, and from a console.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LogRecord:
    """One line of the kernel log.

    Attributes:
        text: The line, without stamp and level.
        usec: Microseconds since boot; -1 when the line has no time stamp.
        sequence: The record's number; -1 on a console. Lines of one record have the same number.
        level: 0 (emergency) to 7 (debug); -1 when not known.
        facility: 0 for the kernel itself; 1 and up for programs that write to the log.
    """

    text: str
    usec: int = -1
    sequence: int = -1
    level: int = -1
    facility: int = 0


_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def parse_records(raw: Iterable[bytes]) -> list[LogRecord]:
    """Return the lines of records from /dev/kmsg (Linux Documentation/ABI/testing/dev-kmsg).

    Raises:
        ValueError: A record has another form.
    """
    found = []
    for record in raw:
        head, semicolon, body = record.partition(b";")
        fields = head.split(b",")
        if not semicolon or len(fields) < 3 or not all(field.isdigit() for field in fields[:3]):
            raise ValueError(f"{record[:80]!r} is not a record of the kernel log")
        priority, sequence, usec = (int(field) for field in fields[:3])
        # After the first line, lines that begin with a blank are the record's dictionary (SUBSYSTEM=, DEVICE=).
        message = body.split(b"\n")[0]
        text = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), message).decode(errors="replace")
        found += [LogRecord(line, usec, sequence, priority & 7, priority >> 3) for line in text.split("\n")]
    return found


_STAMP = re.compile(r"^(?:<\d+>)?\[ *(\d+)\.(\d{6})\](?:\[ *[TC]\d+\])? ?")


def parse_console(lines: Iterable[str]) -> list[LogRecord]:
    """Return the lines of a console.

    Lines without the kernel's time stamp come from programs and are omitted. A kernel without time stamps (without
    CONFIG_PRINTK_TIME) shows no such difference, so all its lines are returned.
    """
    found = []
    given = list(lines)
    if not any(_STAMP.match(line) for line in given):
        return [LogRecord(line) for line in given]
    for line in given:
        match = _STAMP.match(line)
        if match is not None:
            found.append(LogRecord(line[match.end() :], int(match[1]) * 1_000_000 + int(match[2])))
    return found
