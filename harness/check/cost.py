"""What the verification of a program costs: read from the verifier's counts, compared with a budget, as veristat's CSV.

Pure.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.check.results import Author, Kind, Result, Verdict
from harness.errors import UsageError
from harness.results.cost import FIGURES, rises

_COUNTS = re.compile(
    r"^processed (?P<insns>\d+) insns .* total_states (?P<states>\d+) peak_states (?P<peak>\d+)", re.MULTILINE
)
_TIME = re.compile(r"^verification time (\d+) usec", re.MULTILINE)
_STACK = re.compile(r"^stack depth ([\d+]+)", re.MULTILINE)


def figures_of(log: str, info: Mapping[str, Any]) -> dict[str, int]:
    """Return what a loaded program has cost; a figure that this kernel does not report is left out.

    Args:
        log: The verifier's log with BPF_LOG_STATS (5.2 and later).
        info: What the kernel reports of the program.
    """
    found: dict[str, int] = {}
    if counts := _COUNTS.search(log):
        found |= {name: int(value) for name, value in counts.groupdict().items()}
    elif info.get("verified_insns"):
        found["insns"] = info["verified_insns"]
    if stack := _STACK.search(log):
        found["stack"] = sum(map(int, stack[1].split("+")))
    if taken := _TIME.search(log):
        found["usec"] = int(taken[1])
    for name, field in (("maps", "nr_map_ids"), ("xlated", "xlated_prog_len"), ("jited", "jited_prog_len")):
        if field in info:
            found[name] = info[field]
    return found


@dataclass(frozen=True)
class Budget:
    """The most that a program may cost.

    Attributes:
        figure: One of :data:`harness.results.cost.FIGURES`.
        limit: The largest value that is good.
    """

    figure: str
    limit: int


def parse_budget(text: str) -> Budget:
    """Read FIGURE=NUMBER, such as "insns=900000".

    Raises:
        UsageError: It has another form.
    """
    figure, _, value = text.partition("=")
    if figure not in FIGURES or not value.isdecimal():
        raise UsageError(
            f"{text!r} is not a budget",
            expected="FIGURE=NUMBER, such as insns=900000",
            hint="figures are " + ", ".join(f"{name} ({what})" for name, what in FIGURES.items()),
        )
    return Budget(figure, int(value))


def over_budget(cost: Mapping[str, int], budgets: Sequence[Budget]) -> str:
    """Return what a program costs more than it may, as a sentence; "" when it is within all budgets."""
    found = [
        f"{one.figure} is {cost[one.figure]}, the budget is {one.limit}"
        for one in budgets
        if cost.get(one.figure, 0) > one.limit
    ]
    return "; ".join(found)


# The columns of veristat's CSV, and where their values come from.
_COLUMNS = {
    "file_name": "",
    "prog_name": "",
    "verdict": "",
    "duration": "usec",
    "total_insns": "insns",
    "total_states": "states",
    "peak_states": "peak",
}


def require_one_kernel(labels: Sequence[str]) -> None:
    """Refuse kernels whose costs veristat's CSV cannot tell apart: more than one.

    Raises:
        UsageError: There are several.
    """
    if len(labels) > 1:
        raise UsageError(
            f"veristat's CSV is about one kernel, not {len(labels)}: {', '.join(labels)}",
            expected="one --kernel",
            hint="--format json has the costs on all kernels",
        )


def as_veristat(results: Sequence[Result]) -> str:
    """Return the programs' costs as the CSV that veristat writes and compares, without the last line's end.

    Raises:
        UsageError: The results are of several kernels, which the format does not tell apart.
    """
    require_one_kernel(list(dict.fromkeys(one.kernel for one in results)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in results:
        if one.kind is Kind.PROGRAM:
            cost = one.cost or {}
            figures = [str(cost.get(figure, "N/A")) for figure in _COLUMNS.values() if figure]
            writer.writerow([one.object, one.program, "success" if one.is_good else "failure", *figures])
    return text.getvalue().rstrip("\n")


def read_veristat(text: str, name: str) -> dict[tuple[str, str], dict[str, int]]:
    """Return the costs in a CSV of veristat's by object and program.

    Args:
        text: The file's content.
        name: What messages call it.

    Raises:
        UsageError: It is not such a file.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"file_name", "prog_name", "total_insns"} <= set(rows[0]):
        raise UsageError(
            f"{name} is not a CSV of veristat's",
            expected="columns file_name, prog_name and total_insns, as `veristat -o csv` writes them",
        )
    return {
        (row["file_name"], row["prog_name"]): {
            figure: int(row[column])
            for column, figure in _COLUMNS.items()
            if figure and (row.get(column) or "").isdecimal()
        }
        for row in rows
    }


def compared(
    results: Sequence[Result], before: Mapping[tuple[str, str], Mapping[str, int]], percent: float
) -> list[Result]:
    """Return the results; a program that costs more than before is over budget.

    Args:
        results: The results.
        before: What :func:`read_veristat` returned.
        percent: How much more is still good. The time is not compared: it depends on the machine.
    """
    found = []
    for one in results:
        old = before.get((one.object, one.program), {})
        more = rises(old, one.cost or {}, percent)
        if more and one.is_good:
            line = ", ".join(more)
            one = replace(one, verdict=Verdict.OVER_BUDGET, author=Author.HARNESS, by="harness", line=line)
        found.append(one)
    return found
