"""The status of a mutant: killed by which test and how, or survived.

Pure: what pytest's reports said in, a verdict out.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.outcomes import Trouble


class MutantStatus(enum.Enum):
    """The status of a mutant."""

    KILLED = "killed"
    """A test failed, something leaked, the kernel complained, crashed or hung."""
    SURVIVED = "survived"
    """Every test passed."""
    SAME = "same code"
    """The compiled kernel is the same as without the mutant: no test can find it."""
    TWIN = "twin"
    """The compiled kernel is the same as another mutant's, whose status it has; it does not count."""
    UNBUILT = "does not compile"
    """It does not count."""
    UNKNOWN = "no verdict"
    """The machine or the harness failed repeatedly: this says nothing about the mutant."""


@dataclass(frozen=True)
class TrialResult:
    """The verdict of one run of the tests on a mutant.

    Attributes:
        status: KILLED, SURVIVED or UNKNOWN.
        how: A value of :class:`harness.results.outcomes.Trouble`, "assertion" or "error" when it was killed.
        test: The test that found it.
        message: That test's message, or why there is no verdict.
        ran: Number of tests that ran.
    """

    status: MutantStatus
    how: str = ""
    test: str = ""
    message: str = ""
    ran: int = 0


_COMPLAINTS = ("Kernel panic", "BUG:", "Oops:", "general protection fault", "WARNING:", "unable to handle")


def judge(reports: Sequence[dict[str, Any]], *, status: int, presence: str) -> TrialResult:
    """Judge a run of the tests on a mutant.

    Args:
        reports: The reports that :mod:`harness.mutants.inner_plugin` wrote, in order.
        status: pytest's exit status; 0 and 1 mean a complete run.
        presence: Name of the test that checks that the mutant is the running kernel.

    Returns:
        The verdict. A failure of the machine or the harness never kills a mutant.
    """
    ran = sum(report.get("when") == "call" for report in reports)
    for report in reports:
        if report["outcome"] != "failed":
            continue
        if report["when"] == "collect":
            return TrialResult(MutantStatus.UNKNOWN, test=report["test"], message=report["message"], ran=ran)
        troubles = [trouble for trouble in Trouble if trouble.value in report["troubles"]]
        if Trouble.INFRASTRUCTURE in troubles:
            # A kernel that dies before it is ready reports that on its console; the message has the console's end.
            fatal = any(complaint in report["message"] for complaint in _COMPLAINTS) and "boot" in report["message"]
            return TrialResult(
                MutantStatus.KILLED if fatal else MutantStatus.UNKNOWN,
                how=Trouble.CRASHED.value if fatal else "",
                test=report["test"],
                message=report["message"],
                ran=ran,
            )
        unknown = "assertion" if report["when"] == "call" else "error"
        how = troubles[0].value if troubles else unknown
        if report["test"].partition("[")[0].endswith(presence) and how in ("assertion", "error"):
            return TrialResult(
                MutantStatus.UNKNOWN, message="another kernel was booted than the one that was built", ran=ran
            )
        message = (
            "; ".join([*report["leaks"], *report["faults"]]) if how in (Trouble.LEAK.value, Trouble.FAULT.value) else ""
        )
        return TrialResult(MutantStatus.KILLED, how, report["test"], message or report["message"], ran)
    if status != 0:
        return TrialResult(
            MutantStatus.UNKNOWN, message=f"pytest ended with status {status} and reported no failure", ran=ran
        )
    if not any(
        report["test"].partition("[")[0].endswith(presence) and report["outcome"] == "passed" for report in reports
    ):
        return TrialResult(MutantStatus.UNKNOWN, message="no test found out which kernel was running", ran=ran)
    return TrialResult(MutantStatus.SURVIVED, ran=ran)
