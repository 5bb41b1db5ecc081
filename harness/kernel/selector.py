"""The grammar of kernel selectors, and the kernels that they choose from the offers.

Pure: text and records in, records out. One grammar serves `--kernel`, the ini option and the command line::

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

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from harness.errors import SelectorError
from harness.kernel.types import Choice
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
_SERIES = re.compile(r"v?(\d{1,3}\.\d{1,3})")
_EVERY = re.compile(r"v?(\d{1,3}\.\d{1,3})\.\*")
_RELEASE = re.compile(r"v?\d{1,3}\.\d{1,3}(?:\.\d{1,4}|(?:\.\d{1,4})?[-~]?rc\d{1,2})")
_PACKAGE = re.compile(r"(?:\d+:)?\d{1,3}\.\d{1,3}[\w.+~]*-[\w.+~-]+")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


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
    if match := _SERIES.fullmatch(rest):
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
    if one is None or named.architecture or not (_SERIES.fullmatch(version) or _RELEASE.fullmatch(version)):
        return named
    return replace(named, word=version, architecture=one.name)


def _architecture_of(package: str) -> str:
    """Return the architecture that a `uname -r` of Debian's ends in; "" for a package version."""
    for one in architecture.known().values():
        if any(package.endswith(f"-{suffix}") for suffix in one.flavours.values()):
            return one.name
    return ""


@dataclass(frozen=True)
class Policy:
    """Facts for selection, from data.

    Attributes:
        longterm: Longterm series.
        flavours: Flavours in the order of preference when none is given.
        oldest: Series below this one are not supported.
        architecture: Name of the architecture when none is given.
    """

    longterm: frozenset[tuple[int, int]]
    flavours: tuple[str, ...]
    oldest: tuple[int, int]
    architecture: str = field(default_factory=architecture.own_name)


def select(item: Item, offers: Iterable[Choice], policy: Policy, *, every: bool = False) -> list[Choice]:
    """Resolve one item that is not a path, `host` or a lock file.

    Without a flavour, each series uses the first flavour of the policy that it has.

    Args:
        item: The item.
        offers: The providers' offers.
        policy: Facts for selection.
        every: Choose every release of each named series, in one flavour, not only the newest; labels are then
            releases.

    Returns:
        The choices in order of version; an empty list when nothing matches.
    """
    pool = [
        offer
        for offer in offers
        # A distribution may be a part of what another provider has: its offers are the right ones.
        if (not item.provider or item.in_distribution or offer.provider == item.provider)
        and (not item.flavour or offer.flavour == item.flavour)
        and offer.architecture == (item.architecture or policy.architecture)
        and _matches(item, offer, policy)
    ]
    if every:
        pool = list(_of_one_flavour(pool, policy))
    groups: dict[object, list[Choice]] = {}
    for offer in pool:
        group: object = offer.version.series
        if item.kind is SelectorKind.DISTRIBUTION:
            group = item.provider
        elif every or item.kind is SelectorKind.EVERY:
            group = (offer.version, offer.revision) if item.in_distribution else offer.version
        groups.setdefault(group, []).append(offer)
    chosen = [_best(group, policy) for group in groups.values()]
    chosen.sort(key=lambda ranked: (ranked[0].version, ranked[0].rank))
    if item.kind is SelectorKind.OLDEST:
        chosen = chosen[:1]
    elif item.kind is SelectorKind.NEWEST:
        # A release candidate is the newest only when there is no final release.
        final = [ranked for ranked in chosen if ranked[0].version.rc == KernelVersion(0, 0).rc]
        chosen = (final or chosen)[-1:]
    return [_choice(ranked, item, every=every) for ranked in chosen]


def _preference(offer: Choice, policy: Policy) -> int:
    return policy.flavours.index(offer.flavour) if offer.flavour in policy.flavours else len(policy.flavours)


def _of_one_flavour(offers: Sequence[Choice], policy: Policy) -> Iterator[Choice]:
    """Yield the offers of each series' best flavour, so that two releases differ only in their release."""
    best: dict[tuple[int, int], int] = {}
    for offer in offers:
        series = offer.version.series
        best[series] = min(best.get(series, len(policy.flavours)), _preference(offer, policy))
    return (offer for offer in offers if _preference(offer, policy) == best[offer.version.series])


def _best(group: Sequence[Choice], policy: Policy) -> list[Choice]:
    """Return a group's offers of the best flavour, best first; a replacement always has the same flavour."""
    first = min(_preference(offer, policy) for offer in group)
    same = [offer for offer in group if _preference(offer, policy) == first]
    # Sorts are stable: among equals, the provider that comes first.
    return sorted(same, key=lambda offer: (offer.version, offer.rank), reverse=True)


