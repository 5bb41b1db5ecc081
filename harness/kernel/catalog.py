"""From what a user asked for to kernels on this machine: resolve, then acquire.

Resolving says which exact kernels are meant and prints them; it downloads no kernel. Acquiring brings one.
Both are cheap when everything is in the cache: libraries are imported where they are needed.

Providers are tried in this order, and one that cannot serve says why:

1. local: a path, the running kernel, kernels built here;
2. debian: the mirror of this machine's apt sources;
3. ubuntu: Ubuntu's mainline builds, by virtme-ng's mechanism; asked only for a named series or release that
   the others do not have.

A kernel built from source is made by `harness kernels build`, never as a side effect of a test run.

Imports the foundations and its siblings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.data import read_toml
from harness.errors import CacheError, HarnessError, MirrorError, SelectorError
from harness.kernel import selector, shelf
from harness.kernel.download import Meter, no_meter
from harness.kernel.types import Choice, Kernel, Offer, Progress, Provider
from harness.kernel.version import KernelVersion

ORDER = ("local", "debian")


def silent(line: str) -> None:
    """Drop a line of progress."""


def policy() -> selector.Policy:
    """Return what the data in `kernels/` says about selection."""
    series = read_toml("kernels", "series.toml")
    flavours = [flavour["name"] for flavour in read_toml("kernels", "debian.toml")["flavour"]]
    return selector.Policy(
        longterm=frozenset(KernelVersion.parse(text).series for text in series["longterm"]),
        # What Debian releases comes first; of kernels built here, the one with nothing but BPF in it.
        flavours=(flavours[0], "minimal", *flavours[1:]),
        oldest=KernelVersion.parse(series["oldest"]).series,
    )


class Catalog:
    """All providers, asked once each.

    Args:
        progress: Told what a person should know.
        meter: Told how far each download is.
        refresh: Ask the mirror even when the index is fresh.
    """

    def __init__(self, *, progress: Progress = silent, meter: Meter = no_meter, refresh: bool = False) -> None:
        from harness.kernel.debian import DebianProvider
        from harness.kernel.local import LocalProvider

        self.progress = progress
        self.local = LocalProvider()
        self.debian = DebianProvider(meter=meter, refresh=refresh)
        self.troubles: dict[str, HarnessError] = {}
        self._offers: list[Offer] | None = None

    def provider(self, name: str) -> Provider:
        """Return a provider by its name.

        Raises:
            SelectorError: There is none of that name.
        """
        for provider in (self.local, self.debian):
            if provider.name == name:
                return provider
        raise SelectorError(f"there is no provider {name!r}", expected="one of " + ", ".join(ORDER))

    def offers(self) -> list[Offer]:
        """Return what the providers offer, in order of version; a provider that cannot serve is in `troubles`."""
        if self._offers is None:
            found: list[Offer] = []
            for name in ORDER:
                found += self._ask(name)
            self._offers = sorted(found, key=lambda offer: (offer.version, offer.rank))
        return self._offers

    def _ask(self, name: str) -> list[Offer]:
        try:
            return self.provider(name).offers(progress=self.progress)
        except HarnessError as error:
            self.troubles[name] = error
            return []

    def resolve(self, selections: Sequence[str]) -> list[Choice]:
        """Return the exact kernels that selections mean, in order of version.

        Raises:
            SelectorError: A selection is malformed, ambiguous or matches nothing.
            KernelFileError: A path is no usable kernel.
            MirrorError: A kernel cannot be found because a provider cannot be asked.
        """
        choices: list[Choice] = []
        rules = policy()
        for selection in selections:
            for item in selector.parse(selection):
                choices += self._resolve(item, rules)
        if not choices:
            raise SelectorError("no kernel is selected", expected=selector.GRAMMAR)
        return selector.arrange(choices)

    def _resolve(self, item: selector.Item, rules: selector.Policy) -> list[Choice]:
        if item.kind is selector.Kind.PATH:
            return [self.local.choose(Path(item.word))]
        if item.kind is selector.Kind.HOST:
            from harness.kernel.local import host_image

            return [self.local.choose(host_image(), label="host")]
        chosen = selector.select(item, self.offers(), rules)
        if not chosen:
            raise self._nothing(item)
        return chosen

    def _nothing(self, item: selector.Item) -> HarnessError:
        lines = []
        for name in ORDER:
            trouble = self.troubles.get(name)
            reason = trouble.what if trouble else "nothing of that kind among its kernels"
            lines.append(f"{name}: {reason}")
        series = sorted({offer.version.series for offer in self.offers()})
        known = ", ".join("{}.{}".format(*one) for one in series)
        kind = MirrorError if self.troubles else SelectorError
        return kind(
            f"no kernel matches {item.text!r}",
            expected=f"one of the series {known}" if known else "a reachable provider",
            hint="`harness kernels list` prints what is available; `harness kernels build` makes others",
            detail="\n".join(lines) + "".join(f"\n{trouble}" for trouble in self.troubles.values()),
        )

    def acquire(self, choice: Choice) -> Kernel:
        """Bring a chosen kernel onto this machine, or the next best one when the choice left that open.

        Raises:
            HarnessError: It cannot be had.
        """
        for candidate in (choice, *choice.alternatives):
            kernel = self._acquire(candidate)
            if kernel is not None:
                if choice.sha256 and kernel.digest != choice.sha256:
                    raise CacheError(
                        f"{choice.label}: the boot image has sha256 {kernel.digest}",
                        expected=f"{choice.sha256}, as the lock file says",
                        hint="`harness kernels info --verify` checks the cache; `harness kernels lock` locks anew",
                    )
                return kernel
            if choice.alternatives and candidate is not choice.alternatives[-1]:
                self.progress(f"{choice.label}: {candidate.key} is not served any more; trying the next release")
        raise MirrorError(
            f"{choice.label}: none of the releases that {choice.provider} indexes is served",
            expected=f"the packages of {choice.key}" + (" or an older release" if choice.alternatives else ""),
            hint="`harness kernels list --refresh` asks the mirror for a new index",
        )

    def _acquire(self, choice: Choice) -> Kernel | None:
        if not choice.key.startswith("/"):
            cached = shelf.load(choice, progress=self.progress)
            if cached is not None:
                return cached
        return self.provider(choice.provider).acquire(choice, progress=self.progress)


def resolve(selectors: Sequence[str], *, progress: Progress = silent) -> list[Choice]:
    """Return the exact kernels that selectors mean, in order of version, each once.

    Args:
        selectors: Selections in the grammar of :mod:`harness.kernel.selector`.
        progress: Told what a person should know, one line at a time.

    Raises:
        SelectorError: A selection is malformed, ambiguous or matches nothing.
        KernelFileError: A path is no usable kernel.
        MirrorError: A kernel cannot be found because a provider cannot be asked.
    """
    return Catalog(progress=progress).resolve(selectors)


def acquire(choice: Choice, *, progress: Progress = silent) -> Kernel:
    """Bring a chosen kernel onto this machine; from the cache when it is there.

    Args:
        choice: What :func:`resolve` returned.
        progress: Told what a person should know, one line at a time.

    Raises:
        HarnessError: It cannot be had, is damaged, or cannot be stored.
    """
    return Catalog(progress=progress).acquire(choice)
