"""A comparison as text for a terminal, Markdown for a pull request, JSON for programs.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.report.compare.changes import Change, Comparison, Difference, Pair, by_change, is_regression
from harness.report.matrix import Cell
from harness.report.text import code, escaped
from harness.results.types import RecordedKernel, RunRecord

FORMAT = "kernel-harness comparison"
VERSION = 1

MARKDOWN_LIMIT = 60_000
"""Characters; GitHub's limit for a comment is 65536."""

TITLES = {
    Change.BROKEN: ("broken", "✗"),
    Change.FAILURE: ("fail in another way", "✗"),
    Change.OBSERVATION: ("changed observation", "≠"),
    Change.UNSUPPORTED: ("newly unsupported", "-"),
    Change.COSTLIER: ("cost more to verify", "▲"),
    Change.SLOWER: ("slower", "▲"),
    Change.LOST: ("no verdict any more", "?"),
    Change.GONE: ("gone", "-"),
    Change.FIXED: ("fixed", "✓"),
    Change.SUPPORTED: ("newly supported", "✓"),
    Change.CHEAPER: ("cost less to verify", "▼"),
    Change.FASTER: ("faster", "▼"),
    Change.REGAINED: ("a verdict again", "✓"),
    Change.NEW: ("new", "+"),
}
"""Title and sign of each kind of change."""


def summary(comparison: Comparison) -> str:
    """Return a one-line summary of the changes."""
    counts = [f"{comparison.count([change])} {TITLES[change][0]}" for change in Change if comparison.count([change])]
    same = sum(pair.same for pair in comparison.pairs)
    still = sum(pair.still_bad for pair in comparison.pairs)
    return f"{', '.join(counts) or 'nothing changed'}; {same} the same" + (
        f", {still} of them failures" if still else ""
    )


def remarks(comparison: Comparison, old: RunRecord, new: RunRecord) -> list[str]:
    """Return remarks that limit the value of the comparison."""
    found = []
    for name, record in (("old", old), ("new", new)):
        if not record.complete:
            missing = f"; {len(record.not_run)} tests did not run" if record.not_run else ""
            found.append(f"The {name} record is not complete{missing}.")
    for name, kernels in (("old", comparison.only_old), ("new", comparison.only_new)):
        if kernels:
            found.append(f"Only in the {name} record: {', '.join(kernel.label for kernel in kernels)}.")
    return found


def _on(pairs: Sequence[Pair], comparison: Comparison) -> str:
    if len(pairs) == len(comparison.pairs) > 2:
        return f"all {len(pairs)} kernels"
    return ", ".join(pair.title for pair in pairs)


def lines(comparison: Comparison, old: RunRecord, new: RunRecord) -> list[tuple[str, Change | None]]:
    """Return the lines for a terminal, each with its change; None for other lines."""
    made: list[tuple[str, Change | None]] = [(line, None) for line in remarks(comparison, old, new)]
    for change, entries in by_change(comparison):
        title, sign = TITLES[change]
        made += [("", None), (f"{title}: {comparison.count([change])}", change)]
        for one, pairs in entries:
            made.append((f"  {sign} {one.title}", change))
            made.append((f"      {_on(pairs, comparison)}: {one.detail}", None))
    return [*made, ("", None), (summary(comparison), None)]


def as_markdown(comparison: Comparison, old: RunRecord, new: RunRecord, fail_on: Sequence[Change]) -> str:
    """Return the comparison as Markdown; changes that fail it are shown, the rest is folded."""
    regressed = is_regression(comparison, fail_on)
    kernels = ", ".join(pair.title for pair in comparison.pairs)
    head = [
        f"### {'❌' if regressed else '✅'} {escaped(summary(comparison))}",
        "",
        f"Kernels: {escaped(kernels)}",
        *(f"\n> {escaped(line)}" for line in remarks(comparison, old, new)),
    ]
    made = "\n".join(head) + "\n"
    cut = 0
    for change, entries in by_change(comparison):
        title, sign = TITLES[change]
        rows = [
            f"| {sign} {code(one.title)} | {escaped(_on(pairs, comparison))} | {escaped(one.detail)} |"
            for one, pairs in entries
        ]
        kept = []
        room = MARKDOWN_LIMIT - len(made) - 400
        for row in rows:
            room -= len(row) + 1
            if room < 0:
                break
            kept.append(row)
        cut += len(rows) - len(kept)
        if not kept:
            continue
        table = "\n".join(["| behaviour | kernels | |", "| --- | --- | --- |", *kept])
        if change in fail_on:
            made += f"\n#### {title}: {comparison.count([change])}\n\n{table}\n"
        else:
            heading = f"{title}: {comparison.count([change])}"
            made += f"\n<details><summary>{heading}</summary>\n\n{table}\n\n</details>\n"
    if cut:
        made += f"\n{cut} more lines are omitted here.\n"
    return made


def as_record(comparison: Comparison, old: RunRecord, new: RunRecord, fail_on: Sequence[Change]) -> dict[str, Any]:
    """Return the comparison as plain data for JSON."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "regression": is_regression(comparison, fail_on),
        "fail_on": [change.value for change in fail_on],
        "complete": {"old": old.complete, "new": new.complete},
        "summary": {change.value: comparison.count([change]) for change in Change},
        "only_old": [kernel.label for kernel in comparison.only_old],
        "only_new": [kernel.label for kernel in comparison.only_new],
        "pairs": [
            {
                "old": _kernel(pair.old),
                "new": _kernel(pair.new),
                "same": pair.same,
                "still_bad": pair.still_bad,
                "speed": pair.speed,
                "changes": [_difference(one) for one in pair.differences],
            }
            for pair in comparison.pairs
        ],
    }


def _kernel(kernel: RecordedKernel) -> dict[str, str]:
    return {"label": kernel.label, "version": kernel.version, "release": kernel.release, "digest": kernel.digest}


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "change": one.change.value,
        "test": one.test,
        "contract": one.contract,
        "detail": one.detail,
        "old": _cell(one.old),
        "new": _cell(one.new),
    }


def _cell(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    return {
        "outcome": cell.ending.value,
        "observed": cell.answers,
        "reason": cell.reason,
        "seconds": cell.result.call if cell.result is not None else None,
        **({"cost": cell.result.cost} if cell.result is not None and cell.result.cost else {}),
    }