def _choice(ranked: Sequence[Choice], item: Item, *, every: bool) -> Choice:
    prefix = item.provider if item.in_distribution else ""
    if item.kind is SelectorKind.EVERY or (every and item.kind is not SelectorKind.PACKAGE):
        version = ranked[0].revision if prefix else str(ranked[0].version)
        label = _label(version, item, ranked[0], provider=prefix)
    elif item.kind in SINGLE:
        has_tags = item.architecture or ranked[0].architecture != architecture.own_name()
        label = _label(item.word, item, ranked[0], provider=item.provider) if has_tags else item.text
    else:
        label = _label("{}.{}".format(*ranked[0].version.series), item, ranked[0], provider=prefix)
    # Offers of one release differ at most in the package, and all are equally good.
    stand_ins = ranked[1:] if every or item.kind in OPEN else ()
    return replace(ranked[0], label=label, alternatives=tuple(replace(offer, label=label) for offer in stand_ins))


def _label(version: str, item: Item, choice: Choice, *, provider: str = "") -> str:
    """Return a label: "6.12", "6.12:debug", and for another architecture than this machine's "6.12-arm64:16k"."""
    foreign = labelled(version, choice.architecture)
    return (f"{provider}:" if provider else "") + foreign + (f":{item.flavour}" if item.flavour else "")


def labelled(name: str, of: str) -> str:
    """Return the name of a kernel with its architecture, where this machine has another and the name lacks it."""
    return name if of == architecture.own_name() or name.endswith(f"-{of}") else f"{name}-{of}"


def _matches(item: Item, offer: Choice, policy: Policy) -> bool:
    if item.kind is SelectorKind.PACKAGE:
        return offer.version.series >= policy.oldest and item.word in (offer.revision, offer.release)
    if item.kind is SelectorKind.RANGE and item.in_distribution:
        return all(
            _of_package(offer.revision, sign, bound) if "-" in bound else _within(offer.version, sign, bound)
            for sign, bound in item.bounds
        )
    return has_version(item, offer.version, policy)


def has_version(item: Item, version: KernelVersion, policy: Policy) -> bool:
    """Return whether an item can mean a kernel of that version; a package version is not looked at."""
    if version.series < policy.oldest:
        return False
    if item.kind in (SelectorKind.SERIES, SelectorKind.EVERY):
        return item.word in ("*", "{}.{}".format(*version.series))
    if item.kind is SelectorKind.RELEASE:
        return version == KernelVersion.parse(item.word)
    if item.kind is SelectorKind.RANGE:
        return all("-" in bound or _within(version, sign, bound) for sign, bound in item.bounds)
    if item.kind is SelectorKind.LTS:
        return version.series in policy.longterm
    return True


def _within(version: KernelVersion, sign: str, bound: str) -> bool:
    # A bound of two numbers means a complete series: 6.12.94 is <=6.12 and not >6.12.
    limit = KernelVersion.parse(bound)
    if _SERIES.fullmatch(bound):
        return _COMPARE[sign](version.series, limit.series)
    return _COMPARE[sign](version, limit)


def _of_package(revision: str, sign: str, bound: str) -> bool:
    # As with series, a bound means everything that begins so: 5.14.0-503.11 is <=5.14.0-503 and not >5.14.0-503.
    limit = package_order(bound)[:-1]
    return _COMPARE[sign](package_order(revision)[: len(limit)], limit)


def package_order(revision: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts package versions as rpm does: numbers above letters, "~" below the end."""
    parts = re.findall(r"\d+|[A-Za-z]+|~", revision)
    keys = [(1, int(part), "") if part.isdigit() else (-2 if part == "~" else 0, 0, part) for part in parts]
    return (*keys, (-1, 0, ""))


def arrange(choices: Iterable[Choice]) -> list[Choice]:
    """Sort choices by version, this machine's architecture first, each kernel once, with distinct labels.

    A kernel named by several selectors keeps the first label. When two kernels have one label, their versions (then
    providers and flavours) are added.
    """
    unique: dict[tuple[str, str], Choice] = {}
    for choice in choices:
        unique.setdefault((choice.provider, choice.key), choice)
    own = architecture.own_name()
    ordered = sorted(
        unique.values(), key=lambda choice: (choice.version, choice.architecture != own, choice.architecture)
    )
    for more in ("={choice.version}", ":{choice.flavour}", "@{choice.provider}:{choice.key}"):
        labels = [choice.label for choice in ordered]
        ordered = [
            replace(choice, label=choice.label + more.format(choice=choice))
            if labels.count(choice.label) > 1
            else choice
            for choice in ordered
        ]
    return ordered


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


def meets(choice: Choice, condition: Iterable[Item], policy: Policy) -> bool:
    """Return whether a kernel matches a condition from :func:`parse_condition`."""
    return any(
        (not item.flavour or item.flavour == choice.flavour)
        and (not item.architecture or item.architecture == choice.architecture)
        and _matches(item, choice, policy)
        for item in condition
    )
