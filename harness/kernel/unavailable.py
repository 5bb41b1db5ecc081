"""Errors for kernels that are not available: nothing matches a selector, or a chosen kernel is gone.

Pure: what the catalogue learned in, errors out.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import CacheError, HarnessError, KernelFileError, MirrorError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel.build import missing
from harness.kernel.selector import Item, is_distribution
from harness.kernel.types import Choice
from harness.util import architecture

_BUILD = "`harness kernels build` makes others"
_LIST = f"`harness kernels list` prints what is available; {_BUILD}"


def nothing_matches(
    item: Item, of: str, reasons: Sequence[str], offers: Sequence[Choice], trouble: HarnessError | None
) -> HarnessError:
    """Return the error for an item of a selection that means no kernel.

    Args:
        item: The item.
        of: Name of the architecture.
        reasons: A line for each provider: why it has nothing.
        offers: What the providers have.
        trouble: Why the provider that decides whether such a kernel exists gave no answer; None when it answered.
    """
    if trouble is not None:
        others = [line for line in reasons if trouble.what not in line]
        return MirrorError(
            f"no kernel for {item.text!r} can be found: {trouble.what}",
            expected=trouble.expected,
            hint=trouble.hint or _BUILD,
            detail="\n".join([*others, *trouble.detail.splitlines()]),
        )
    if item.flavour and offers and all(offer.flavour != item.flavour for offer in offers):
        flavours = ", ".join(dict.fromkeys(offer.flavour for offer in offers))
        return SelectorError(
            f"no kernel matches {item.text!r}: {item.flavour!r} is neither an architecture nor a flavour of {of}",
            expected=f"one of the architectures {architecture.names()} or of the flavours {flavours}",
            hint=_LIST,
            detail="\n".join(reasons),
        )
    series = sorted({offer.version.series for offer in offers})
    known = ", ".join("{}.{}".format(*one) for one in series)
    return SelectorError(
        f"no kernel matches {item.text!r}" + ("" if of == architecture.own_name() else f" for {of}"),
        expected=f"one of the series {known}" if known else "a kernel that a provider has",
        hint=_LIST,
        detail="\n".join(reasons),
    )


def not_in_cache(choice: Choice) -> KernelFileError:
    """Return the error for a kernel that was built here and is no longer in the cache."""
    return KernelFileError(
        f"{choice.label}: the kernel {choice.key} that was built here is not in the cache",
        expected=str(kernel_cache.entry_folder(choice.provider, choice.key)),
        hint=missing.command(str(choice.version), choice.architecture, choice.flavour),
    )


def not_served(choice: Choice, troubles: Sequence[str]) -> MirrorError:
    """Return the error for a kernel that its provider no longer has.

    Args:
        choice: The kernel.
        troubles: A line for each other provider that was asked and failed.
    """
    named = f"{choice.provider} " if is_distribution(choice.provider) else ""
    return MirrorError(
        f"{choice.label}: {choice.provider} no longer serves "
        + ("any of the releases in its index" if choice.alternatives else choice.key),
        expected=f"the packages of {choice.key}" + (" or an older release" if choice.alternatives else ""),
        hint=f"`harness kernels list {named}--refresh` asks for a new index, `harness kernels lock` locks anew",
        detail="\n".join(troubles),
    )


def another_image(choice: Choice, digest: str) -> CacheError:
    """Return the error for a kernel whose boot image is not the one that a lock file names.

    Args:
        choice: The kernel, from a lock file.
        digest: The sha256 of the boot image.
    """
    return CacheError(
        f"{choice.label}: the boot image has sha256 {digest}",
        expected=f"{choice.sha256}, from the lock file",
        hint="`harness kernels info --verify` checks the cache; `harness kernels lock` locks anew",
    )
