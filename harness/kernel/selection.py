"""The kernels that an item of a selection chooses from the offers, and their labels.

Pure: records in, records out.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.kernel.selector import OPEN, SERIES, SINGLE, Item, SelectorKind
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.util import architecture

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


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
    if SERIES.fullmatch(bound):
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


def meets(choice: Choice, condition: Iterable[Item], policy: Policy) -> bool:
    """Return whether a kernel matches a condition from :func:`parse_condition`."""
    return any(
        (not item.flavour or item.flavour == choice.flavour)
        and (not item.architecture or item.architecture == choice.architecture)
        and _matches(item, choice, policy)
        for item in condition
    )
