"""Runs the checks around a test and reports their findings."""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, InfrastructureError
from harness.pytest_plugin.marks import has_mark
from harness.pytest_plugin.options import option
from harness.pytest_plugin.pause import pause_at
from harness.pytest_plugin.state import COMPLAINED, FOUND, OUTCOME, STATE
from harness.results import properties

if TYPE_CHECKING:
    from harness.checks.base import Complaint
    from harness.checks.kernel_log import KernelLog
    from harness.checks.known_faults import ExpectedFault, KnownFault
    from harness.kernel.types import Choice
    from harness.results.types import Fault
    from harness.vm.machine import Machine
    from harness.vm.spec import MachineSpec


def log_check(item: pytest.Item, choice: Choice, *, is_second: bool = False) -> KernelLog:
    """Return the check of the kernel log, with the test's expected faults and the known faults.

    Args:
        item: The test.
        choice: The kernel.
        is_second: Whether it is that of the test's second machine, of which no fault is expected.
    """
    from harness.checks.kernel_log import KernelLog
    from harness.kernel.catalog import policy
    from harness.kernel.selection import meets
    from harness.kernel.selector import parse_condition

    expected: list[ExpectedFault] = []
    if has_mark(item, "expects_fault") and not is_second:
        from harness.pytest_plugin.markers import expected_faults

        expected = expected_faults(item)
    state = item.config.stash[STATE]
    return KernelLog(
        expected,
        state.known_faults(),
        lambda condition: meets(choice, parse_condition(condition), policy()),
        kmemleak=option(item.config, "kmemleak"),
        line_of=lambda place, returns: state.line_of(choice, place, returns=returns),
    )


def known_fault(fault: Fault, entry: KnownFault) -> tuple[str, dict[str, Any]]:
    """Return the property of a known fault."""
    from msgspec.structs import asdict

    from harness.results.types import ExcusedFault

    excused = ExcusedFault(**asdict(fault), reason=entry.reason, origin=entry.origin)
    return properties.KNOWN_FAULT, asdict(excused)


def note_boot_faults(item: pytest.Item, log: KernelLog, machine: Machine) -> None:
    """Put faults from before any test into the report of the first test on the machine, or on that kernel.

    They are not the fault of a test: they count once for each kernel, by
    :class:`harness.pytest_plugin.summaries.KernelFaults`.
    """
    from msgspec.structs import asdict

    from harness.checks.kernel_log import find_faults
    from harness.checks.known_faults import sort_out

    seen = item.config.stash[STATE].boot_logs
    boot_log = hash(tuple(machine.boot_log))
    if boot_log in seen:
        return
    seen.add(boot_log)
    found = sort_out(find_faults(machine.boot_log, 0, machine.about["tainted"]), known=log.known, is_for=log.is_for)
    for one in found.counted:
        fault: properties.BootFault = {"kernel": machine.label, "fault": asdict(one.fault)}
        item.user_properties.append((properties.BOOT_FAULT, fault))
    item.user_properties += [known_fault(one.fault, entry) for one, entry in found.known]


