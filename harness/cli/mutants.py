"""`harness mutants`: builds kernels with a mistake in them, and reports which test finds out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import say
from harness.util import tables
from harness.util.data import read_toml

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `mutants`."""
    summary = "try the contracts on kernels with a mistake in them"
    command = subparsers.add_parser("mutants", help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.set_defaults(run=_run)
    command.add_argument("name", nargs="*", help="only mutants of these names; * stands for anything")
    command.add_argument("--series", default="6.1", help="the kernel that is mutated (default: 6.1)")
    command.add_argument("--source", type=Path, help="its source, in place of Debian's linux-source package")
    command.add_argument("--generated", action="store_true", help="those made mechanically, not those written by hand")
    command.add_argument(
        "--alone", action="store_true", help="build and boot a kernel for each, in place of one with switches"
    )
    command.add_argument("--limit", type=int, default=0, metavar="N", help="no more than N of them")
    command.add_argument(
        "--suite", type=Path, action="append", default=[], help="tests to run (default: the contracts)"
    )
    command.add_argument("--pytest", action="append", default=[], metavar="WORD", help="a further argument for pytest")
    command.add_argument("--jobs", "-j", type=int, default=0, help="parallel jobs of make (default: one a processor)")
    command.add_argument("--workers", "-n", type=int, default=1, help="processes that test at a time (default: 1)")
    command.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="how long one may be tested: a first look, whose survivors are tried again",
    )
    command.add_argument("--again", action="store_true", help="try those too of which the verdict is known")
    command.add_argument(
        "--format", choices=("terminal", "markdown"), default="terminal", help="how to print the table"
    )
    command.add_argument("--list", action="store_true", help="only print the mutants")
    command.add_argument("--report", action="store_true", help="only print the table of what is known")


def _run(arguments: argparse.Namespace) -> int:
    from harness.kernel.build import source
    from harness.kernel.catalog import Catalog
    from harness.mutants import table
    from harness.mutants.campaign import Campaign, tests_at
    from harness.mutants.session import Suite

    if arguments.source:
        tree = source.in_hand(arguments.source, "", progress=say)
    else:
        tree = source.from_debian(arguments.series, Catalog(progress=say).debian.index(progress=say), progress=say)
    campaign = Campaign(tree, arguments.series, say)
    mutants = campaign.mutants(arguments.name, generated=arguments.generated, limit=arguments.limit)
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.what}: {mutant.was} -> {mutant.becomes}")
        return 0
    if not arguments.report:
        campaign.run(
            mutants,
            Suite(tests_at(arguments.suite), tuple(arguments.pytest)),
            alone=arguments.alone,
            again=arguments.again,
            workers=arguments.workers,
            seconds=arguments.seconds,
            jobs=arguments.jobs,
        )
    known = table.explanations(read_toml("kernels", "mutants/survivors.toml")["survivor"])
    tried = campaign.known(mutants)
    if arguments.format == "markdown":
        print("\n".join(table.as_markdown(tried, known)))
    else:
        tables.show(table.as_rows(tried, known), header=table.HEADER)
    score = table.score(tried, known)
    untried = len(mutants) - len(tried)
    print(f"\n{score.line()}" + (f", not tried yet {untried}" if untried else ""))
    for name in score.unexplained:
        print(f"survives, and nothing says why: {name}")
    return 1 if score.survived or score.unknown else 0
