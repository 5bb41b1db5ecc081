"""What became of a mutant: killed by which test and how, or not.

Pure: what pytest's reports said in, a verdict out. Imports the outcomes of tests.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.outcomes import Trouble


class Fate(enum.Enum):
    """What can become of a mutant."""

    KILLED = "killed"
    """A test failed, something leaked, the kernel complained, crashed or hung."""
    SURVIVED = "survived"
    """Every test passed."""
    SAME = "same code"
    """The compiler made the very same kernel of it: no test can tell."""
    TWIN = "twin"
    """The compiler made the same kernel of it as of another mutant, whose fate it shares; it does not count."""
    UNBUILT = "does not compile"
    """It does not count."""
    UNKNOWN = "no verdict"
    """The machine or the harness failed, again and again: this says nothing of the mutant."""


@dataclass(frozen=True)
class TrialResult:
    """What became of one run of the tests on a mutant.

    Attributes:
        fate: KILLED, SURVIVED or UNKNOWN.
        how: A value of :class:`harness.results.outcomes.Trouble`, "assertion" or "error" when it was killed.
        test: The test that found it.
        message: What that test said, or why there is no verdict.
        ran: How many tests ran.
    """

    fate: Fate
    how: str = ""
    test: str = ""
    message: str = ""
    ran: int = 0


_COMPLAINTS = ("Kernel panic", "BUG:", "Oops:", "general protection fault", "WARNING:", "unable to handle")


def judge(reports: Sequence[dict[str, Any]], *, status: int, presence: str) -> TrialResult:
    """Judge a run of the tests on a mutant.

    Args:
        reports: What :mod:`harness.mutants.inner_plugin` wrote, in order.
        status: pytest's exit status; 0 and 1 are those of a run that came to its end.
        presence: Name of the test that tells whether the mutant is what runs.

    Returns:
        The verdict. Trouble of the machine or the harness never kills.
    """
    ran = sum(report.get("when") == "call" for report in reports)
    for report in reports:
        if report["outcome"] != "failed":
            continue
        if report["when"] == "collect":
            return TrialResult(Fate.UNKNOWN, test=report["test"], message=report["message"], ran=ran)
        troubles = [trouble for trouble in Trouble if trouble.value in report["troubles"]]
        if Trouble.INFRASTRUCTURE in troubles:
            # A kernel that dies before it is ready says so on its console, of which the message has the end.
            fatal = any(complaint in report["message"] for complaint in _COMPLAINTS) and "boot" in report["message"]
            return TrialResult(
                Fate.KILLED if fatal else Fate.UNKNOWN,
                how=Trouble.CRASHED.value if fatal else "",
                test=report["test"],
                message=report["message"],
                ran=ran,
            )
        unknown = "assertion" if report["when"] == "call" else "error"
        how = troubles[0].value if troubles else unknown
        if report["test"].partition("[")[0].endswith(presence) and how in ("assertion", "error"):
            return TrialResult(Fate.UNKNOWN, message="another kernel was booted than the one that was built", ran=ran)
        message = (
            "; ".join([*report["leaks"], *report["faults"]]) if how in (Trouble.LEAK.value, Trouble.FAULT.value) else ""
        )
        return TrialResult(Fate.KILLED, how, report["test"], message or report["message"], ran)
    if status != 0:
        return TrialResult(Fate.UNKNOWN, message=f"pytest ended with status {status} and reported no failure", ran=ran)
    if not any(
        report["test"].partition("[")[0].endswith(presence) and report["outcome"] == "passed" for report in reports
    ):
        return TrialResult(Fate.UNKNOWN, message="no test found out which kernel was running", ran=ran)
    return TrialResult(Fate.SURVIVED, ran=ran)
