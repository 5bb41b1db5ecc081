"""`harness kernels`: list, fetch, build, describe, prune and lock kernels."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import downloads, positive, say
from harness.errors import UsageError
from harness.kernel import cache as kernel_cache
from harness.kernel import lockfile, prune, selector
from harness.kernel.build import kbuild, source
from harness.kernel.catalog import Catalog, policy
from harness.kernel.providers import distributions
from harness.kernel.types import Choice
from harness.util import architecture, tables
from harness.util.cache import cache_root

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

SELECTORS = "which kernels: " + selector.GRAMMAR


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `kernels` and its commands."""
    parser = subparsers.add_parser("kernels", help="list, fetch, build and prune kernels")
    commands = parser.add_subparsers(dest="kernels_command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.set_defaults(run=run)
        return command

    command = add("list", _list, "list the kernels that are available")
    command.add_argument("selector", nargs="*", help=f"{SELECTORS}; none: one line for each series")
    architecture_of(command)
    command.add_argument("--flavour", help="only this flavour (cloud, generic, rt, minimal, debug, ...)")
    command.add_argument("--json", action="store_true", help="print JSON, one object for each release")
    command.add_argument("--refresh", action="store_true", help="ask the mirror even when its index is fresh")
    command.add_argument(
        "--verbose", "-v", action="store_true", help="with a selector: what each provider has of it, or why not"
    )

    command = add("fetch", _fetch, "bring kernels into the cache")
    architecture_of(command)
    command.add_argument("selector", nargs="+", help=SELECTORS)
    command.add_argument("--jobs", "-j", type=positive, default=4, help="downloads at a time (default: 4)")
    command.add_argument("--refresh", action="store_true", help="ask the mirror even when its index is fresh")

    command = add("build", _build, "build a kernel from source")
    command.add_argument("version", nargs="?", help="a series (newest source known) or a release; with --source: none")
    command.add_argument("words", nargs="*", metavar="CC=COMPILER", help="a compiler, in place of the table's choice")
    command.add_argument("--flavour", choices=tuple(kbuild.FLAVOURS), default="minimal", help="default: minimal")
    command.add_argument(
        "--arch",
        default="",
        metavar="NAME",
        help="another architecture than this machine's, by Debian's cross compiler",
    )
    command.add_argument(
        "--source", help="a tree, a git repository (here or a URL), a tarball or a linux-source package"
    )
    command.add_argument(
        "--ref", default="", help="the commit, tag or branch of a git repository: of --source, else the stable kernels'"
    )
    command.add_argument(
        "--from", dest="origin", choices=("debian", "kernel.org"), help="default: the first that has it"
    )
    command.add_argument("--jobs", "-j", type=positive, default=0, help="parallel jobs (default: one a processor)")
    command.add_argument("--again", action="store_true", help="build even when the cache has it")

    command = add("info", _info, "describe kernels, and check what the cache holds of them")
    architecture_of(command)
    command.add_argument("selector", nargs="+", help=SELECTORS)
    command.add_argument("--verify", action="store_true", help="read every file in the cache and compare digests")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("prune", _prune, "remove from the cache what is not needed, and report sizes")
    command.add_argument("--dry-run", "-n", action="store_true", help="only say what would be removed")
    command.add_argument(
        "--unused",
        type=float,
        metavar="DAYS",
        help="also kernels not used for that long; saved machines and images: instead of a day",
    )
    command.add_argument("--all", action="store_true", help="also every kernel, saved machine and image")

    command = add("lock", _lock, "write a lock file of exact kernels, for --kernel=@lock")
    architecture_of(command)
    command.add_argument("selector", nargs="+", help=SELECTORS)
    command.add_argument("--output", "-o", type=Path, default=Path(lockfile.DEFAULT), help="default: kernels.lock")
    command.add_argument("--refresh", action="store_true", help="ask the mirror even when its index is fresh")


def architecture_of(command: argparse.ArgumentParser) -> None:
    """Add the option for the architecture of selectors that name none."""
    command.add_argument(
        "--arch", default="", metavar="NAME", help="architecture of selectors that name none (default: this machine's)"
    )


def megabytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


# list


def _list(arguments: argparse.Namespace) -> int:
    catalog = Catalog(progress=say, refresh=arguments.refresh, default=arguments.arch)
    if arguments.verbose:
        return _list_reasons(catalog, arguments.selector)
    if arguments.selector:
        choices = [choice for one in catalog.resolve(arguments.selector) for choice in (one, *one.alternatives)]
        chosen = {(choice.provider, choice.key) for choice in choices}
        offers = [
            offer
            for offer in catalog.offers_asked()
            if (offer.provider, offer.key) in chosen and arguments.flavour in (None, offer.flavour)
        ]
        known = {(offer.provider, offer.key) for offer in offers}
        # The offers are those of providers with a complete list; what another one has was found by the selector.
        offers += [choice for choice in choices if (choice.provider, choice.key) not in known]
    else:
        offers = [
            offer
            for offer in catalog.offers()
            if offer.version.series >= policy().oldest and arguments.flavour in (None, offer.flavour)
        ]
    for (name, _), trouble in catalog.troubles.items():
        say(f"{name}: {trouble}")
    if arguments.json:
        print(json.dumps([_offer_facts(offer) for offer in offers], indent=1))
    elif arguments.selector:
        tables.show(
            (
                (
                    str(offer.version),
                    offer.flavour,
                    offer.provider,
                    offer.release,
                    offer.revision,
                    offer.where,
                    megabytes(offer.size) if offer.size else "",
                    "yes" if offer.cached else "",
                )
                for offer in offers
            ),
            header="release,flavour,provider,uname -r,package,found in,size,cached".split(","),
            right={"size"},
        )
    else:
        tables.show(
            (_series_row(group) for group in _by_series(offers)),
            header="series newest releases cached provider flavours size".split(),
            right={"releases", "size"},
        )
        print()
        tables.show(
            (
                (name, record["title"], record["tried"] or "not tried")
                for name, record in distributions.records().items()
            ),
            header=("distribution", "is", "real server tried"),
        )
    # A list without the mirror's kernels is not the list that was asked for.
    return next((trouble.exit_status for trouble in catalog.troubles.values()), 0)


def _list_reasons(catalog: Catalog, selectors: Sequence[str]) -> int:
    if not selectors:
        raise UsageError("-v explains a selector, and none is given", hint="harness kernels list 6.6 -v")
    rows = [(selector, name, text) for selector in selectors for name, text in catalog.reasons(selector)]
    tables.show(rows, header=("selector", "provider", "what it has, or why not"))
    return 0


def _by_series(offers: Sequence[Choice]) -> Iterator[list[Choice]]:
    series = sorted({offer.version.series for offer in offers})
    return ([offer for offer in offers if offer.version.series == one] for one in series)


def _series_row(group: Sequence[Choice]) -> tuple[str, ...]:
    releases = {offer.version for offer in group}
    cached = sorted({str(offer.version) for offer in group if offer.cached})
    preferred = policy().flavours
    flavours = sorted(
        {offer.flavour for offer in group},
        key=lambda flavour: preferred.index(flavour) if flavour in preferred else len(preferred),
    )
    newest = max(
        (offer for offer in group if offer.flavour == flavours[0]), key=lambda offer: (offer.version, offer.rank)
    )
    return (
        "{}.{}".format(*newest.version.series),
        str(newest.version),
        str(len(releases)),
        ", ".join(cached),
        ", ".join(sorted({offer.provider for offer in group})),
        ", ".join(flavours),
        megabytes(newest.size) if newest.size else "",
    )


def _offer_facts(offer: Choice) -> dict[str, object]:
    return {
        "series": "{}.{}".format(*offer.version.series),
        "release": str(offer.version),
        "flavour": offer.flavour,
        "architecture": offer.architecture,
        "provider": offer.provider,
        "key": offer.key,
        "uname": offer.release,
        "package": offer.revision,
        "where": offer.where,
        "size": offer.size,
        "cached": offer.cached,
    }


# fetch


def _fetch(arguments: argparse.Namespace) -> int:
    stop = threading.Event()
    with downloads.bars() as draw:

        def meter(name: str, done: int, total: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            draw(name, done, total)

        catalog = Catalog(progress=say, meter=meter, refresh=arguments.refresh, default=arguments.arch)
        choices = catalog.resolve(arguments.selector)
        _say_choices(choices)
        kernels = downloads.parallel([partial(catalog.acquire, choice) for choice in choices], arguments.jobs, stop)
    for kernel in kernels:
        print(f"{kernel.label}: {kernel.origin} -> {kernel.boot_image}")
    return 0


def _say_choices(choices: Sequence[Choice]) -> None:
    for choice in choices:
        say(f"{choice.label}: {choice.version} {choice.flavour} ({choice.provider} {choice.key})")


# build


def _build(arguments: argparse.Namespace) -> int:
    words = [word for word in (arguments.version, *arguments.words) if word]
    compilers = [word.removeprefix("CC=") for word in words if word.startswith("CC=")]
    versions = [word for word in words if not word.startswith("CC=")]
    if len(compilers) > 1 or len(versions) > 1 or bool(versions) == bool(arguments.source or arguments.ref):
        raise UsageError(
            "it is not clear what to build",
            expected="either one version or --source or --ref, and at most one CC=",
            hint="harness kernels build 6.12 --flavour debug; or: harness kernels build --source DIR CC=gcc-12",
        )
    remote = "://" in (arguments.source or "")
    if remote and not arguments.ref:
        raise UsageError(
            f"{arguments.source} has many kernels", expected="--ref with a tag or branch", hint="--ref v6.6.30"
        )
    wanted = architecture.or_own(arguments.arch).name
    kbuild.fragment_settings(arguments.flavour, wanted)  # a refusal comes before anything is fetched
    with downloads.bars() as meter:
        if remote or not (arguments.source or versions):
            tree = source.from_remote(arguments.source or "", arguments.ref, progress=say)
        elif arguments.source:
            tree = source.in_hand(Path(arguments.source), arguments.ref, progress=say)
        else:
            catalog = Catalog(progress=say)

            def index() -> dict[str, Any]:
                return catalog.debian.index(progress=say)

            if arguments.origin == "debian":
                tree = source.from_debian(versions[0], index(), progress=say, meter=meter)
            elif arguments.origin == "kernel.org":
                tree = source.from_kernel_org(versions[0], progress=say, meter=meter)
            else:
                tree = source.find(versions[0], index, progress=say, meter=meter)
    built = kbuild.build(
        tree.path,
        arguments.flavour,
        origin=tree.origin,
        cc=compilers[0] if compilers else "",
        jobs=arguments.jobs,
        again=arguments.again,
        wanted=wanted,
        progress=say,
    )
    kernel = built.kernel
    print(f"{kernel.release}: {kernel.boot_image}")
    print(f"  {kernel.origin}; compiled in {built.seconds:.0f} s")
    print("  not in this tree: " + (", ".join(built.gaps.unknown) or "nothing"))
    print("  dropped, as something they depend on is missing: " + (", ".join(built.gaps.dropped) or "nothing"))
    print(f"  use it: pytest --kernel={kernel.label}")
    return 0


# info


def _info(arguments: argparse.Namespace) -> int:
    catalog = Catalog(progress=say, default=arguments.arch)
    facts = []
    status = 0
    for choice in catalog.resolve(arguments.selector):
        key = catalog.local.cached_key(choice) if choice.provider == catalog.local.name else choice.key
        path = kernel_cache.entry_folder(choice.provider, key)
        entry = kernel_cache.read_entry(path)
        one: dict[str, object] = {
            "label": choice.label,
            "release": str(choice.version),
            "flavour": choice.flavour,
            "architecture": choice.architecture,
            "provider": choice.provider,
            "key": choice.key,
            "cached": str(path) if entry else "no",
        }
        if entry is not None:
            damage = entry.damage(thorough=arguments.verify)
            status = 3 if damage else status
            one |= {
                "uname -r": entry.record["release"],
                "origin": entry.record["origin"],
                "boot image": str(path / str(entry.record["boot"])),
                "sha256": entry.digest,
                "PVH": "yes" if entry.record["pvh"] else f"not used: QEMU boots the {_format(choice)}",
                "payload": entry.record["compression"] or "given uncompressed",
                "size": megabytes(prune.size_of(path)),
                "modules": "yes" if entry.record["modules"] else "none",
                "state": f"damaged: {damage}" if damage else ("verified" if arguments.verify else "whole"),
            }
            if entry.record.get("built"):
                one |= {"built in": f"{entry.record['seconds']} s", "lacks": entry.record["gaps"]}
        facts.append(one)
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        print("\n\n".join("\n".join(f"{name:>12}: {value}" for name, value in one.items()) for one in facts))
    return status


def _format(choice: Choice) -> str:
    return architecture.require(choice.architecture).image


# prune


def _prune(arguments: argparse.Namespace) -> int:
    removed = 0
    for victim in prune.victims(unused_days=arguments.unused, everything=arguments.all, now=time.time()):
        verb = "would remove" if arguments.dry_run else "removing"
        print(f"{verb} {victim.path} ({victim.reason}, {megabytes(victim.size)})")
        removed += victim.size
        if not arguments.dry_run:
            prune.remove(victim)
    print(f"{'would free' if arguments.dry_run else 'freed'} {megabytes(removed)}")
    sizes = [*prune.report(), ("all of it", prune.size_of(cache_root()))]
    tables.show(
        ((what, megabytes(size)) for what, size in sizes), header=("what the cache holds", "size"), right={"size"}
    )
    return 0


# lock


def _lock(arguments: argparse.Namespace) -> int:
    with downloads.bars() as meter:
        catalog = Catalog(progress=say, meter=meter, refresh=arguments.refresh, default=arguments.arch)
        locked: list[Choice] = []
        packages: dict[str, dict[str, str]] = {}
        for choice in catalog.resolve(arguments.selector):
            if choice.key.startswith("/"):
                raise UsageError(
                    f"{choice.label} is a file of this machine, which another would not have",
                    expected="kernels that every machine can get",
                    hint="name releases; what is built here is 6.12:minimal and the like",
                )
            taken = catalog.acquire_which(choice)[1]
            entry = kernel_cache.read_entry(kernel_cache.entry_folder(taken.provider, taken.key))
            assert entry is not None, "a kernel that was acquired has an entry"
            locked.append(replace(taken, alternatives=(), sha256=entry.digest))
            packages[taken.key] = entry.record.get("packages", {})
    lockfile.write(arguments.output, locked, packages)
    _say_choices(locked)
    print(f"wrote {arguments.output}; use it: pytest --kernel=@{_lock_word(arguments.output)}")
    return 0


def _lock_word(path: Path) -> str:
    return "lock" if path == Path(lockfile.DEFAULT) else os.fspath(path)
