"""Faults from kmemleak's report.

Pure.
"""

from __future__ import annotations

import re

from harness.checks.faults import fingerprint, frames_of
from harness.results.types import Fault

LEAKS_COUNTED = re.compile(r"kmemleak: \d+ new suspected memory leaks")
"""The line in which a scan of kmemleak counts the leaks that it found."""
_UNREFERENCED = re.compile(r"unreferenced object (0x[0-9a-f]+) \(size (\d+)\)")
_ALLOCATED = re.compile(r'\s*comm "(.*)", pid (\d+), jiffies (\d+)')


def parse_kmemleak(text: str, since: int) -> list[Fault]:
    """Return the objects in a report of kmemleak (Linux mm/kmemleak.c, print_unreferenced) as faults.

    Args:
        text: The content of /sys/kernel/debug/kmemleak.
        since: Jiffies; earlier allocations are omitted.
    """
    found = []
    for block in re.split(r"^(?=unreferenced object )", text, flags=re.MULTILINE):
        lines = block.rstrip("\n").split("\n")
        size = _UNREFERENCED.match(lines[0])
        made = next((match for line in lines if (match := _ALLOCATED.match(line))), None)
        if size is None or made is None or int(made[3]) < since:
            continue
        title = f'unreferenced object of {size[2]} bytes, allocated by "{made[1]}"'
        frames = frames_of(lines, skip_interrupts=False)
        found.append(Fault("kmemleak", title, fingerprint("kmemleak", title, frames), "\n".join(lines)))
    return found
