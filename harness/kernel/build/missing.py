"""Kernels that no provider has: built from the sources of kernel.org, where the user allows it (`--build-missing`).

What builds is imported where it is used: most runs build nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness.errors import HarnessError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.download import Meter
from harness.kernel.selector import Item, SelectorKind
from harness.kernel.types import Choice, Kernel, Progress
from harness.util import architecture

SOURCE = "source"
"""The provider's name in choices that are to be built."""

_FLAVOUR = "minimal"

_KINDS = (SelectorKind.SERIES, SelectorKind.RELEASE)


def choices(item: Item, of: str, *, progress: Progress) -> list[Choice]:
    """Return the kernel that an item means, to be built; none where it is neither a series nor a release.

    Args:
        item: What a user named.
        of: Name of the architecture.
        progress: Called with each line that a person should see.

    Raises:
        SelectorError: There is no such release.
        MirrorError: kernel.org does not answer.
    """
    from harness.kernel.build import source

    if item.kind not in _KINDS:
        return []
    _, version, _, _ = source.on_kernel_org(item.word, progress=progress)
    return [Choice(item.text, version, SOURCE, str(version), item.flavour or _FLAVOUR, architecture=of)]


def build(choice: Choice, *, progress: Progress, meter: Meter) -> Kernel:
    """Build a kernel, unless the cache has it.

    Args:
        choice: One of :func:`choices`.
        progress: Called with each line that a person should see.
        meter: Called with the progress of the download.

    Raises:
        HarnessError: Its sources are unavailable, or it cannot be built.
    """
    from harness.kernel.build import kbuild, source

    of = choice.architecture
    known = kernel_cache.load(kbuild.choice_of(choice.version, choice.flavour, wanted=of), progress=progress)
    if known is None:
        tree = source.from_kernel_org(choice.key, progress=progress, meter=meter)
        known = kbuild.build(tree.path, choice.flavour, origin=tree.origin, wanted=of, progress=progress).kernel
    return replace(known, label=choice.label)


def reason(item: Item, of: str, index: Callable[[], dict[str, Any]], *, progress: Progress) -> str:
    """Return what `harness kernels build` would build of an item, or why nothing.

    Args:
        item: What a user named.
        of: Name of the architecture.
        index: Returns Debian's index, whose linux-source packages are built before kernel.org's releases.
        progress: Called with each line that a person should see.
    """
    from harness.kernel.build import source

    if item.kind not in _KINDS:
        return "builds a series or a release, and this is neither"
    makes = f"`{command(item.word, of)}` makes it"
    try:
        package = source.debian_package(item.word, index())
        if package is not None:
            return f"{package['name']} {package['version']}: {makes}"
        _, version, _, _ = source.on_kernel_org(item.word, progress=progress)
    except HarnessError as error:
        return error.what
    return f"{version} of kernel.org: {makes}"


def command(word: str, of: str, flavour: str = "") -> str:
    """Return the command that builds a kernel.

    Args:
        word: Its series or release.
        of: Name of its architecture.
        flavour: "" for the default.
    """
    options = [f" --flavour {flavour}"] if flavour else []
    options += [] if of == architecture.own_name() else [f" --arch {of}"]
    return f"harness kernels build {word}{''.join(options)}"
