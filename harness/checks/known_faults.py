"""Known faults and expected faults: these do not fail a test.

Known faults are data, `kernels/known-faults.toml` and a project's own files. Pure except for reading these.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import expiring
from harness.checks.faults import PANIC, SIGNS
from harness.errors import GuestEnded, GuestError, GuestHung, KernelCrashed, UsageError
from harness.results.types import Fault

ENDS: dict[type[GuestError], str] = {KernelCrashed: "panic", GuestHung: "hung", GuestEnded: "ended"}
"""What the end of a guest is as a fault, by the error that a test gets; its kernel need not have logged it."""

KINDS = tuple(dict.fromkeys([*(sign.kind for sign in SIGNS), "taint", *ENDS.values()]))
"""The kinds of faults."""


@dataclass(frozen=True)
class ExpectedFault:
    """A fault that a test causes on purpose.

    Attributes:
        kind: One of :data:`KINDS`.
        title: Regular expression that its title contains; "" for any.
        reason: The reason.
    """

    kind: str
    title: str
    reason: str

    def matches(self, fault: Fault) -> bool:
        """Return whether a fault matches; a panic that another fault led to is in that one's report."""
        panics = PANIC.findall(fault.excerpt) if self.kind == ENDS[KernelCrashed] else []
        titles = [fault.title, *panics] if panics or fault.kind == self.kind else []
        return any(re.search(self.title, title) is not None for title in titles)


def expect(kind: object, title: object, reason: object) -> ExpectedFault:
    """Return the expected fault of a marker.

    Raises:
        UsageError: The kind is unknown, the title is not a regular expression, or there is no reason.
    """
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is not a kind of fault", expected=f"one of {', '.join(KINDS)}")
    if not isinstance(reason, str) or not reason.strip():
        raise UsageError(f"the expected fault {kind} has no reason", expected="reason=... in words")
    if not isinstance(title, str):
        raise UsageError(f"{title!r} is not a title of a fault", expected="title=... with a regular expression")
    _regular(title, "the title of an expected fault")
    return ExpectedFault(str(kind), title, reason)


def _regular(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{where} is not a regular expression: {error}", expected=f"a regular expression, not {pattern!r}"
        ) from None


@dataclass(frozen=True)
class KnownFault:
    """A known fault, which does not fail tests until a date.

    Attributes:
        kind: One of :data:`KINDS`.
        title: Regular expression that its title contains; "" for any.
        fingerprint: Its complete fingerprint; "" for any.
        kernels: The kernels that have it, as in the marker `kernel` (">=5.10,<6.2").
        reason: Why it does not fail tests.
        expires: The last day on which the entry has an effect.
        origin: The file and the number of the entry.
    """

    kind: str
    title: str
    fingerprint: str
    kernels: str
    reason: str
    expires: dt.date
    origin: str

    @property
    def subject(self) -> str:
        """What the entry is about."""
        return self.kind

    def matches(self, fault: Fault) -> bool:
        """Return whether a fault matches, on any kernel."""
        return (
            fault.kind == self.kind
            and self.fingerprint in ("", fault.fingerprint)
            and re.search(self.title, fault.title) is not None
        )


_FIELDS = {"kind": str, "title": str, "fingerprint": str, "kernels": str, "reason": str, "expires": dt.date}


def read_known(content: Mapping[str, Any], file: str) -> list[KnownFault]:
    """Return the entries `[[fault]]` of a file.

    Args:
        content: The content of the TOML file.
        file: Its name, for messages.

    Raises:
        UsageError: An entry is malformed, or lacks a fault, kernels, a reason or an expiry date.
    """
    rows = expiring.rows(content, file, table="fault", what="known faults", fields=_FIELDS)
    return [_known(row, origin) for row, origin in rows]


def _known(row: dict[str, Any], origin: str) -> KnownFault:
    for name, kind in _FIELDS.items():
        if name in row and type(row[name]) is not kind:
            raise UsageError(f"{origin}: {name} is {row[name]!r}", expected=expiring.expected_of(kind))
    for name, why in (("kind", "what it is"), ("kernels", "where"), ("reason", "why"), ("expires", "until when")):
        if not row.get(name):
            raise UsageError(
                f"{origin} does not say {why} it is known", expected=f"a field {name}", hint="or remove the entry"
            )
    if row["kind"] not in KINDS:
        raise UsageError(f"{origin}: {row['kind']!r} is not a kind of fault", expected=f"one of {', '.join(KINDS)}")
    if not (row.get("title") or row.get("fingerprint")):
        raise UsageError(f"{origin} would hide every {row['kind']}", expected="a field title or fingerprint")
    _regular(row.get("title", ""), f"{origin}: title")
    expiring.require_condition(row, origin)
    return KnownFault(
        row["kind"],
        row.get("title", ""),
        row.get("fingerprint", ""),
        row["kernels"],
        row["reason"],
        row["expires"],
        origin,
    )


def load(files: Iterable[Path]) -> tuple[list[KnownFault], list[str]]:
    """Return the valid known faults, the package's and those of files, and a line about each expired one.

    Args:
        files: The user's files.

    Raises:
        UsageError: A file cannot be read or is malformed.
    """
    return expiring.load_entries("known-faults.toml", files, read_known, expiring.today())


@dataclass(frozen=True)
class RepeatedFault:
    """A fault and its number of occurrences; the excerpt is from the first."""

    fault: Fault
    times: int


@dataclass(frozen=True)
class SortedFaults:
    """Faults, sorted.

    Attributes:
        counted: Faults that fail the test.
        known: Known faults, each with its entry.
        missing: Expected faults that did not appear.
    """

    counted: list[RepeatedFault]
    known: list[tuple[RepeatedFault, KnownFault]]
    missing: list[ExpectedFault]


def sort_out(
    faults: Sequence[Fault],
    *,
    expected: Sequence[ExpectedFault] = (),
    known: Sequence[KnownFault] = (),
    is_for: Callable[[str], bool] = lambda _condition: True,
) -> SortedFaults:
    """Sort faults into those that fail a test and those that do not.

    Args:
        faults: The faults that were found.
        expected: The faults that the test expects.
        known: The entries in force.
        is_for: Returns whether a condition matches the kernel.
    """
    times: dict[str, int] = {}
    first: dict[str, Fault] = {}
    for fault in faults:
        if not any(one.matches(fault) for one in expected):
            first.setdefault(fault.fingerprint, fault)
            times[fault.fingerprint] = times.get(fault.fingerprint, 0) + 1
    counted, excused = [], []
    for fingerprint, fault in first.items():
        repeated = RepeatedFault(fault, times[fingerprint])
        entry = next((entry for entry in known if entry.matches(fault) and is_for(entry.kernels)), None)
        if entry is None:
            counted.append(repeated)
        else:
            excused.append((repeated, entry))
    missing = [one for one in expected if not any(one.matches(fault) for fault in faults)]
    return SortedFaults(counted, excused, missing)
