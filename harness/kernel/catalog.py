"""From a user's selectors to kernels on this machine: resolve, then acquire.

Resolving finds the exact kernels that are meant; it downloads no kernel. Acquiring brings a kernel onto this machine.
Both are cheap when everything is in the cache: libraries are imported where they are used.

Providers are tried in this order; a provider that fails reports why. A provider's kernels in the cache are offered even
when the provider does not answer or no longer has them.

1. local: a path, the running kernel, kernels built here;
2. debian: the mirror of this machine's apt sources;
3. snapshot: everything that Debian ever shipped;
4. ubuntu: Ubuntu's mainline builds;
5. source: with `build_missing`, what nobody has is built from kernel.org's sources. Else a test run builds no kernel;
   `harness kernels build` makes one, and then it is local.

Snapshot and ubuntu are asked only for a named series or release that the providers before them do not have, and a
distribution only when it is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, MirrorError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel import lockfile, unavailable
from harness.kernel.build import missing
from harness.kernel.files.download import Meter, no_meter, served_by
from harness.kernel.selection import Policy, arrange, has_version, select
from harness.kernel.selector import GRAMMAR, SINGLE, Item, SelectorKind, is_distribution, parse
from harness.kernel.types import ANYTHING, OTHERS, Choice, Kernel, Progress, Provider, Wanted
from harness.kernel.version import KernelVersion
from harness.util import architecture
from harness.util.data import read_toml

if TYPE_CHECKING:
    from harness.kernel.providers.debian import DebianProvider

INDEXED = ("local", "debian")
"""Providers with a complete list; their offers define `all`, `newest` and ranges."""

ON_REQUEST = {
    "snapshot": (SelectorKind.SERIES, SelectorKind.RELEASE, SelectorKind.PACKAGE),
    "ubuntu": (SelectorKind.SERIES, SelectorKind.RELEASE),
}
"""Providers that are asked only for what those before them do not have, in this order, and for which kinds of items."""


def silent(line: str) -> None:
    """Ignore a line of progress."""


def policy(default: str = "") -> Policy:
    """Return the selection policy from the data in `kernels/`.

    Args:
        default: Name of the architecture that a selector without one means; "" for this machine's own.
    """
    series = read_toml("kernels", "series.toml")
    flavours = list(dict.fromkeys(name for one in architecture.known().values() for name in one.flavours))
    return Policy(
        longterm=frozenset(KernelVersion.parse(text).series for text in series["longterm"]),
        # Debian's kernels come first; of kernels built here, the one with BPF alone.
        flavours=(flavours[0], "minimal", *flavours[1:]),
        oldest=KernelVersion.parse(series["oldest"]).series,
        architecture=default or architecture.own_name(),
    )


class Catalog:
    """All providers; each is asked once.

    Args:
        progress: Called with each line that a person should see.
        meter: Called with the progress of each download.
        refresh: Ask the mirror even when the index is recent.
        build_missing: Build a named series or release that no provider has, from kernel.org.
        default: The architecture that a selector without one means, by name or alias; "" for this machine's own.

    Raises:
        SelectorError: The harness does not know that architecture.
    """

    def __init__(
        self,
        *,
        progress: Progress = silent,
        meter: Meter = no_meter,
        refresh: bool = False,
        build_missing: bool = False,
        default: str = "",
    ) -> None:
        from harness.kernel.providers.debian import DebianProvider
        from harness.kernel.providers.local import LocalProvider
        from harness.kernel.providers.snapshot import SnapshotProvider
        from harness.kernel.providers.ubuntu import UbuntuProvider

        self.progress = progress
        self.local = LocalProvider()
        self.architecture = architecture.or_own(default).name
        self._debian = {name: DebianProvider(name, meter=meter, refresh=refresh) for name in architecture.known()}
        self.debian = self._debian[architecture.own_name()]
        self.snapshot = SnapshotProvider(meter=meter, refresh=refresh)
        self.ubuntu = UbuntuProvider(meter=meter)
        self._meter, self._refresh, self._build_missing = meter, refresh, build_missing
        self._distributions: dict[str, Provider] = {}
        self.troubles: dict[tuple[str, str], HarnessError] = {}
        self._asked: dict[tuple[str, str, str, bool], list[Choice]] = {}

    def providers(self, of: str) -> tuple[Provider, ...]:
        """Return the providers of an architecture's kernels in the order of use."""
        return (self.local, self._debian[of], self.snapshot, self.ubuntu)

    def archive(self, of: str) -> DebianProvider:
        """Return Debian's archive of an architecture's packages."""
        return self._debian[of]

    def provider(self, name: str, of: str) -> Provider:
        """Return a provider by its name.

        Args:
            name: Its name.
            of: Name of the architecture.

        Raises:
            SelectorError: There is no provider of that name.
        """
        for provider in self.providers(of):
            if provider.name == name:
                return provider
        if is_distribution(name):
            if name not in self._distributions:
                from harness.kernel.providers import distributions

                self._distributions[name] = distributions.provider(
                    name, debian=self.debian, snapshot=self.snapshot, meter=self._meter, refresh=self._refresh
                )
            return self._distributions[name]
        raise SelectorError(
            f"there is no provider {name!r}",
            expected="one of " + ", ".join(provider.name for provider in self.providers(of)),
        )

    def offers(self) -> list[Choice]:
        """Return the offers for the default architecture in order of version.

        A provider that fails is recorded in `troubles`, by its name and the architecture.
        """
        found = [offer for name in INDEXED for offer in self._ask(name, self.architecture)]
        return sorted(found, key=lambda offer: (offer.version, offer.rank))

    def offers_asked(self) -> list[Choice]:
        """Return the offers of providers with a complete list that were asked so far, in order of version."""
        found = [offer for (name, *_), offers in self._asked.items() if name in INDEXED for offer in offers]
        return sorted(found, key=lambda offer: (offer.version, offer.rank))

    def _ask(self, name: str, of: str, item: Item | None = None, *, every: bool = False) -> list[Choice]:
        """Return a provider's offers.

        Args:
            name: The provider.
            of: Name of the architecture.
            item: What is asked for, which matters to a provider without a complete list.
            every: As for :meth:`resolve`.
        """
        asked = (name, of, "" if name in INDEXED or item is None else item.text, every)
        if asked not in self._asked:
            found: list[Choice] = []
            provider = self.provider(name, of)
            try:
                with served_by(provider.setting):
                    found = provider.offers(progress=self.progress, wanted=_wanted(item, every=every))
            except HarnessError as error:
                self.progress(f"{name}: {error.what}")
                self.troubles[name, of] = error
            known = {offer.key for offer in found}
            kept = [offer for offer in kernel_cache.offers(name) if offer.key not in known]
            self._asked[asked] = [offer for offer in kept + found if offer.architecture == of]
        return self._asked[asked]

    def _asked_for(self, item: Item) -> tuple[str, ...]:
        """Return the providers whose offers an item can mean; others are not asked."""
        if item.provider:
            return (item.provider,)
        return (self.local.name,) if item.flavour in self.local.flavours else INDEXED

    def resolve(self, selections: Sequence[str], *, every: bool = False) -> list[Choice]:
        """Return the exact kernels that selections mean, in order of version.

        Args:
            selections: Selections in the grammar of :mod:`harness.kernel.selector`.
            every: Every release of a series or range, not only the newest of each series.

        Raises:
            SelectorError: A selection is malformed, ambiguous or matches nothing.
            KernelFileError: A path is not a usable kernel.
            MirrorError: A kernel cannot be found because a provider cannot be asked.
        """
        choices: list[Choice] = []
        rules = policy(self.architecture)
        for selection in selections:
            if _is_path(selection):
                choices.append(self.local.choose(Path(selection)))
                continue
            for item in parse(selection):
                choices += self._resolve(item, rules, every=every)
        if not choices:
            raise SelectorError("no kernel is selected", expected=GRAMMAR)
        return arrange(choices)

    def _resolve(self, item: Item, rules: Policy, *, every: bool) -> list[Choice]:
        if item.kind is SelectorKind.PATH:
            return [self.local.choose(Path(item.word))]
        if item.kind is SelectorKind.HOST:
            from harness.kernel.providers.local import host_image

            return [self.local.choose(host_image(), label="host")]
        if item.kind is SelectorKind.LOCK:
            return lockfile.read(lockfile.path_of(item.word))
        asked, of = self._asked_for(item), item.architecture or self.architecture
        chosen = self._select(item, asked, rules, of, every=every)
        for name in self._more(item, asked, of):
            if not chosen:
                asked = (*asked, name)
                chosen = self._select(item, (name,), rules, of, every=every)
        buildable = not item.provider and item.flavour in ("", *self.local.flavours)
        if not chosen and self._build_missing and buildable:
            chosen = missing.choices(item, of, progress=self.progress)
        # The cache alone cannot say which kernels `all` or a range means: a run over fewer kernels would look
        # complete.
        failed = any((name, of) in self.troubles for name in asked)
        if not chosen or (item.kind not in SINGLE and failed):
            raise self._nothing(item, asked, of)
        return chosen

    def _more(self, item: Item, asked: Sequence[str], of: str) -> list[str]:
        """Return the providers that are asked for what those with a complete list do not have."""
        if tuple(asked) != INDEXED or of != OTHERS:
            return []
        return [name for name, kinds in ON_REQUEST.items() if item.kind in kinds]

    def _select(self, item: Item, names: Sequence[str], rules: Policy, of: str, *, every: bool) -> list[Choice]:
        offers = [offer for name in names for offer in self._ask(name, of, item, every=every)]
        return select(item, offers, rules, every=every)

    def reasons(self, selection: str) -> Iterator[tuple[str, str]]:
        """Yield each provider that a selection can mean, and what it has of it or why it has nothing.

        Raises:
            SelectorError: The selection is malformed.
        """
        rules = policy(self.architecture)
        for item in parse(selection):
            if item.kind in (SelectorKind.PATH, SelectorKind.HOST, SelectorKind.LOCK):
                continue
            asked, of = self._asked_for(item), item.architecture or self.architecture
            for name in (*asked, *self._more(item, asked, of)):
                chosen = self._select(item, (name,), rules, of, every=False)
                if chosen:
                    yield (
                        name,
                        ", ".join(f"{one.version} {one.flavour} ({one.key})".replace("  ", " ") for one in chosen),
                    )
                else:
                    yield name, self._reason(name, of)
            if not item.provider:
                index = partial(self._debian_index, of)
                yield missing.SOURCE, missing.reason(item, of, index, progress=self.progress)

    def _reason(self, name: str, of: str) -> str:
        return self.troubles[name, of].what if (name, of) in self.troubles else "has no such kernel"

    def _debian_index(self, of: str) -> dict[str, Any]:
        """Return Debian's index; an empty one where its mirror did not answer, which has been reported as Debian's."""
        return {"sources": []} if (INDEXED[1], of) in self.troubles else self.debian.index(progress=self.progress)

    def _nothing(self, item: Item, asked: Sequence[str], of: str) -> HarnessError:
        lines = [f"{name}: {self._reason(name, of)}" for name in asked]
        if not item.provider:
            lines.append(f"{missing.SOURCE}: not built here")
        offers = [offer for name in asked for offer in self._ask(name, of, item)]
        # Without Debian's index it is unknown whether such a kernel exists: the mirror is to blame.
        decisive = item.provider or self.debian.name
        trouble = self.troubles.get((decisive, of)) if decisive in asked else None
        return unavailable.nothing_matches(item, of, lines, offers, trouble)

    def acquire(self, choice: Choice) -> Kernel:
        """Bring a chosen kernel onto this machine, or an alternative if the choice allows that.

        Raises:
            HarnessError: It is unavailable.
        """
        return self.acquire_which(choice)[0]

    def acquire_which(self, choice: Choice) -> tuple[Kernel, Choice]:
        """Like :meth:`acquire`, but also return which of the choice and its alternatives it is.

        The snapshot archive keeps what the archive no longer has, under the same key.

        Raises:
            HarnessError: It is unavailable.
        """
        candidates = [choice, *choice.alternatives]
        if choice.provider == INDEXED[1] and choice.architecture == OTHERS:
            candidates.append(replace(choice, provider=self.snapshot.name))
        troubles = []
        for candidate, following in zip(candidates, [*candidates[1:], None], strict=True):
            try:
                kernel = self._acquire(candidate)
            except MirrorError as error:
                if candidate.provider == choice.provider:
                    raise
                troubles.append(f"{candidate.provider}: {error.what}")
                continue
            if kernel is not None:
                if choice.sha256 and kernel.digest != choice.sha256:
                    raise unavailable.another_image(choice, kernel.digest)
                return kernel, candidate
            if following is not None:
                other = "the snapshot archive" if following.provider != choice.provider else "the next release"
                self.progress(f"{choice.label}: {candidate.key} is no longer served; trying {other}")
        if choice.provider == self.local.name:
            raise unavailable.not_in_cache(choice)
        with served_by(self.provider(choice.provider, choice.architecture).setting):
            raise unavailable.not_served(choice, troubles)

    def _acquire(self, choice: Choice) -> Kernel | None:
        if choice.provider == missing.SOURCE:
            return missing.build(choice, progress=self.progress, meter=self._meter)
        if not choice.key.startswith("/"):
            cached = kernel_cache.load(choice, progress=self.progress)
            if cached is not None:
                return cached
        provider = self.provider(choice.provider, choice.architecture)
        with served_by(provider.setting):
            return provider.acquire(choice, progress=self.progress)


