"""What a check finds. Pure; imports nothing of the package."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass


class Status(enum.Enum):
    """What a check came to."""

    GOOD = "good"
    WRONG = "wrong"
    """Something is missing, too old or not allowed."""
    UNKNOWN = "unknown"
    """The check itself failed."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: What was looked at; stable.
        status: What came of it.
        what: One clause for people: what is there, or what is wrong with it.
        mend: The command, or what else mends it; "" where nothing is wrong.
        features: The features in the table of needs that it matters to.
    """

    name: str
    status: Status
    what: str
    mend: str = ""
    features: tuple[str, ...] = ("run",)

    def stops(self, asked: Collection[str]) -> bool:
        """Tell whether one of these features cannot be used for it."""
        return self.status is not Status.GOOD and not set(asked).isdisjoint(self.features)


def as_data(findings: Collection[Finding], asked: Collection[str]) -> dict[str, object]:
    """Return findings as plain data for JSON.

    Args:
        findings: What was found.
        asked: The features that were asked for.
    """
    return {
        "format": 1,
        "asked": sorted(asked),
        "ready": not any(finding.stops(asked) for finding in findings),
        "findings": [
            {
                "name": finding.name,
                "status": finding.status.value,
                "what": finding.what,
                "mend": finding.mend,
                "features": list(finding.features),
                "stops": finding.stops(asked),
            }
            for finding in findings
        ],
    }


def as_text(findings: Collection[Finding], asked: Collection[str], *, marks: str = "✓✗-") -> list[str]:
    """Return a line for each finding, and one that sums up.

    Args:
        findings: What was found.
        asked: The features that were asked for.
        marks: Three letters: for what is good, for what stops a feature that was asked for, for what stops another.
    """
    # By hand: rich, which draws other tables, may be the very package that is missing.
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        stops = finding.stops(asked)
        mark = marks[0] if finding.status is Status.GOOD else marks[1] if stops else marks[2]
        only = f" (for {', '.join(finding.features)})" if mark == marks[2] else ""
        mend = f": {finding.mend}" if finding.mend else ""
        lines.append(f"{mark} {finding.name:<{width}}  {finding.what}{only}{mend}")
    stopping = [finding.name for finding in findings if finding.stops(asked)]
    wanted = ", ".join(sorted(asked))
    return [*lines, f"not ready for {wanted}: {', '.join(stopping)}" if stopping else f"ready for {wanted}"]
