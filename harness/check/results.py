"""The results of a check: what a user's loader meets on one kernel, and who says so.

Pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from harness.util.errnos import errno_name


class Verdict(Enum):
    """The outcome of one row on one kernel."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    """The user's loader ended with a status other than 0."""
    KILLED = "killed"
    """The process was killed by a signal."""
    HUNG = "took too long"
    OVER_BUDGET = "over budget"
    """It was taken, and costs more than the user allows."""
    FAULTED = "kernel fault"
    """The kernel reported a fault (WARN, oops, ...) while it was tried."""
    CRASHED = "crashed"
    LOST = "lost"
    """The kernel was unavailable or could not run; this says nothing about the object."""


class Author(Enum):
    """Who gave a verdict that is not "ok"."""

    KERNEL = "kernel"
    LIBBPF = "libbpf"
    """The library, by itself: it did not ask the kernel."""
    LOADER = "loader"
    """The user's own loader."""
    HARNESS = "harness"
    """This program or the guest that it made, for example because of its memory."""


class Kind(Enum):
    """What a row is about."""

    OBJECT = "object"
    """The object as a whole, as a loader loads it."""
    MAPS = "maps"
    PROGRAM = "program"
    LOADER = "loader"


MAPS_ROW = "maps"


@dataclass(frozen=True)
class Result:
    """The result of one row on one kernel.

    Attributes:
        kernel: The kernel's label.
        object: The object's file name.
        program: What the row is called: the program's name, "maps", the object's file name, or the loader's name.
        kind: What the row is about.
        verdict: The outcome.
        step: The last step: "start", "open", "prepare", "load", "attach" or "run".
        errno: The error number, 0 for none.
        author: Who gave the verdict; None for "ok".
        by: The author with its version: "libbpf v1.1".
        line: The reason in one line; "" for none.
        hint: What the user can do, "" for nothing.
        message: The verifier's log, libbpf's messages or a loader's output.
        faults: Titles of the faults that the kernel reported during the trial.
        cost: What verification cost, by the names of :data:`harness.results.cost.FIGURES`; None when not measured.
    """

    kernel: str
    object: str
    program: str
    kind: Kind
    verdict: Verdict
    step: str
    errno: int = 0
    author: Author | None = None
    by: str = ""
    line: str = ""
    hint: str = ""
    message: str = ""
    faults: tuple[str, ...] = ()
    cost: dict[str, int] | None = None

    @property
    def cell(self) -> str:
        """The result in one word: the kernel's errno, or who refused when that was not the kernel."""
        if self.verdict is not Verdict.REFUSED:
            return str(self.verdict.value)
        if self.author is not None and self.author is not Author.KERNEL:
            return str(self.author.value)
        return errno_name(self.errno) if self.errno else str(self.verdict.value)

    @property
    def is_good(self) -> bool:
        """Whether this result leaves the exit status 0."""
        return self.verdict is Verdict.OK

    @property
    def reason(self) -> str:
        """Who said what at which step, in one line; for "ok" only what there is to note."""
        if self.verdict is Verdict.OK:
            return self.line
        what = errno_name(self.errno) if self.verdict is Verdict.REFUSED and self.errno else self.verdict.value
        by = f" by {self.by.replace('kernel', 'the kernel')}" if self.verdict is Verdict.REFUSED else ""
        said = f"{what} at {self.step}{by}" + (f": {self.line}" if self.line else "")
        return f"{said} ({self.hint})" if self.hint else said

    def record(self) -> dict[str, Any]:
        """Return it as plain data for JSON, in the form of harness/check/check-1.schema.json."""
        return {
            **asdict(self),
            "kind": self.kind.value,
            "verdict": self.verdict.value,
            "author": self.author.value if self.author is not None else None,
            "errno_name": errno_name(self.errno) if self.errno else "",
            "faults": list(self.faults),
        }
