"""The interface of checks, which run around every test regardless of what the test asserts.

A check examines the machine before its test, and again after the test's own fixtures have ended and before the machine
is given back. It returns complaints, which fail the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import HarnessError
from harness.results.outcomes import Trouble
from harness.vm.machine import Machine, State


@dataclass(frozen=True)
class Complaint:
    """A problem that a check found after a test.

    Attributes:
        trouble: What it is that ends the test.
        name: Name of the property with `data`; "" for none.
        data: Plain values, for reports.
        text: For the user: a complete first line, then evidence.
        only_if_passed: Whether it is irrelevant when the test failed or was skipped.
    """

    trouble: Trouble
    name: str
    data: Mapping[str, Any]
    text: str
    only_if_passed: bool = False


class Check(Protocol):
    """Examines a machine around one test; each test has a new object."""

    def begin(self, machine: Machine) -> None:
        """Record the state of the machine before its test."""
        ...

    def end(self, machine: Machine) -> list[Complaint]:
        """Return the problems of the machine after its test.

        Not called when the test has closed the machine. A dead machine was already reported, to the test or to one of
        its fixtures.

        Raises:
            KernelCrashed: The kernel died after the test's last call.
            HarnessError: The check could not run.
        """
        ...


class Checks:
    """The checks around one test.

    Args:
        checks: The checks in order. The kernel log is read last, because the other checks may cause faults or wait
            until they appear.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks

    def begin(self, machine: Machine) -> None:
        """Let all checks record the state of the machine."""
        for check in self._checks:
            check.begin(machine)

    def end(self, machine: Machine) -> list[Complaint]:
        """Return the complaints of all checks.

        Raises:
            HarnessError: A check could not run; the first error, when there are several.
        """
        complaints: list[Complaint] = []
        errors: list[HarnessError] = []
        for check in self._checks:
            if machine.state is State.CLOSED:
                break
            try:
                complaints += check.end(machine)
            except HarnessError as error:
                errors.append(error)
        if errors:
            if complaints:
                found = "\n\n".join(complaint.text for complaint in complaints)
                errors[0].detail = f"{errors[0].detail}\n\nfound before that:\n{found}".lstrip()
            raise errors[0]
        return complaints
