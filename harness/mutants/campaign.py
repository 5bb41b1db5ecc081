"""The mutants of one source tree: which there are, how they are tried, what is known of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import harness
from harness.errors import UsageError
from harness.kernel.build import kbuild, kept_tree
from harness.kernel.build.source import SourceTree
from harness.mutants import generate, recipes
from harness.mutants.edit import Mutant
from harness.mutants.schemata import SchemataTrial
from harness.mutants.session import Suite
from harness.mutants.state import KnownResults, MutantResult
from harness.mutants.trial import AloneTrial
from harness.util import cache
from harness.util.data import read_toml

FLAVOUR = "mutants"


class Campaign:
    """Mutants of one tree, and the results that are kept of them.

    Args:
        tree: The source tree.
        series: Whose recipes are taken, "6.1".
        say: Prints a line of progress.
    """

    def __init__(self, tree: SourceTree, series: str, say: Callable[[str], None]) -> None:
        self._tree = tree
        self._series = series
        self._say = say
        self._folder = cache.cache_root() / "mutants" / str(kbuild.tree_version(tree.path))
        self._results = KnownResults(self._folder / "results.jsonl")

    def mutants(self, names: Sequence[str] = (), *, generated: bool = False, limit: int = 0) -> list[Mutant]:
        """Return the mutants that are meant.

        Args:
            names: Their names, with * for anything; none: all.
            generated: Those made mechanically, not those written by hand.
            limit: No more than this many; 0: all.

        Raises:
            UsageError: No mutant has such a name.
        """
        found = self._generated() if generated else recipes.load(self._series, self._read)
        if names:
            patterns = [name if "/" in name else f"*{name}*" for name in names]
            found = [mutant for mutant in found if any(fnmatch.fnmatch(mutant.name, one) for one in patterns)]
            if not found:
                raise UsageError(
                    f"no mutant is called {' or '.join(names)}", hint="scripts/mutants --list [--generated]"
                )
        return found[:limit] if limit > 0 else found

    def known(self, mutants: Sequence[Mutant]) -> list[MutantResult]:
        """Return what is known of mutants; of those that were not tried, nothing."""
        return self._results.of(mutants)

    def run(
        self,
        mutants: Sequence[Mutant],
        suite: Suite,
        *,
        alone: bool = False,
        again: bool = False,
        workers: int = 1,
        seconds: float = 0,
        jobs: int = 0,
    ) -> None:
        """Try mutants; each result is said and kept as it comes.

        Args:
            mutants: Which.
            suite: The tests.
            alone: Whether to build and boot a kernel for each, in place of one with switches.
            again: Whether to try those too of which the verdict is known.
            workers: Processes that test at a time.
            seconds: How long one may be tested; 0: as long as it takes.
            jobs: Parallel jobs of make; 0: one a processor.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        cache.sweep(self._folder)
        tree, say = self._tree, self._say
        lend = partial(kept_tree.kept, tree.path, FLAVOUR, origin=tree.origin, jobs=jobs, progress=say)
        if alone:
            with lend() as kept:
                trial = AloneTrial(kept, suite, self._results, self._folder, say)
                trial.control()
                for _ in trial.run(mutants, again=again):
                    pass
        else:
            every = [*recipes.load(self._series, self._read), *self._generated()]
            about = (lend, self._read, suite, self._results, self._folder, say)
            schemata = SchemataTrial(*about, workers=workers, seconds=seconds)
            for _ in schemata.run(every, mutants, again=again):
                pass

    def _read(self, name: str) -> str:
        return (self._tree.path / name).read_text()

    def _generated(self) -> list[Mutant]:
        return generate.generate(read_toml("kernels", "mutants/functions.toml")["part"], self._read)


def tests_at(named: Sequence[Path]) -> tuple[Path, ...]:
    """Return the tests that mutants are put to: the contracts when none are named.

    Args:
        named: Files and folders.

    Raises:
        UsageError: One does not exist.
    """
    missing = [path for path in named if not path.exists()]
    if missing:
        raise UsageError(f"there are no tests at {missing[0]}", expected="a file or folder of tests")
    return tuple(path.absolute() for path in named) or (Path(harness.__file__).parent / "contracts",)
