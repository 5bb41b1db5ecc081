"""The grammar of kernel selectors; which kernels they choose is in :mod:`harness.kernel.selection`.

Pure: text in, records out. One grammar serves `--kernel`, the ini option and the command line::

    selection   item, or items separated by blanks or commas
    item        [PROVIDER:] what [:ARCHITECTURE] [:FLAVOUR]    or with these before it: arm64:6.12, debug:6.12
    what        6.12                  the newest known release of a series
                6.12.94, 7.3-rc7      that release
                6.12.*                every release of a series
                6.12.94-1~bpo12+1     that Debian package version
                6.1.0-56-cloud-amd64  the kernel with that `uname -r`
                >=5.10,<6.13          a range: the newest release of each series in it (>= > <= < == !=)
                all oldest newest lts the newest release of each, the first, the last, each longterm series
                alma9, ubuntu24.04    the newest kernel of a distribution; as a PROVIDER, the releases in it:
                                      alma9:* all of them, alma9:>=5.14.0-427,<5.14.0-503 by package version
    item        a path (anything with a "/"): bzImage, vmlinux, a built tree, a folder with boot/ and modules
                host                  the running kernel's image
                @lock, @FILE          the kernels of a lock file; FILE is a path, @lock is kernels.lock

Comparisons in a row make one range. For two ranges, repeat the option.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from harness.errors import SelectorError
from harness.kernel.version import KernelVersion
from harness.util import architecture

GRAMMAR = (
    "a series (6.12), a release (6.12.94), a Debian package version, a range (>=5.10,<6.13), "
    "all, oldest, newest, lts, host, a distribution (alma9), a path with a '/', or @lock; :ARCHITECTURE and :FLAVOUR "
    "may follow"
)


class SelectorKind(Enum):
    """The kind of an item."""

    SERIES = "series"
    RELEASE = "release"
    EVERY = "every release of a series"
    PACKAGE = "package version or uname -r"
    RANGE = "range"
    ALL = "all"
    OLDEST = "oldest"
    NEWEST = "newest"
    LTS = "lts"
    DISTRIBUTION = "the newest of a distribution"
    PATH = "path"
    HOST = "host"
    LOCK = "lock"


SINGLE = frozenset(
    {
        SelectorKind.SERIES,
        SelectorKind.RELEASE,
        SelectorKind.PACKAGE,
        SelectorKind.DISTRIBUTION,
        SelectorKind.PATH,
        SelectorKind.HOST,
    }
)
"""Kinds that name one kernel; the item's text becomes its label."""

OPEN = frozenset(
    {
        SelectorKind.SERIES,
        SelectorKind.RANGE,
        SelectorKind.ALL,
        SelectorKind.OLDEST,
        SelectorKind.NEWEST,
        SelectorKind.LTS,
        SelectorKind.DISTRIBUTION,
    }
)
"""Kinds that do not fix the release: another release of the series may replace an unavailable one."""


@dataclass(frozen=True)
class Item:
    """One item of a selection: the user's words, read before any provider is asked.

    Attributes:
        text: The user's text.
        kind: What it names.
        word: The part between provider and flavour.
        provider: The provider asked for, or "".
        flavour: The flavour asked for, or "".
        architecture: Name of the architecture asked for, or "".
        bounds: For a range, its comparisons.
    """

    text: str
    kind: SelectorKind
    word: str
    provider: str = ""
    flavour: str = ""
    architecture: str = ""
    bounds: tuple[tuple[str, str], ...] = ()

    @property
    def in_distribution(self) -> bool:
        """Whether it names kernels of one distribution, which differ in their package versions."""
        return self.provider not in ("", *_PROVIDERS)


_PROVIDERS = ("local", "debian", "snapshot", "ubuntu")
_DISTRIBUTION = re.compile(r"[a-z]{2}[a-z-]*\d+(?:\.\d+)?")
_WORDS = {
    kind.value: kind
    for kind in (SelectorKind.ALL, SelectorKind.OLDEST, SelectorKind.NEWEST, SelectorKind.LTS, SelectorKind.HOST)
}
_BOUND = re.compile(r"(>=|<=|==|!=|>|<)\s*(v?\d[\w.~-]*)")
_TAG = re.compile(r"[a-z][a-z0-9_-]*|\d+k")
SERIES = re.compile(r"v?(\d{1,3}\.\d{1,3})")
_EVERY = re.compile(r"v?(\d{1,3}\.\d{1,3})\.\*")
_RELEASE = re.compile(r"v?\d{1,3}\.\d{1,3}(?:\.\d{1,4}|(?:\.\d{1,4})?[-~]?rc\d{1,2})")
_PACKAGE = re.compile(r"(?:\d+:)?\d{1,3}\.\d{1,3}[\w.+~]*-[\w.+~-]+")


def parse(text: str) -> list[Item]:
    """Read one selection.

    Raises:
        SelectorError: It is empty or malformed.
    """
    # Blanks inside a comparison are part of it: ">= 5.10".
    words = [word for word in re.split(r"[,\s]+", re.sub(r"([<>=!]=?)\s+", r"\1", text.strip())) if word]
    if not words:
        raise SelectorError(
            "a kernel selection is empty", expected=GRAMMAR, hint="leave --kernel out for the default kernel"
        )
    items: list[Item] = []
    for word in words:
        last = items[-1] if items else None
        item = _item(word, packages=last is not None and last.kind is SelectorKind.RANGE and last.in_distribution)
        is_open = last is not None and last.kind is SelectorKind.RANGE and not (last.flavour or last.architecture)
        if item.kind is SelectorKind.RANGE and last is not None and is_open:
            if item.provider:
                raise _malformed(text, f"a provider may only precede a range's first comparison, not {word!r}")
            items[-1] = replace(
                last,
                text=f"{last.text},{word}",
                bounds=last.bounds + item.bounds,
                flavour=item.flavour,
                architecture=item.architecture,
            )
        else:
            items.append(item)
    return items


