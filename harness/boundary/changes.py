"""What came between two releases: the changes that the package's changelog names, and where upstream lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.boundary.search import Boundaries
from harness.errors import HarnessError
from harness.kernel.catalog import Catalog
from harness.kernel.changelog import ChangelogEntry, between, relevant
from harness.kernel.types import Choice

Changes = dict[tuple[int, int], tuple[int, list[ChangelogEntry], str]]
"""For two positions: how many changes the package names, those of BPF, and why there are none."""


def changes_between(
    catalog: Catalog, choices: Sequence[Choice], found: Boundaries, *, progress: Callable[[str], None]
) -> Changes:
    """Return what came between the two releases of each flip.

    Args:
        catalog: Has the changelogs.
        choices: The releases, by position.
        found: The flips.
        progress: Called with a line of text for each download.
    """
    changes: Changes = {}
    for test, one in found.found.items():
        for flip in one.flips:
            pair = (flip.last, flip.first)
            if pair in changes:
                continue
            last, first = choices[flip.last], choices[flip.first]
            if last.version.series != first.version.series:
                series = "{}.{}".format(*first.version.series)
                changes[pair] = (0, [], f"{series} is another series: no changelog lists all that came with it")
                continue
            text = None
            note = ""
            if first.provider == catalog.debian.name:
                try:
                    text = catalog.archive(first.architecture).changelog(first, progress=progress)
                except HarnessError as error:
                    note = f"the changelog is unavailable: {error.what}"
            entries = between(text, last.version, first.version) if text else []
            if not text:
                note = note or f"the packages of {first.version} ship no changelog"
            words = re.findall(r"[A-Za-z0-9]+", test.rpartition("::")[2].replace("_", " "))
            changes[pair] = (len(entries), relevant(entries, words), note)
    return changes


def upstream(last: Choice, first: Choice) -> str:
    """Return where upstream lists what came between two point releases of a series; "" across series."""
    if last.version.series != first.version.series:
        return ""
    series = "{}.{}".format(*first.version.series)
    numbers = [number for number in (last.version.patch + 1, first.version.patch) if number]
    where = f"https://www.kernel.org/pub/linux/kernel/v{first.version.major}.x/ChangeLog-{series}."
    return " to ".join(dict.fromkeys(f"{where}{number}" for number in numbers))
