"""Selftests that are not run: the entries of `kernels/selftests.toml` and of the user's files."""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import expiring
from harness.errors import UsageError

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

    @property
    def subject(self) -> str:
        """What the entry is about."""
        return self.test


def load(files: Iterable[Path], today: dt.date) -> tuple[list[Denied], list[str]]:
    """Return the entries in force, the package's and those of files, and a line about each expired one.

    Args:
        files: The user's files.
        today: The day.

    Raises:
        UsageError: A file cannot be read or is malformed.
    """
    return expiring.load_entries(FILE, files, read_denied, today)


def read_denied(content: Mapping[str, Any], file: str) -> list[Denied]:
    """Return the entries `[[deny]]` of a file.

    Args:
        content: The content of the TOML file.
        file: Its name, for messages.

    Raises:
        UsageError: An entry is malformed, or lacks a test, kernels, a reason or an expiry date.
    """
    rows = expiring.rows(content, file, table="deny", what="tests to leave out", fields=_FIELDS)
    return [_entry(row, origin) for row, origin in rows]


def _entry(row: dict[str, Any], origin: str) -> Denied:
    for name, kind in _FIELDS.items():
        if type(row.get(name)) is not kind or not row[name]:
            raise UsageError(f"{origin} has no valid {name}", expected=expiring.expected_of(kind))
    expiring.require_condition(row, origin)
    return Denied(**row, origin=origin)


def denied(entries: Iterable[Denied], test: str, is_for: Callable[[str], bool]) -> Denied | None:
    """Return the entry because of which a test is not run; None where it is.

    Args:
        entries: The entries in force.
        test: TARGET:TEST.
        is_for: Returns whether a condition matches the kernel.
    """
    return next((one for one in entries if fnmatch.fnmatchcase(test, one.test) and is_for(one.kernels)), None)
