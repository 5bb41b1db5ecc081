"""Findings of the checks. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass


class Status(enum.Enum):
    """The result of a check."""

    GOOD = "good"
    WRONG = "wrong"
    """Something is missing, too old or not allowed."""
    UNKNOWN = "unknown"
    """The check itself failed."""


@dataclass(frozen=True)
class Finding:
    """The finding of a check.

    Attributes:
        name: The thing that was checked; stable.
        status: The result.
        what: One clause for the user: what was found, or what is wrong.
        mend: The command or other step that fixes it; "" when nothing is wrong.
        features: The features in the table of needs that depend on it.
    """

    name: str
    status: Status
    what: str
    mend: str = ""
    features: tuple[str, ...] = ("run",)

    def stops(self, asked: Collection[str]) -> bool:
        """Return whether it prevents the use of one of these features."""
        return self.status is not Status.GOOD and not set(asked).isdisjoint(self.features)


def as_data(findings: Collection[Finding], asked: Collection[str]) -> dict[str, object]:
    """Return findings as plain data for JSON.

    Args:
        findings: The findings.
        asked: The requested features.
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
    """Return a line for each finding, and a summary line.

    Args:
        findings: The findings.
        asked: The requested features.
        marks: Three characters: for good, for a problem of a requested feature, for a problem of another feature.
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
