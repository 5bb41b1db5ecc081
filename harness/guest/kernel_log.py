"""What the kernel says of itself: its log, and what kmemleak thinks is leaked.

Runs in the guest.
"""

from __future__ import annotations

import os
import select
import time

KMEMLEAK = "/sys/kernel/debug/kmemleak"
KMEMLEAK_AGE = 5.1
"""Seconds; kmemleak does not report younger objects: MSECS_MIN_AGE of Linux mm/kmemleak.c."""


def open_log() -> int:
    """Return a place of one's own in the kernel's log, from its beginning."""
    return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def read(log: int) -> list[bytes]:
    """Return the unread records of an open /dev/kmsg."""
    records: list[bytes] = []
    more = select.poll()
    more.register(log, select.POLLIN)
    # Polling first saves a clone an exception, whose code it would run for the first time.
    while more.poll(0):
        try:
            records.append(os.read(log, 8192))
        except BlockingIOError:
            break
        except BrokenPipeError:
            records.append(b"4,0,0,-;harness: the kernel's log buffer overran, records were lost")
    return records


def jiffies() -> int | None:
    """Return the kernel's clock in ticks, which kmemleak uses; None when the kernel was built without kmemleak."""
    if not os.path.exists(KMEMLEAK):
        return None
    with open("/proc/timer_list") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("jiffies: "))


def kmemleak() -> str:
    """Return kmemleak's report, after waiting until all allocations so far are old enough to be reported."""
    time.sleep(KMEMLEAK_AGE)
    # kmemleak reports an object when two scans found it unreferenced and unchanged.
    for _ in range(2):
        with open(KMEMLEAK, "w") as file:
            file.write("scan")
    with open(KMEMLEAK) as file:
        return file.read()
