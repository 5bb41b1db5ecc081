"""What is looked at around each test, whatever the test itself asserts: the seam that such checks hang on.

A check looks at the machine before its test and after it, when the test's own fixtures are gone and before the
machine is given back, and returns complaints. Those fail the test. Imports the judges and machines below it; knows
nothing of pytest.
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
    """What a check found wrong after a test.

    Attributes:
        trouble: What it is that ends the test.
        name: Name of the property that holds `data`; "" for none.
        data: Plain values, for reports.
        text: For a person: a first line that says it all, and what evidence there is.
        only_if_passed: Whether it says nothing of a test that failed or was left out by itself.
    """

    trouble: Trouble
    name: str
    data: Mapping[str, Any]
    text: str
    only_if_passed: bool = False


class Check(Protocol):
    """Looks at a machine around one test; made anew for each."""

    def begin(self, machine: Machine) -> None:
        """Note how the machine is before its test."""
        ...

    def end(self, machine: Machine) -> list[Complaint]:
        """Return what is wrong with the machine after its test.

        Not called for a machine that the test has closed. One that is dead was reported as such already, to the test
        or to one of its fixtures.

        Raises:
            KernelCrashed: The kernel died after the test's last call.
            HarnessError: The check could not be made.
        """
        ...


class Checks:
    """The checks around one test.

    Args:
        checks: In the order in which they are made; the kernel's log is read last, since what the others do and wait
            for may be what the kernel complains of.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks

    def begin(self, machine: Machine) -> None:
        """Have all checks note how the machine is."""
        for check in self._checks:
            check.begin(machine)

    def end(self, machine: Machine) -> list[Complaint]:
        """Return what all checks complain of.

        Raises:
            HarnessError: A check could not be made; the first such error, when there are several.
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
