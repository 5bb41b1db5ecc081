"""The summary of contracts at the end of a run: counts for each kernel, and the names of contracts that did not hold.

Pure: what tests observed in, lines of text out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.results.types import Observation

EXPECTED, DIFFERS, OBSERVED, NOT_ASKED = "as expected", "differs", "observed", "not asked"
"""The verdicts."""

FOR_KERNELS = "it is for kernels "
"""Start of the note of a contract that is for other versions."""

_COLUMNS = (EXPECTED, DIFFERS, OBSERVED, NOT_ASKED)
_STYLES = {EXPECTED: "green", DIFFERS: "bold red", OBSERVED: "yellow"}


def summary(
    observations: Mapping[str, Sequence[Observation]], *, width: int | None = None, colour: bool = False
) -> list[str]:
    """Return the lines of the summary; none when no contract was observed.

    Args:
        observations: Observations by the label of the kernel.
        width: As for :func:`harness.util.tables.lines`.
        colour: As there.
    """
    found = {kernel: _contracts(seen) for kernel, seen in observations.items()}
    found = {kernel: seen for kernel, seen in found.items() if seen}
    if not found:
        return []
    lines = _table(found, width=width, colour=colour)
    for title, verdict in (("not as expected", DIFFERS), ("nothing known of this kernel", OBSERVED)):
        lines += _section(title, _grouped(found, verdict))
    lines += _section("version and probe disagree", _notes(found, (EXPECTED, DIFFERS)))
    lines += _section("on a vendor kernel, other than its version promises", _on_vendor_kernels(found))
    return lines + _section("not asked", _not_asked(found))


def _notes(found: Mapping[str, Sequence[Observation]], verdicts: Sequence[str]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for kernel, seen in found.items():
        for one in seen:
            if one.note and one.verdict in verdicts:
                notes.setdefault(f"{one.contract}: {one.note}", []).append(kernel)
    return notes


def _on_vendor_kernels(found: Mapping[str, Sequence[Observation]]) -> dict[str, list[str]]:
    """Return the answers that a mainline release of the same version would not give."""
    lines: dict[str, list[str]] = {}
    for kernel, seen in found.items():
        for one in seen:
            if one.verdict == OBSERVED and one.note and one.source and one.observed != one.expected:
                lines.setdefault(f"{one.contract}: {_plain(one.observed)}; {one.note}", []).append(kernel)
    return dict(sorted(lines.items()))


def _contracts(seen: Iterable[Observation]) -> list[Observation]:
    return [one for one in seen if one.contract]


def _table(found: Mapping[str, Sequence[Observation]], *, width: int | None, colour: bool) -> list[str]:
    from harness.util import tables  # here, as a run without tests of kernels loads as little as it can

    rows: list[list[tables.Cell]] = []
    for kernel, seen in found.items():
        counts: Counter[str] = Counter(one.verdict for one in seen)
        rows.append([kernel, *((str(counts[one]), _STYLES.get(one, "") if counts[one] else "") for one in _COLUMNS)])
    return tables.lines(rows, header=("kernel", *_COLUMNS), right=_COLUMNS, width=width, colour=colour)


def _grouped(found: Mapping[str, Sequence[Observation]], verdict: str) -> dict[str, list[str]]:
    """Return the kernels by observation, in the contracts' order."""
    groups: dict[str, list[str]] = {}
    for kernel, seen in found.items():
        for one in seen:
            if one.verdict == verdict and not (verdict == OBSERVED and one.note):
                line = f"{one.contract}: {_shown(one)}"
                groups.setdefault(line, []).append(kernel)
    return dict(sorted(groups.items()))


def _shown(one: Observation) -> str:
    if one.verdict == DIFFERS:
        return f"{_plain(one.observed)}, expected {_plain(one.expected)}"
    return _plain(one.observed)


def _not_asked(found: Mapping[str, Sequence[Observation]]) -> dict[str, list[str]]:
    """Return the kernels by the number of contracts that were not asked, with the reason."""
    groups: dict[str, list[str]] = {}
    for kernel, seen in found.items():
        reasons = Counter(one.note for one in seen if one.verdict == NOT_ASKED)
        others = [reason for reason in reasons if reason.startswith(FOR_KERNELS)]
        if others:
            groups.setdefault(f"{sum(map(reasons.pop, others))}: they are for other versions", []).append(kernel)
        for reason, count in reasons.items():
            groups.setdefault(f"{count}: {reason}", []).append(kernel)
    return dict(sorted(groups.items(), key=lambda one: one[0].partition(" ")[2]))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _section(title: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    if not groups:
        return []
    return ["", f"{title}:", *(f"  {line} ({', '.join(kernels)})" for line, kernels in groups.items())]
