"""`harness selftests`: the kernel's own tests on clones of each kernel."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import (
    add_machine_options,
    add_rootfs_option,
    add_verdict_options,
    downloads,
    machine_settings,
    positive,
    require_memory,
    rootfs_option,
    say,
    seconds,
)

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.kernel.build.source import SourceTree
    from harness.kernel.types import Choice

_SERIES = "6.12"


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `selftests`."""
    from harness.kernel.selector import GRAMMAR

    summary = "build the kernel's own tests (kselftest) and run each on a fresh guest of each kernel"
    parser = subparsers.add_parser(
        "selftests",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". The tree's own makefiles build them; what cannot be built is "
        "listed. Exit status: 0, 1 when a test failed, 3 when one could not be built or run.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "targets", nargs="+", metavar="TARGET[:TEST]", help="a folder of tools/testing/selftests, and one of its tests"
    )
    parser.add_argument(
        "--kernel", action="append", metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several (default: 6.12)"
    )
    parser.add_argument(
        "--source",
        default=_SERIES,
        metavar="TREE",
        help="where the tests come from: a kernel tree, a tarball, a linux-source package, or a series or release that "
        "Debian or kernel.org has (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=positive, default=0, metavar="N", help="of make (default: one per processor)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="guest memory (default: %(default)s)")
    parser.add_argument("--cpus", type=positive, default=1, help="virtual CPUs (default: 1)")
    parser.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="a kernel module that tests need; repeats"
    )
    add_rootfs_option(parser, "the tests")
    parser.add_argument(
        "--timeout", type=seconds, default=0.0, metavar="S", help="for a test (default: six times the target's own)"
    )
    parser.add_argument(
        "--args",
        type=_words,
        default=[],
        metavar="WORDS",
        help="arguments for each test: --args='-t map_in_map'",
    )
    parser.add_argument(
        "--deny",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="tests that are not run, each with reason and expiry date, besides the package's own list; repeats",
    )
    add_verdict_options(parser, "a test")
    add_machine_options(parser)


def _words(text: str) -> list[str]:
    """Read words as a shell does."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {str(error).lower()}") from None


def _run(arguments: argparse.Namespace) -> int:
    from harness import kernel
    from harness.checks import expiring, known_faults
    from harness.exec.record import ExecRecord
    from harness.kernel.build.kbuild import tree_version
    from harness.machines.pool import Pool
    from harness.selftests import build, denied, tools
    from harness.selftests.against import kernel_for
    from harness.selftests.run import SelftestPlan, run_selftests
    from harness.util import architecture
    from harness.vm.spec import Needs

    require_memory(arguments.memory)
    wanted = [build.parse_wanted(text) for text in arguments.targets]
    entries, expired = denied.load(arguments.deny, expiring.today())
    known, old = known_faults.load(arguments.known_faults)
    for line in (*expired, *old):
        say(f"harness: {line}")
    choices = kernel.resolve(arguments.kernel or [_SERIES], progress=say)
    by_architecture: dict[str, list[Choice]] = {}
    for choice in choices:
        by_architecture.setdefault(choice.architecture, []).append(choice)
    for name in by_architecture:
        tools.check(architecture.require(name))  # before anything is fetched
    tree = _tree(arguments.source).path
    files = rootfs_option(arguments)
    needs = Needs(memory=arguments.memory, cpus=arguments.cpus, modules=tuple(arguments.module), rootfs=files)
    with contextlib.closing(Pool(machine_settings(arguments), say)) as pool:
        for name in by_architecture:
            pool.rootfs(files, name)  # what is unusable is said before anything is built
        wants = build.wants_kernel(tree, wanted)
        tests = {}
        for name, of in by_architecture.items():
            against = kernel_for(tree_version(tree), of, pool, needs) if wants else None
            target = architecture.require(name)
            tests[name] = build.build(tree, wanted, jobs=arguments.jobs, say=say, target=target, against=against)
        record = ExecRecord(arguments.record, sys.argv) if arguments.record is not None else None
        return run_selftests(
            SelftestPlan(tests, entries, needs, arguments.args, arguments.timeout, arguments.leaks, known),
            choices,
            pool=pool,
            say=lambda line: print(line, flush=True),
            record=record,
        )


def _tree(text: str) -> SourceTree:
    """Return the tree that --source names: a path, or a series or release."""
    from harness.kernel.build import source
    from harness.kernel.catalog import Catalog

    if Path(text).exists() or "/" in text:
        return source.in_hand(Path(text), "", progress=say)
    with downloads.bars() as meter:
        return source.find(text, lambda: Catalog(progress=say).debian.index(progress=say), progress=say, meter=meter)
