"""The results of an object's programs on several kernels: records, the most informative line of a log, and tables.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from harness.util import tables
from harness.util.errnos import errno_name


class Verdict(Enum):
    """The outcome of one program on one kernel."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    """The user's loader ended with a status other than 0."""
    CRASHED = "crashed"
    LOST = "lost"
    """The kernel was unavailable or could not run; this says nothing about the program."""


@dataclass(frozen=True)
class Result:
    """The result of one program on one kernel.

    Attributes:
        kernel: The kernel's label.
        program: The program's name, or the loader's.
        verdict: The outcome.
        step: The last step: "open", "prepare", "load", "attach" or "run".
        errno: The error number, 0 for none.
        message: The verifier's log, libbpf's messages or a loader's output.
    """

    kernel: str
    program: str
    verdict: Verdict
    step: str
    errno: int = 0
    message: str = ""

    @property
    def cell(self) -> str:
        """The result in one word."""
        if self.verdict is Verdict.REFUSED and self.errno:
            return errno_name(self.errno)
        return self.verdict.value


# The verifier prints the state of registers after instructions and on separate lines, in a form that depends on the
# kernel; the other lines are about the program.
_STATE = re.compile(
    r"^(\d+: )?(R\d|frame\d|from \d|last_idx|regs=|parent |propagating|mark_precise)|^(func#|live regs)"
)
_INSTRUCTION = re.compile(r"^(\d+): \([0-9a-f]{2}\) ([^;]*)")
_COUNTS = re.compile(r"^(processed \d+ insns|verification time|stack depth|insns_proces)")
# From 7.3 on, an explanation of many lines follows a refusal; the refusal itself comes before it.
_EXPLANATION = "Verification failed: "


def _telling(log: str) -> Iterator[str]:
    for raw in log.splitlines():
        line = raw.strip()
        if line.startswith(_EXPLANATION):
            return
        if not line or _COUNTS.match(line) or (_STATE.match(line) and " type=" not in line):
            continue
        match = _INSTRUCTION.match(line)
        yield f"{match[1]}: {match[2].strip()}" if match else line


def telling_line(log: str, accepted: str = "") -> str:
    """Return the most informative line of a refusal.

    Args:
        log: The verifier's log, or another message.
        accepted: The verifier's log of the same program on a kernel that accepts it, "" for none.

    Returns:
        The first line that the other log does not have; else libbpf's first line, or the verifier's last line.
    """
    lines = list(_telling(log))
    if accepted:
        known = set(_telling(accepted))
        for line in lines:
            if line not in known and not line.startswith(";"):
                return line
    library = [line for line in lines if line.startswith("libbpf: ")]
    if library:
        return library[0]  # the following lines are consequences
    spoken = [line for line in lines if not _INSTRUCTION.match(line) and not line.startswith(";")]
    return (spoken or lines or [""])[-1]


def difference(result: Result, others: Sequence[Result]) -> str:
    """Return the most informative line of a result, compared with the same program on a kernel that accepts it."""
    accepted = next(
        (
            other.message
            for other in others
            if other.program == result.program and other.verdict is Verdict.OK and other.message
        ),
        "",
    )
    return telling_line(result.message, accepted)


def _names(results: Sequence[Result]) -> tuple[list[str], list[str], dict[tuple[str, str], Result]]:
    kernels = list(dict.fromkeys(result.kernel for result in results))
    programs = list(dict.fromkeys(result.program for result in results))
    return kernels, programs, {(result.program, result.kernel): result for result in results}


def _remarks(results: Sequence[Result]) -> Iterator[tuple[Result, str]]:
    for result in results:
        if result.verdict is not Verdict.OK:
            yield result, difference(result, results)


_STYLES = {Verdict.OK: "green", Verdict.LOST: "yellow"}


def as_text(results: Sequence[Result], *, width: int | None = None, colour: bool | None = False) -> str:
    """Return a table with a line for each program and a column for each kernel, and below it why one was refused.

    Args:
        results: What is shown.
        width: As for :func:`harness.util.tables.lines`.
        colour: As there.
    """
    kernels, programs, found = _names(results)

    def cell(name: str, kernel: str) -> tables.Cell:
        one = found.get((name, kernel))
        return (one.cell, _STYLES.get(one.verdict, "bold red")) if one else "-"

    rows = [[name, *(cell(name, kernel) for kernel in kernels)] for name in programs]
    lines = tables.lines(rows, header=["", *kernels], width=width, colour=colour)
    remarks = [f"{one.program} on {one.kernel}: {one.cell} at {one.step}: {line}" for one, line in _remarks(results)]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def as_markdown(results: Sequence[Result]) -> str:
    """Return the same as a table in Markdown."""
    kernels, programs, found = _names(results)
    lines = [f"| program | {' | '.join(kernels)} |", f"|---|{'---|' * len(kernels)}"]
    for name in programs:
        cells = (found[name, kernel].cell if (name, kernel) in found else "-" for kernel in kernels)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    remarks = [
        f"- `{one.program}` on {one.kernel}: {one.cell} at {one.step}: `{line.replace('`', chr(39))}`"
        for one, line in _remarks(results)
    ]
    return "\n".join([*lines, *(["", *remarks] if remarks else [])])


def as_records(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return the same as plain data for JSON, with complete messages."""
    return [
        {
            **asdict(result),
            "verdict": result.verdict.value,
            "errno_name": errno_name(result.errno) if result.errno else "",
            "line": difference(result, results) if result.verdict is not Verdict.OK else "",
        }
        for result in results
    ]
