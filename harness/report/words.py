"""Text about a complete record, for all forms of a report.

Pure.
"""

from __future__ import annotations

from harness.report.matrix import Matrix
from harness.results.merge import missing_shards
from harness.results.types import RunRecord


def counted(number: int, noun: str) -> str:
    """Return a number and a noun: "1 kernel", "2 kernels"."""
    return f"{number} {noun}" + ("s" if number != 1 else "")


def summary_of(record: RunRecord, matrix: Matrix) -> str:
    """Return one line about the content of the record."""
    words = [counted(len(matrix.rows), "behaviour"), counted(len(matrix.kernels), "kernel")]
    words.append(counted(len(record.runs), "run"))
    if record.runs:
        words.append(f"begun {record.runs[0].started}")
    how = sorted({run.accelerator for run in record.runs if run.accelerator})
    if how:
        words.append("under " + " and ".join(how))
    return ", ".join(words)


def warnings_of(record: RunRecord) -> list[str]:
    """Return remarks that limit the value of the comparison."""
    found = [] if record.runs else ["Nothing was run."]
    found += [
        f"Not complete: run {run.id} on {run.host.name} did not come to its own end."
        for run in record.runs
        if not run.complete
    ]
    if record.not_run:
        found.append(f"Tests that were to run and did not: {len(record.not_run)}.")
    missing = missing_shards(record.runs)
    if missing:
        found.append(f"Shards are missing: {', '.join(missing)}.")
    found += [
        f"Of run {run.id} not all could be recorded: {counted(len(run.problems), 'remark')} at its end."
        for run in record.runs
        if run.problems
    ]
    return found