def _wanted(item: Item | None, *, every: bool) -> Wanted:
    if item is None:
        return ANYTHING
    rules = policy()
    return Wanted(
        version=lambda version: has_version(item, version, rules),
        revision=item.word if item.kind is SelectorKind.PACKAGE else "",
        flavour=item.flavour,
        every=every or item.kind is SelectorKind.EVERY,
    )


def resolve(selectors: Sequence[str], *, progress: Progress = silent) -> list[Choice]:
    """Return the exact kernels that selectors mean, in order of version, each once.

    Args:
        selectors: Selections in the grammar of :mod:`harness.kernel.selector`.
        progress: Called with each line that a person should see.

    Raises:
        SelectorError: A selection is malformed, ambiguous or matches nothing.
        KernelFileError: A path is not a usable kernel.
        MirrorError: A kernel cannot be found because a provider cannot be asked.
    """
    return Catalog(progress=progress).resolve(selectors)


def _is_path(selection: str) -> bool:
    """Whether a selection as a whole is a path: it may have blanks and commas, which part selectors."""
    try:
        return "/" in selection and Path(selection).exists()
    except OSError:  # in a folder that this user may not enter, say, which the local provider reports
        return True


def named_architectures(selections: Sequence[str]) -> list[str]:
    """Return the names of the architectures that selections mean by their words alone, each once; no provider is asked.

    Those of images at a path and of the kernels in a lock file are known only when they are resolved.

    Raises:
        SelectorError: A selection is malformed.
    """
    by_content = (SelectorKind.PATH, SelectorKind.LOCK)
    found = (
        item.architecture or architecture.own_name()
        for selection in selections
        if not _is_path(selection)
        for item in parse(selection)
        if item.kind not in by_content
    )
    return list(dict.fromkeys(found))


def acquire(choice: Choice, *, progress: Progress = silent) -> Kernel:
    """Bring a chosen kernel onto this machine; from the cache when it is there.

    Args:
        choice: What :func:`resolve` returned.
        progress: Called with each line that a person should see.

    Raises:
        HarnessError: It is unavailable, damaged, or cannot be stored.
    """
    return Catalog(progress=progress).acquire(choice)
