"""Selftests that are not run: the entries of `kernels/selftests.toml` and of the user's files."""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SelectorError, UsageError
from harness.kernel import selector
from harness.util import data

FILE = "selftests.toml"
_FIELDS = {"test": str, "kernels": str, "reason": str, "expires": dt.date}


@dataclass(frozen=True)
class Denied:
    """A test that is not run until a date.

    Attributes:
        test: TARGET:TEST, or a pattern such as timers:*.
        kernels: The kernels on which it is not, as in the marker `kernel` (">=5.10,<6.2").
        reason: Why.
        expires: The last day on which the entry has an effect.
        origin: The file and the number of the entry.
    """

    test: str
    kernels: str
    reason: str
    expires: dt.date
    origin: str


def load(files: Iterable[Path], today: dt.date) -> tuple[list[Denied], list[str]]:
    """Return the entries in force, the package's and those of files, and a line about each expired one.

    Args:
        files: The user's files.
        today: The day.

    Raises:
        UsageError: A file cannot be read or is malformed.
    """
    entries = read_denied(data.read_toml("kernels", FILE), f"kernels/{FILE}")
    for path in files:
        entries += read_denied(data.read_user_toml(path), str(path))
    kept = [one for one in entries if one.expires >= today]
    gone = [one for one in entries if one.expires < today]
    return kept, [f"{one.origin} ({one.test}) expired on {one.expires} and has no effect" for one in gone]


def read_denied(content: Mapping[str, Any], file: str) -> list[Denied]:
    """Return the entries `[[deny]]` of a file.

    Args:
        content: The content of the TOML file.
        file: Its name, for messages.

    Raises:
        UsageError: An entry is malformed, or lacks a test, kernels, a reason or an expiry date.
    """
    rows = content.get("deny", [])
    if set(content) - {"deny"} or not isinstance(rows, list):
        raise UsageError(f"{file} contains more than tests to leave out", expected="entries [[deny]] and nothing else")
    return [_entry(row, f"{file}, entry {number}") for number, row in enumerate(rows, 1)]


def _entry(row: object, origin: str) -> Denied:
    if not isinstance(row, dict) or set(row) - set(_FIELDS):
        raise UsageError(f"{origin} has unknown fields", expected=f"only {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if type(row.get(name)) is not kind or not row[name]:
            wanted = "a day such as 2027-01-31" if kind is dt.date else "a text"
            raise UsageError(f"{origin} has no valid {name}", expected=wanted)
    try:
        selector.parse_condition(row["kernels"])
    except SelectorError as error:
        raise UsageError(f"{origin}: kernels: {error.what}", expected=error.expected) from None
    return Denied(**row, origin=origin)


def denied(entries: Iterable[Denied], test: str, is_for: Callable[[str], bool]) -> Denied | None:
    """Return the entry because of which a test is not run; None where it is.

    Args:
        entries: The entries in force.
        test: TARGET:TEST.
        is_for: Returns whether a condition matches the kernel.
    """
    return next((one for one in entries if fnmatch.fnmatchcase(test, one.test) and is_for(one.kernels)), None)
