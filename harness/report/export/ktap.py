"""A run record as KTAP, the kernel's Test Anything Protocol (Documentation/dev-tools/ktap.rst).

Pure: a record in, lines out. One test for each kernel, and its tests below it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from harness.results.outcomes import Outcome
from harness.results.types import RecordedKernel, RecordedResult, RunRecord
from harness.util.printable import printable

_OK = (Outcome.PASSED, Outcome.XFAILED, Outcome.UNSUPPORTED)
"""Outcomes that are not failures."""

_DIRECTIVES = {
    Outcome.XFAILED: "XFAIL",
    Outcome.UNSUPPORTED: "SKIP",
    Outcome.HUNG: "TIMEOUT",
    Outcome.INFRASTRUCTURE: "ERROR",
}

_TOTALS = {
    Outcome.PASSED: "pass",
    Outcome.XFAILED: "xfail",
    Outcome.UNSUPPORTED: "skip",
    Outcome.INFRASTRUCTURE: "error",
}
"""The counter of each outcome at the end, as in kselftest; all other outcomes count as failed."""


def as_ktap(record: RunRecord) -> str:
    """Return the record as KTAP.

    A test that did not run is `not ok` with the directive ERROR; a test that is not for a kernel is skipped there. A
    kernel is `ok` when none of its tests is `not ok`.
    """
    lines = ["KTAP version 1", f"1..{len(record.kernels)}"]
    for number, kernel in enumerate(record.kernels, 1):
        tests, good = _tests(record, kernel)
        lines += [f"  {line}" for line in tests]
        lines.append(f"{'ok' if good else 'not ok'} {number} {_plain(kernel.label)}")
    return "\n".join([*lines, ""])


def _tests(record: RunRecord, kernel: RecordedKernel) -> tuple[list[str], bool]:
    results = [result for result in record.results if result.kernel == kernel.label]
    skipped = [one for one in record.left_out if one.kernel == kernel.label]
    missing = [one for one in record.not_run if one.kernel == kernel.label]
    lines = [
        "KTAP version 1",
        f"# Subtest: {_plain(kernel.label)}",
        *_said(f"kernel {kernel.version}, {kernel.release or 'never booted'}, {kernel.origin or kernel.key}"),
        f"1..{len(results) + len(skipped) + len(missing)}",
    ]
    totals = dict.fromkeys(("pass", "fail", "xfail", "xpass", "skip", "error"), 0)
    number = 0
    for number, result in enumerate(results, 1):
        totals[_TOTALS.get(result.outcome, "fail")] += 1
        lines += [*_details(result), _line(number, result)]
    for one in skipped:
        number += 1
        totals["skip"] += 1
        lines.append(f"ok {number} {_plain(one.test)} # SKIP it is for kernels {_plain(one.condition)}")
    for gone in missing:
        number += 1
        totals["error"] += 1
        lines.append(f"not ok {number} {_plain(gone.test)} # ERROR the run ended before it")
    lines.append("# Totals: " + " ".join(f"{name}:{count}" for name, count in totals.items()))
    return lines, not totals["fail"] and not totals["error"]


def _line(number: int, result: RecordedResult) -> str:
    head = f"{'ok' if result.outcome in _OK else 'not ok'} {number} {_plain(result.test)}"
    said = _plain(result.reason)
    words = " ".join(word for word in (_DIRECTIVES.get(result.outcome, ""), said) if word)
    return f"{head} # {words}" if words else head


def _details(result: RecordedResult) -> Iterator[str]:
    for one in result.observations:
        answer = f"{one.contract or one.sentence}: {json.dumps(one.observed)}"
        expected = f", expected {json.dumps(one.expected)} by {one.source}" if one.verdict == "differs" else ""
        yield from _said(f"{answer} ({one.verdict}{expected})")
    for leak in result.leaks:
        yield from _said(f"left behind: {leak.text}")
    for fault in result.faults:
        yield from _said(f"{fault.kind}: {fault.title}")
        yield from _said(fault.excerpt)
    yield from _said(result.failure)


def _said(text: str) -> Iterable[str]:
    """Return a text as diagnostic lines, which parsers do not take for results."""
    return (f"# {printable(line)}".rstrip() for line in text.splitlines())


def _plain(text: str) -> str:
    """Return a text for a description: one line, without the character that begins a directive."""
    return printable(" ".join(text.replace("#", "_").split()))
