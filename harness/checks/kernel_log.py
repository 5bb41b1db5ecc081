"""The check of the kernel log: each fault that is neither expected nor known is a complaint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from harness.checks import faults as parser
from harness.checks import kmemleak as kmemleaks
from harness.checks import known_faults, log_records
from harness.checks.base import Complaint
from harness.checks.known_faults import ExpectedFault, KnownFault, RepeatedFault
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.guest import calls
from harness.results import properties
from harness.results.outcomes import Trouble
from harness.results.types import Fault
from harness.vm.machine import Machine, State

_KMEMLEAK_TIMEOUT = 300.0
"""Seconds. Two scans read all of the kernel's memory, on kernels that are slow anyway."""


class KernelLog:
    """Reads the kernel log of a test and complains about each fault that is neither expected nor known.

    Args:
        expected: The faults that the test causes on purpose.
        known: The known faults that are in force.
        is_for: Returns whether a known fault's condition matches the kernel.
        kmemleak: Let the kernel search for memory that it lost; takes some seconds.
        line_of: Returns the source line of a place in the kernel's code; see :func:`harness.checks.faults.with_lines`.
    """

    def __init__(
        self,
        expected: Sequence[ExpectedFault] = (),
        known: Sequence[KnownFault] = (),
        is_for: Callable[[str], bool] = lambda _condition: True,
        *,
        kmemleak: bool = False,
        line_of: Callable[[str, bool], str] = lambda _place, _returns: "",
    ) -> None:
        self._line_of = line_of
        self._expected = expected
        self.known = known
        self.is_for = is_for
        self._tainted = 0
        self._kmemleak = kmemleak
        self._since = 0
        self.excused: list[tuple[Fault, KnownFault]] = []
        """The known faults that appeared."""
        self.is_end_expected = False
        """Whether the machine is dead, and of a fault that the test expects."""

    def begin(self, machine: Machine) -> None:
        """Record the taint flags, and for kmemleak the start of the test: earlier allocations are not the test's.

        Raises:
            UsageError: The kernel has no kmemleak.
        """
        self._tainted = machine.about["tainted"]
        if not self._kmemleak:
            return
        since = machine.ask_agent(calls.Agent.jiffies)
        if since is None:
            raise UsageError(
                f"the kernel {machine.release} has no kmemleak",
                expected="a kernel with CONFIG_DEBUG_KMEMLEAK, such as one of flavour debug",
                hint="do not use --kmemleak for this kernel",
            )
        self._since = since

    def end(self, machine: Machine) -> list[Complaint]:
        """Return the faults; for a dead machine, those on its console."""
        if machine.state is State.DEAD:
            faults = parser.find_faults(log_records.parse_console(machine.process.console()))
            end = _end_as_fault(machine.end)
            ends = [*faults, *([end] if end is not None else [])]
            self.is_end_expected = any(one.matches(fault) for one in self._expected for fault in ends)
        else:
            faults = self._faults(machine)
        found = known_faults.sort_out(faults, expected=self._expected, known=self.known, is_for=self.is_for)
        self.excused += [(one.fault, entry) for one, entry in found.known]
        return [
            *(_complaint(self._with_lines(one)) for one in found.counted),
            *(_missing(one) for one in found.missing),
        ]

    def _with_lines(self, found: RepeatedFault) -> RepeatedFault:
        fault = found.fault
        try:
            excerpt = parser.with_lines(fault.excerpt, self._line_of)
        except HarnessError as error:
            excerpt = f"{fault.excerpt}\n(without source lines: {error.what})"
        return replace(found, fault=msgspec.structs.replace(fault, excerpt=excerpt))

    def _faults(self, machine: Machine) -> list[Fault]:
        leaked: list[Fault] = []
        if self._kmemleak:
            report = machine.ask_agent_within(_KMEMLEAK_TIMEOUT, calls.Agent.kmemleak)
            leaked = kmemleaks.parse_kmemleak(report, self._since)
        said = machine.ask_agent(calls.Agent.log_since)
        logged = find_faults(said["records"], self._tainted, said["tainted"])
        if self._kmemleak:
            # The scan's own line counts leaks that are reported one by one, and leaks from before the test.
            logged = [fault for fault in logged if not kmemleaks.LEAKS_COUNTED.match(fault.title)]
        return [*leaked, *logged]


def _end_as_fault(end: HarnessError | None) -> Fault | None:
    """Return what a guest's end is as a fault, of which the kernel need not say a word; None for any other end."""
    kind = next((kind for error, kind in known_faults.ENDS.items() if isinstance(end, error)), None)
    return Fault(kind, end.what, f"{kind}: the guest's end") if end is not None and kind is not None else None


def find_faults(records: Sequence[bytes], tainted_before: int, tainted: int) -> list[Fault]:
    """Return the faults in records of /dev/kmsg, and the fault of a change of the taint flags.

    Raises:
        InfrastructureError: The records cannot be read.
    """
    try:
        parsed = log_records.parse_records(records)
    except ValueError as error:
        raise InfrastructureError(
            f"the kernel's log cannot be searched for faults: {error}",
            expected="records as Documentation/ABI/testing/dev-kmsg describes them",
            hint="report it with the kernel's release",
        ) from error
    faults = parser.find_faults(parsed)
    taint = parser.taint_fault(tainted_before, tainted, explained=bool(faults))
    return [*faults, *([taint] if taint else [])]


def _complaint(found: RepeatedFault) -> Complaint:
    fault = found.fault
    times = f" ({found.times} times)" if found.times > 1 else ""
    lines = [
        f"the kernel complained: {fault.kind}: {fault.title}{times}",
        f"  fingerprint: {fault.fingerprint}",
        *(f"  | {line}" for line in fault.excerpt.split("\n")),
    ]
    return Complaint(Trouble.FAULT, properties.FAULT, msgspec.structs.asdict(fault), "\n".join(lines))


def _missing(expected: ExpectedFault) -> Complaint:
    named = f"{expected.kind} with {expected.title!r}" if expected.title else expected.kind
    text = f"the kernel did not complain as the test expects: no {named} was logged\n  reason given: {expected.reason}"
    return Complaint(Trouble.FAULT, "", {}, text, only_if_passed=True)
