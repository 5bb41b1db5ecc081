"""The changes between two releases, from a packaged kernel's changelog.

Pure: text in, records out. A Debian changelog has an entry for each upload, newest first, with the headings of the
stable changes in it; the package of a series has that series' entries and all earlier ones. A new series ("New upstream
release") is one line, however large.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import SelectorError
from harness.kernel.version import KernelVersion

# The signed package repeats the entry of the package it signs, with another form of version: 6.12.116+1 for 6.12.116-1.
_HEAD = re.compile(r"^linux\S* \((?:\d+:)?(\d+\.\d+(?:\.\d+)?(?:~rc\d+)?)([^)]*)\)")
_ITEM = re.compile(r"^\s+[-*] ")


@dataclass(frozen=True)
class ChangelogEntry:
    """One change.

    Attributes:
        revision: The package version with the change: "6.12.115-1".
        text: Its heading in one line.
    """

    revision: str
    text: str


def between(changelog: str, after: KernelVersion, until: KernelVersion) -> list[ChangelogEntry]:
    """Return the changes of the releases above `after` up to `until`, newest first.

    Args:
        changelog: A Debian changelog.
        after: Changes of this and earlier releases are omitted.
        until: The last release whose changes are included.
    """
    found: list[ChangelogEntry] = []
    revision = ""
    wanted = False
    for line in changelog.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            revision = head[1] + head[2]
            version = _version(head[1])
            wanted = version is not None and after < version <= until
        elif line.startswith(" --"):
            wanted = False
        elif wanted and _ITEM.match(line):
            found.append(ChangelogEntry(revision, _ITEM.sub("", line).strip()))
        elif wanted and line.startswith("   ") and line.strip() and found and found[-1].revision == revision:
            # The rest of a heading, or the address of the upstream changelog.
            found[-1] = ChangelogEntry(revision, f"{found[-1].text} {line.strip()}")
    # A heading for the following entries, not a change.
    return [entry for entry in found if not entry.text.startswith("New upstream stable update")]


def _version(text: str) -> KernelVersion | None:
    try:
        return KernelVersion.parse(text)
    except SelectorError:
        return None


BPF = re.compile(r"\b(e?bpf|btf|libbpf|verifier|sockmap|xdp)\b", re.IGNORECASE)
"""Matches changes of BPF."""


def relevant(entries: Iterable[ChangelogEntry], words: Iterable[str]) -> list[ChangelogEntry]:
    """Return the changes of BPF; those that contain most of the words come first.

    Args:
        entries: Changes.
        words: Words of the behaviour; words of less than three letters are ignored.
    """
    stems = {word.lower().removesuffix("s") for word in words if len(word) > 2}

    def score(entry: ChangelogEntry) -> int:
        said = {word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", entry.text.lower())}
        return len(stems & said)

    return sorted((entry for entry in entries if BPF.search(entry.text)), key=score, reverse=True)
