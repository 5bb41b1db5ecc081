"""Reads this machine's apt sources, to find its Debian mirror.

Pure except for :func:`read_machine`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)\s*$")


@dataclass(frozen=True)
class Source:
    """One binary package source of apt.

    Attributes:
        uris: Base addresses.
        suites: Suites or code names.
        components: Components, none for a flat repository.
        signed_by: Keyring file, or "" when none is named (or the key is written in the source itself).
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> list[Source]:
    """Read a file of the one-line format (sources.list, *.list); lines that are not sources are skipped."""
    sources = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match is None:
            continue
        options, uri, suite, components = match.groups()
        signed_by = ""
        for option in shlex.split(options or ""):
            name, _, value = option.partition("=")
            if name.lower() == "signed-by":
                signed_by = value
        sources.append(Source((uri,), (suite,), tuple(components.split()), signed_by))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Read a file of the deb822 format (*.sources); disabled and source-only stanzas are skipped."""
    from debian.deb822 import Deb822

    sources = []
    for stanza in Deb822.iter_paragraphs(text.splitlines(keepends=True), use_apt_pkg=False):
        if "deb" not in stanza.get("Types", "").split() or stanza.get("Enabled", "yes").strip().lower() == "no":
            continue
        signed_by = stanza.get("Signed-By", "").strip()
        sources.append(
            Source(
                tuple(stanza.get("URIs", "").split()),
                tuple(stanza.get("Suites", "").split()),
                tuple(stanza.get("Components", "").split()),
                signed_by if signed_by.startswith("/") and "\n" not in signed_by else "",
            )
        )
    return sources


def read_machine(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Read all package sources of this machine; an empty list without apt."""
    parts = etc_apt / "sources.list.d"
    sources: list[Source] = []
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            sources += parse_one_line(path.read_text(encoding="utf-8", errors="replace"))
    for path in sorted(parts.glob("*.sources")):
        sources += parse_deb822(path.read_text(encoding="utf-8", errors="replace"))
    return sources


def find_mirror(sources: Iterable[Source], suites: Sequence[str], component: str) -> tuple[str, str] | None:
    """Choose the source that is a mirror of the archive with the given suites.

    Other archives use Debian's suite names too. So the best candidate is the one that Debian's own keyring signs, then
    the one whose address ends in a folder named for Debian.

    Args:
        sources: The machine's sources.
        suites: Suite names of the archive.
        component: A component of the archive.

    Returns:
        Its address without a trailing slash and its keyring ("" for the default one); None when no source matches.
    """
    candidates: list[tuple[int, str, str]] = []
    for source in sources:
        if component not in source.components or not set(source.suites) & set(suites):
            continue
        for uri in source.uris:
            address = uri.rstrip("/")
            named = re.search(r"/debian(-security)?$", address) is not None
            ours = "debian-archive" in source.signed_by
            if ours or named:
                candidates.append((0 if ours else 1, address, source.signed_by))
    if not candidates:
        return None
    _, address, keyring = min(candidates, key=lambda candidate: candidate[0])
    return address, keyring
