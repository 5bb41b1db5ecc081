"""One trial: its machine, the kernel log around it, and its outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from harness.check.reason import Reason
from harness.check.results import Author, Verdict
from harness.errors import GuestHung, GuestProcessDied, HarnessError, KernelCrashed
from harness.guest import calls
from harness.remote.libbpf import BpfObject
from harness.vm.death import killed_for_memory
from harness.vm.machine import Machine, State

NO_MEMORY = "the kernel killed the process because the guest's memory was used up"

ENDS = (GuestProcessDied, GuestHung, KernelCrashed)
"""What a trial that kills its process or its kernel raises."""


class Machines(Protocol):
    """Gives fresh machines of one kernel."""

    def take(self) -> Machine:
        """Return a machine that nothing ran on."""
        ...

    def give_back(self, machine: Machine) -> None:
        """Take a machine back, which may be dead."""
        ...


@contextmanager
def machine_of(machines: Machines) -> Iterator[Machine]:
    """Give a fresh machine for a with-block."""
    machine = machines.take()
    try:
        yield machine
    finally:
        machines.give_back(machine)


class LogWatch:
    """The kernel log around one trial.

    Args:
        machine: The machine.

    Attributes:
        out_of_memory: Whether the kernel has killed a process because the guest had no memory left.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.out_of_memory = False
        self._tainted = int(machine.ask_agent(calls.Agent.log_since)["tainted"])

    def faults(self) -> tuple[str, ...]:
        """Return the titles of the faults since the last call; none of a machine that is dead."""
        if self._machine.state is not State.READY:
            return ()
        said = self._machine.ask_agent(calls.Agent.log_since)
        self.out_of_memory |= killed_for_memory([record.decode(errors="replace") for record in said["records"]]) != ""
        if not said["records"] and said["tainted"] == self._tainted:
            return ()
        from harness.checks.kernel_log import find_faults  # takes longer than a load, and most loads log nothing

        found = find_faults(said["records"], self._tainted, said["tainted"])
        self._tainted = said["tainted"]
        return tuple(f"{fault.kind}: {fault.title}" for fault in found)


@dataclass
class TrialOutcome:
    """The outcome of a trial.

    Attributes:
        verdict: Of the whole trial; attaching is apart.
        step: The last step.
        errno: The error number, 0 for none.
        reason: Why it was refused.
        message: What libbpf and the verifier said.
        by: libbpf's name with its version, when it was asked.
        faults: What the kernel reported.
        loaded: The loaded object.
        attached: The outcomes of attaching, by program.
    """

    verdict: Verdict = Verdict.OK
    step: str = "load"
    errno: int = 0
    reason: Reason = field(default_factory=lambda: Reason("", Author.KERNEL))
    message: str = ""
    by: str = ""
    faults: tuple[str, ...] = ()
    loaded: BpfObject | None = None
    attached: dict[str, TrialOutcome] = field(default_factory=dict)

    @property
    def is_unclear(self) -> bool:
        """Whether it does not say which program is to blame."""
        return self.verdict not in (Verdict.OK, Verdict.REFUSED)


def ended(error: HarnessError, step: str, watch: LogWatch) -> TrialOutcome:
    """Return the outcome of a trial whose process or kernel ended under it."""
    outcome = _ended(error, step)
    outcome.faults = watch.faults()
    if outcome.verdict is Verdict.KILLED and watch.out_of_memory:
        outcome.reason = Reason(NO_MEMORY, Author.HARNESS)
    return outcome


def _ended(error: HarnessError, step: str) -> TrialOutcome:
    if isinstance(error, GuestProcessDied):
        number = os.waitstatus_to_exitcode(error.status)
        how = f"the process was killed by signal {-number}" if number < 0 else f"the process ended with status {number}"
        return TrialOutcome(Verdict.KILLED, step, reason=Reason(how, Author.KERNEL))
    if isinstance(error, GuestHung):
        return TrialOutcome(Verdict.HUNG, step, reason=Reason(error.what, Author.KERNEL))
    return TrialOutcome(Verdict.CRASHED, step, reason=Reason(error.what, Author.KERNEL))
