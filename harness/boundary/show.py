"""The boundaries that were found, for people and as plain data."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from harness.boundary.bisect import Bisected
from harness.boundary.changes import upstream
from harness.boundary.releases import Searched
from harness.boundary.search import ReleaseAnswer
from harness.kernel.changelog import ChangelogEntry
from harness.kernel.types import Choice
from harness.util import tables

_LINES = 8
"""Lines of a changelog that are printed without --all-changes."""


def _name(choice: Choice) -> str:
    return f"{choice.version} ({choice.provider} {choice.key})"


def as_text(searched: Searched, *, every: bool) -> list[str]:
    """Return the boundaries as lines for people.

    Args:
        searched: What was found.
        every: Whether to name every BPF change of a changelog, or the likeliest ones.
    """
    choices, readings = searched.choices, searched.boundaries.readings
    lines: list[str] = []
    for test, one in sorted(searched.boundaries.found.items()):
        lines += [*([""] if lines else []), test, *_stretches(choices, one)]
        lines += _gaps(choices, one)
        for flip in one.flips:
            last, first = choices[flip.last], choices[flip.first]
            lines += ["", f"  changed between {_name(last)}", f"              and {_name(first)}"]
            lines.append(f"    {flip.before.text} -> {flip.after.text}")
            lines += [f"    {line}" for line in _wrapped(flip.after.reason or flip.before.reason)]
            if last.flavour != first.flavour:
                lines.append(f"    Their configurations differ too: {last.flavour} and {first.flavour}.")
            if flip.without_answer:
                between = [f"{choices[at].label}: {readings[at].why(test)}" for at in flip.without_answer]
                lines += ["    No answer from those between:", *(f"      {line}" for line in between)]
            lines += [f"    {line}" for line in _changelog(*searched.changes[flip.last, flip.first], every=every)]
            if where := upstream(last, first):
                lines.append(f"    upstream: {where}")
        if not one.flips:
            lines.append("  no boundary was found")
    return [*lines, *([""] if lines else []), _count(searched)]


def _stretches(choices: Sequence[Choice], one: Bisected[ReleaseAnswer]) -> list[str]:
    """Return a line for each run of releases that answer alike."""
    answered = [(position, answer) for position, answer in one.answers.items() if answer is not None]
    rows: list[tuple[int, int, ReleaseAnswer]] = []
    for position, answer in answered:
        if rows and rows[-1][2] == answer:
            rows[-1] = (rows[-1][0], position, answer)
        else:
            rows.append((position, position, answer))
    spans = [" to ".join(dict.fromkeys((choices[a].label, choices[b].label))) for a, b, _ in rows]
    return [f"  {line}" for line in tables.lines([(span, row[2].text) for span, row in zip(spans, rows, strict=True)])]


def _gaps(choices: Sequence[Choice], one: Bisected[ReleaseAnswer]) -> list[str]:
    unseen = sum(1 for position in range(len(choices)) if position not in one.answers)
    if not unseen:
        return []
    return [
        f"  {unseen} of {len(choices)} releases were not run: those on either side answer alike, and a change there",
        "  and back again would not have been seen (--exhaustive runs them)",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110)


def _changelog(count: int, entries: Sequence[ChangelogEntry], note: str, *, every: bool) -> list[str]:
    if note:
        return [note]
    if not entries:
        return [f"the package's changelog names {count} changes between them, none of BPF"]
    order = ", the likeliest first" if len(entries) > 1 else ""
    lines = [f"of {count} changes in the package's changelog {len(entries)} concern BPF{order}:"]
    shown = entries if every else entries[:_LINES]
    lines += [f"  {entry.revision}  {textwrap.shorten(entry.text, 150, placeholder=' ...')}" for entry in shown]
    if len(shown) < len(entries):
        lines.append(f"  and {len(entries) - len(shown)} more (--all-changes)")
    return lines


def _count(searched: Searched) -> str:
    known = searched.known
    run = [position for position in searched.boundaries.readings if position not in known]
    of_records = f"; {len(known)} were known from records" if known else ""
    return f"{len(searched.choices)} releases: {len(run)} were run{of_records}"


def as_data(test: str, searched: Searched) -> dict[str, Any]:
    """Return the boundaries as plain data for JSON.

    Args:
        test: What was asked.
        searched: What was found.
    """
    choices, found, known = searched.choices, searched.boundaries, searched.known

    def kernel(position: int) -> dict[str, str]:
        one = choices[position]
        return {"label": one.label, "version": str(one.version), "provider": one.provider, "key": one.key}

    def answer(one: ReleaseAnswer) -> dict[str, Any]:
        return {"outcome": one.outcome, "observed": [json.loads(text) for text in one.observed], "reason": one.reason}

    run = [position for position in found.readings if position not in known]
    return {
        "test": test,
        "releases": [kernel(position) for position in range(len(choices))],
        "run": [choices[position].label for position in run],
        "known": [choices[position].label for position in sorted(known)],
        "silent": {
            choices[position].label: reading.silent
            for position, reading in sorted(found.readings.items())
            if reading.silent
        },
        "tests": [
            {
                "test": name,
                "answers": {
                    choices[position].label: answer(one) for position, one in result.answers.items() if one is not None
                },
                "boundaries": [
                    {
                        "last": kernel(flip.last),
                        "first": kernel(flip.first),
                        "before": answer(flip.before),
                        "after": answer(flip.after),
                        "without_answer": [choices[position].label for position in flip.without_answer],
                        "changes": [
                            {"revision": entry.revision, "text": entry.text}
                            for entry in searched.changes[flip.last, flip.first][1]
                        ],
                        "upstream": upstream(choices[flip.last], choices[flip.first]),
                    }
                    for flip in result.flips
                ],
                "assumed_alike": [[choices[one].label for one in pair] for pair in result.assumed],
            }
            for name, result in sorted(found.found.items())
        ],
    }
