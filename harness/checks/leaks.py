"""The leak check around a test: what the kernel holds after it and did not hold before it is a complaint."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from harness.checks import leak_diff
from harness.checks.base import Complaint
from harness.checks.leak_diff import FoundLeak
from harness.results import properties
from harness.results.outcomes import Trouble
from harness.vm.machine import Machine, State


class LeakCheck:
    """Asks the guest what it holds when the test is over, and complains of every object that leaked.

    The machine's first snapshot was taken when it was ready; a machine with a leak is not used again.

    Attributes:
        count: What was counted, and how long it took to settle, once the test is over.

    Args:
        root: Paths of files below this folder are shown relative to it.
        is_last: Whether the machine serves no other test after this one.
    """

    def __init__(self, root: Path, *, is_last: bool = False) -> None:
        self._is_last = is_last
        self.count: properties.LeakCount | None = None
        self._root = f"{root}{os.sep}"

    def begin(self, machine: Machine) -> None:
        """Forget the descriptors that an earlier test left open."""
        machine.left_open.clear()

    def end(self, machine: Machine) -> list[Complaint]:
        """Return the leaks; none for a dead machine."""
        if machine.state is not State.READY:
            return []
        baseline, end = machine.about["snapshot"], machine.leak_snapshot(is_last=self._is_last)
        self.count = {
            "settled_ms": end["waited"],
            "grace_periods": end["grace"],
            "memory_kib": leak_diff.memory(baseline, end),
            "unchecked": leak_diff.unchecked(baseline),
        }
        return [self._complaint(one) for one in leak_diff.judge(baseline, end, machine.left_open)]

    def _complaint(self, found: FoundLeak) -> Complaint:
        leak = msgspec.structs.replace(found.leak, made=self._short(found.leak.made), text=self._short(found.leak.text))
        text = self._short("\n  ".join(found.lines))
        return Complaint(Trouble.LEAK, properties.LEAK, msgspec.structs.asdict(leak), f"leaked: {text}")

    def _short(self, text: str) -> str:
        return text.replace(self._root, "")