def is_distribution(name: str) -> bool:
    """Return whether a provider's name is that of a distribution, known or not: letters and then a number."""
    if name in _PROVIDERS or architecture.named(name) is not None or architecture.is_other(name):
        return False
    return _DISTRIBUTION.fullmatch(name) is not None


def _malformed(text: str, why: str = "") -> SelectorError:
    return SelectorError(
        f"{text!r} is not a kernel selector" + (f": {why}" if why else ""),
        expected=GRAMMAR,
        hint="`harness kernels list` prints what is available",
    )


def _item(word: str, *, packages: bool = False) -> Item:
    """Read one word; `packages`: after a comparison in a distribution, where a bound may be a package version."""
    if word.startswith("@"):
        if word == "@":
            raise _malformed(word, "a lock file's name should follow the @")
        return Item(word, SelectorKind.LOCK, word[1:])
    if "/" in word or word in (".", "..", "~"):
        return Item(word, SelectorKind.PATH, word)
    if is_distribution(word):
        return Item(word, SelectorKind.DISTRIBUTION, word, provider=word)
    named = _unlabelled(_named(word))
    rest = named.word
    if rest in _WORDS:
        return replace(named, kind=_WORDS[rest])
    if rest == "*" and named.in_distribution:
        return replace(named, kind=SelectorKind.EVERY)
    if rest[:1] in "<>=!":
        match = _BOUND.fullmatch(rest)
        if match is None:
            raise _malformed(word, "a comparison is one of >= > <= < == != and a version")
        if not ((packages or named.in_distribution) and _PACKAGE.fullmatch(match[2])):
            KernelVersion.parse(match[2])
        return replace(named, kind=SelectorKind.RANGE, bounds=((match[1], match[2]),))
    if match := SERIES.fullmatch(rest):
        return replace(named, kind=SelectorKind.SERIES, word=match[1])
    if match := _EVERY.fullmatch(rest):
        return replace(named, kind=SelectorKind.EVERY, word=match[1])
    if _RELEASE.fullmatch(rest):
        return replace(named, kind=SelectorKind.RELEASE)
    if _PACKAGE.fullmatch(rest):
        return replace(named, kind=SelectorKind.PACKAGE, architecture=named.architecture or _architecture_of(rest))
    if re.fullmatch(r"v?\d{1,3}(\.\*?)?", rest):
        raise SelectorError(
            f"{word!r} is ambiguous: it names no series",
            expected="a series such as 6.12",
            hint=f"for all its series, use the range >={rest.strip('v.*')}.0,<{int(rest.strip('v.*')) + 1}.0",
        )
    hint = "for a file of that name" if not re.search(r"\s", rest) else ""
    raise _malformed(word, f"write ./{rest} {hint}" if hint and re.match(r"[\w.-]+$", rest) else "")


def _named(word: str) -> Item:
    """Return an item with its provider, architecture and flavour; its kind is not known yet."""
    provider, rest = "", word
    head, colon, tail = rest.partition(":")
    if colon and (head in _PROVIDERS or is_distribution(head)):
        provider, rest = head, tail
    # The only other use of a colon is an epoch ("1:6.1-2").
    parts = re.split(r"(?<!^\d):|(?<=^\d):(?!\d)", rest)
    whats = [part for part in parts if not _TAG.fullmatch(part) or part in _WORDS]
    if len(whats) > 1:
        raise _malformed(word, f"{whats[1]!r} is neither an architecture nor a flavour")
    what = whats[0] if whats else parts.pop(0)
    found = {"architecture": "", "flavour": ""}
    for tag in parts:
        if tag == what:
            continue
        if architecture.is_other(tag):
            architecture.require(tag)
        one = architecture.named(tag)
        kind, name = ("flavour", tag) if one is None else ("architecture", one.name)
        if found[kind]:
            raise _malformed(word, f"it names two {kind}s, {found[kind]} and {name}")
        found[kind] = name
    return Item(word, SelectorKind.ALL, what, provider, found["flavour"], found["architecture"])


def _unlabelled(named: Item) -> Item:
    """Return an item whose word is a label of a report, "6.12-arm64", as its version and its architecture."""
    version, _, name = named.word.rpartition("-")
    one = architecture.named(name)
    if one is None or named.architecture or not (SERIES.fullmatch(version) or _RELEASE.fullmatch(version)):
        return named
    return replace(named, word=version, architecture=one.name)


def _architecture_of(package: str) -> str:
    """Return the architecture that a `uname -r` of Debian's ends in; "" for a package version."""
    for one in architecture.known().values():
        if any(package.endswith(f"-{suffix}") for suffix in one.flavours.values()):
            return one.name
    return ""


_OPEN_TO_MARKERS = frozenset(
    {
        SelectorKind.SERIES,
        SelectorKind.RELEASE,
        SelectorKind.EVERY,
        SelectorKind.RANGE,
        SelectorKind.ALL,
        SelectorKind.LTS,
    }
)


def parse_condition(text: str) -> list[Item]:
    """Read a condition on a kernel's version: a selection of versions, such as ">=5.11,<6.2" or "lts".

    Raises:
        SelectorError: It is malformed, or names a kernel otherwise than by version (a path, host, newest).
    """
    items = parse(text)
    for item in items:
        if item.kind not in _OPEN_TO_MARKERS or item.provider:
            raise SelectorError(
                f"{item.text!r} says nothing about a kernel's version",
                expected="a series (6.12), a release (6.12.94), a range (>=5.11,<6.2) or lts; each may end in "
                ":ARCHITECTURE and :FLAVOUR",
            )
    return items
