"""`harness mutants`: builds kernels with a mistake in them, and reports which test finds out.

Imports the foundations, :mod:`harness.kernel` and :mod:`harness.mutants`.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from argparse import _SubParsersAction as SubParsers
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import harness
from harness.errors import UsageError
from harness.kernel.build import kbuild, kept_tree, source
from harness.kernel.catalog import Catalog
from harness.mutants import generate, recipes, table
from harness.mutants.edit import Mutant
from harness.mutants.schemata import Panel
from harness.mutants.session import Suite
from harness.mutants.state import MutantResult, Results
from harness.mutants.trial import Trial
from harness.util import cache
from harness.util.data import read_toml

FLAVOUR = "mutants"


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `mutants`."""
    summary = "try the contracts on kernels with a mistake in them"
    command = subparsers.add_parser("mutants", help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.set_defaults(run=run)
    command.add_argument("name", nargs="*", help="only mutants of these names; * stands for anything")
    command.add_argument("--series", default="6.1", help="the kernel that is mutated (default: 6.1)")
    command.add_argument("--source", type=Path, help="its source, in place of Debian's linux-source package")
    command.add_argument("--generated", action="store_true", help="those made mechanically, not those written by hand")
    command.add_argument(
        "--alone", action="store_true", help="build and boot a kernel for each, in place of one with switches"
    )
    command.add_argument("--limit", type=int, default=0, metavar="N", help="no more than N of them")
    command.add_argument("--suite", type=Path, action="append", help="tests to run (default: the contracts)")
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
    command.add_argument("--list", action="store_true", help="only print the mutants")
    command.add_argument("--report", action="store_true", help="only print the table of what is known")


def say(line: str) -> None:
    """Print a line of progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Try mutants; return 0 when each one that survives is shown to be equivalent, 1 when not."""
    if arguments.source:
        tree = source.in_hand(arguments.source, "", progress=say)
    else:
        catalog = Catalog(progress=say)
        tree = source.from_debian(arguments.series, catalog.debian.index(progress=say), progress=say)
    version = kbuild.tree_version(tree.path)

    def read(name: str) -> str:
        return (tree.path / name).read_text()

    mutants = _chosen(arguments, read)
    folder = cache.cache_root() / "mutants" / str(version)
    results = Results(folder / "results.jsonl")
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.what}: {mutant.was} -> {mutant.becomes}")
        return 0
    if not arguments.report:
        folder.mkdir(parents=True, exist_ok=True)
        cache.sweep(folder)
        suite = Suite(tuple(_suite(arguments.suite)), tuple(arguments.pytest))
        lend = partial(kept_tree.kept, tree.path, FLAVOUR, origin=tree.origin, jobs=arguments.jobs, progress=say)
        if not arguments.alone:
            every = [*recipes.load(arguments.series, read), *_generated(read)]
            panel = Panel(lend, read, suite, results, folder, say, workers=arguments.workers, seconds=arguments.seconds)
            _exhaust(panel.run(every, mutants, again=arguments.again))
        else:
            with lend() as kept:
                trial = Trial(kept, suite, results, folder, say)
                trial.control()
                _exhaust(trial.run(mutants, again=arguments.again))
    known = table.explanations(read_toml("kernels", "mutants/survivors.toml")["survivor"])
    tried = results.of(mutants)
    print("\n".join(table.lines(tried, known)))
    score = table.score(tried, known)
    untried = len(mutants) - len(tried)
    print(f"\n{score.line()}" + (f", not tried yet {untried}" if untried else ""))
    for name in score.unexplained:
        print(f"survives, and nothing says why: {name}")
    return 1 if score.survived or score.unknown else 0


def _exhaust(results: Iterable[MutantResult]) -> None:
    for _ in results:
        pass  # each was said and kept as it came


def _chosen(arguments: argparse.Namespace, read: Callable[[str], str]) -> list[Mutant]:
    mutants = _generated(read) if arguments.generated else recipes.load(arguments.series, read)
    if arguments.name:
        patterns = [name if name.startswith("hand/") or "/" in name else f"*{name}*" for name in arguments.name]
        mutants = [mutant for mutant in mutants if any(fnmatch.fnmatch(mutant.name, one) for one in patterns)]
        if not mutants:
            raise UsageError(
                f"no mutant is called {' or '.join(arguments.name)}", hint="scripts/mutants --list [--generated]"
            )
    return mutants[: arguments.limit] if arguments.limit > 0 else mutants


def _generated(read: Callable[[str], str]) -> list[Mutant]:
    return generate.generate(read_toml("kernels", "mutants/functions.toml")["part"], read)


def _suite(named: Sequence[Path] | None) -> list[Path]:
    if named:
        missing = [path for path in named if not path.exists()]
        if missing:
            raise UsageError(f"there are no tests at {missing[0]}", expected="a file or folder of tests")
        return [path.absolute() for path in named]
    return [Path(harness.__file__).parent / "contracts"]