class Taken:
    """A machine that was taken for a test, or for several, and the checks that are made when they are over.

    Attributes:
        machine: The machine.

    Args:
        item: The test, the first of several.
        choice: The kernel.
        spec: The machine.
        first: The machine that the test has already, when this is its second: it is connected with that one. Reports
            and records say of the first how it started and what it was.

    Raises:
        HarnessError: As :meth:`harness.machines.pool.Pool.take`.
    """

    def __init__(self, item: pytest.Item, choice: Choice, spec: MachineSpec, first: Machine | None = None) -> None:
        from harness.checks.base import Checks
        from harness.checks.leaks import LeakCheck

        self._state = item.config.stash[STATE]
        self._spec = spec
        pool = self._state.pool()
        began = time.monotonic()
        self._first = first
        self.machine = pool.take(spec, another=first is not None)
        self._log = log_check(item, choice, is_second=first is not None)
        if first is None:
            self.note(item, time.monotonic() - began)
        else:
            self._connect(first)
        note_boot_faults(item, self._log, self.machine)
        if self._state.next is not None:
            pool.expect(*self._state.next)
        # The kernel log is the last.
        is_last = first is not None or not pool.shares
        self._leaks = None if has_mark(item, "leaks") else LeakCheck(item.config.rootpath, is_last=is_last)
        self._checks = Checks([self._log] if self._leaks is None else [self._leaks, self._log])
        self._checks.begin(self.machine)

    def _connect(self, first: Machine) -> None:
        from harness.vm.links import connect

        try:
            connect(first, self.machine)
        except BaseException:
            self.give_back()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether its kernel still runs."""
        from harness.vm.machine import State as MachineState

        return self.machine.state is MachineState.READY

    @property
    def is_usable(self) -> bool:
        """Whether another test may run on the machine."""
        return self.is_alive and not self._state.pool().is_spoiled(self.machine)

    def note(self, item: pytest.Item, seconds: float) -> None:
        """Put the machine into a test's report, and how many seconds the test waited for it."""
        boot = self._state.pool().boot_seconds(self._spec)
        started: properties.Started = {"start": round(seconds, 4), "boot": boot}
        item.user_properties += [(properties.RELEASE, self.machine.release), (properties.MACHINE, started)]

    def check(self, known: list[tuple[str, object]]) -> list[Complaint]:
        """Return what the checks find; the leak count and the known faults are added to a test's properties.

        Raises:
            HarnessError: A check could not be made.
        """
        try:
            return self._checks.end(self.machine)
        finally:
            if self._first is None and self._leaks is not None and self._leaks.count is not None:
                known.append((properties.LEAK_COUNT, dict(self._leaks.count)))
            known += [known_fault(fault, entry) for fault, entry in self._log.excused]

    @property
    def where(self) -> str:
        """What comes before what was found on it; "" for a test's only or first machine."""
        return f"on the second machine, {self.machine.label}:" if self._first is not None else ""

    @property
    def unexpected_end(self) -> HarnessError | None:
        """The error of the machine's end, once it was checked; None while it lives, and if its test expects the end."""
        return None if self._log.is_end_expected else self.machine.end

    def give_back(self, *, spoiled: bool = False) -> None:
        """Give the machine back.

        Args:
            spoiled: Whether no other test may get it.
        """
        pool = self._state.pool()
        if spoiled:
            pool.spoil(self.machine)
        pool.give_back(self._spec, self.machine)


def handled(end: HarnessError) -> HarnessError:
    """Return the error for a test that got the error of its guest's end, handled it and passed."""
    error = copy(end)
    error.what = f"{end.what}; the test handled that error and passed"
    if not isinstance(end, InfrastructureError):
        error.hint = end.hint or "if the test does this on purpose, say so with the marker expects_fault"
    return error.with_traceback(None)


def look_back(item: pytest.Item, taken: Taken) -> None:
    """Fail the test when a machine of it has a problem, after everything else of the test has ended."""
    from harness.vm.machine import State as MachineState

    machine = taken.machine
    was_dead = machine.state is MachineState.DEAD
    complaints = taken.check(item.user_properties)
    outcome = item.stash.get(OUTCOME, "")
    end = taken.unexpected_end
    if was_dead and outcome == "passed" and end is not None:
        item.stash[COMPLAINED] = True
        item.user_properties += [(one.name, dict(one.data)) for one in complaints if one.name]
        raise handled(end)
    complaints = [one for one in complaints if outcome == "passed" or not one.only_if_passed]
    if not complaints:
        return
    item.config.stash[STATE].pool().spoil(machine)
    item.user_properties += [(one.name, dict(one.data)) for one in complaints if one.name]
    text = "\n\n".join([*filter(None, [taken.where]), *(one.text for one in complaints)])
    if was_dead or outcome == "failed":
        # The test has failed, or it expected the machine's end.
        item.stash[FOUND] = "\n\n".join([*filter(None, [item.stash.get(FOUND, "")]), text])
        return
    item.user_properties += [
        (properties.TROUBLE, word) for word in dict.fromkeys(one.trouble.value for one in complaints)
    ]
    if option(item.config, "pause_on_failure"):
        pause_at(item, machine, text)
    item.stash[COMPLAINED] = True
    pytest.fail(text, pytrace=False)
