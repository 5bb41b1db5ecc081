"""Lists of exceptions, each with its reason and an expiry date: faults that are known, tests that are not run.

They are data, the package's own list in `kernels/` and a user's files. An expired entry has no effect and is listed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.errors import SelectorError, UsageError
from harness.kernel import selector
from harness.util import data


class Expiring(Protocol):
    """An entry of such a list."""

    @property
    def subject(self) -> str:
        """What it is about."""

    @property
    def expires(self) -> dt.date:
        """The last day on which it has an effect."""

    @property
    def origin(self) -> str:
        """The file and the number of the entry."""


Entry = TypeVar("Entry", bound=Expiring)


def today() -> dt.date:
    """Return the day by which entries expire, in UTC."""
    return dt.datetime.now(tz=dt.timezone.utc).date()


def load_entries(
    name: str, files: Iterable[Path], read: Callable[[Mapping[str, Any], str], list[Entry]], day: dt.date
) -> tuple[list[Entry], list[str]]:
    """Return the entries in force, the package's and those of files, and a line about each expired one.

    Args:
        name: The package's own list in `kernels/`.
        files: The user's files.
        read: Returns the entries of a file, from its content and its name for messages.
        day: The day.

    Raises:
        UsageError: A file cannot be read or is malformed.
    """
    entries = read(data.read_toml("kernels", name), f"kernels/{name}")
    for path in files:
        entries += read(data.read_user_toml(path), str(path))
    return in_force(entries, day)


def in_force(entries: Iterable[Entry], day: dt.date) -> tuple[list[Entry], list[str]]:
    """Return the entries that have not expired, and a line about each expired entry."""
    kept, lines = [], []
    for entry in entries:
        if entry.expires >= day:
            kept.append(entry)
        else:
            lines.append(f"{entry.origin} ({entry.subject}) expired on {entry.expires} and has no effect")
    return kept, lines


def rows(
    content: Mapping[str, Any], file: str, *, table: str, what: str, fields: Mapping[str, type]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each entry of a file with its origin; the values are not checked.

    Args:
        content: The content of the TOML file.
        file: Its name, for messages.
        table: What the entries are called.
        what: What the file may contain, for messages.
        fields: The fields that an entry may have.

    Raises:
        UsageError: There is something else in the file or in an entry.
    """
    found = content.get(table, [])
    if set(content) - {table} or not isinstance(found, list):
        raise UsageError(f"{file} contains more than {what}", expected=f"entries [[{table}]] and nothing else")
    for number, row in enumerate(found, 1):
        origin = f"{file}, entry {number}"
        if not isinstance(row, dict) or set(row) - set(fields):
            raise UsageError(f"{origin} has unknown fields", expected=f"only {', '.join(fields)}")
        yield row, origin


def expected_of(kind: type) -> str:
    """Return what a message expects of a field of a type."""
    return "a day such as 2027-01-31" if kind is dt.date else "a text"


def require_condition(row: Mapping[str, Any], origin: str) -> None:
    """Check the field `kernels`, a condition as the marker `kernel` takes it.

    Raises:
        UsageError: It is not one.
    """
    try:
        selector.parse_condition(row["kernels"])
    except SelectorError as error:
        raise UsageError(f"{origin}: kernels: {error.what}", expected=error.expected) from None
