"""The search over releases: runs the tests on those that :mod:`harness.boundary.search` asks for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.boundary.answers import reading_of
from harness.boundary.changes import Changes, changes_between
from harness.boundary.search import Boundaries, Reading, find
from harness.errors import InfrastructureError, UsageError
from harness.kernel.catalog import Catalog
from harness.kernel.types import Choice
from harness.results.file import read


@dataclass(frozen=True)
class Searched:
    """The result of a search over releases.

    Attributes:
        choices: The releases, by position.
        boundaries: Where answers change, and every answer.
        known: Answers that records had, by position.
        changes: What came between the two releases of each boundary.
    """

    choices: Sequence[Choice]
    boundaries: Boundaries
    known: Mapping[int, Reading]
    changes: Changes

    @property
    def any_found(self) -> bool:
        """Whether an answer changes anywhere."""
        return any(one.flips for one in self.boundaries.found.values())

    def require_an_answer(self, test: str) -> None:
        """Raise where no kernel answered.

        Args:
            test: What was asked.

        Raises:
            InfrastructureError: No kernel answered; why is in its detail.
        """
        readings = self.boundaries.readings
        if any(reading.answers for reading in readings.values()):
            return
        reasons = [
            f"{self.choices[position].label}: " + "; ".join(dict.fromkeys(reading.silent.values()))
            for position, reading in sorted(readings.items())
        ]
        raise InfrastructureError(
            f"no kernel gave an answer to {test}",
            expected="at least one that is available, boots, and fits the test",
            detail="\n".join(reasons[:12]),
        )


class Question(Protocol):
    """What is asked of each release."""

    @property
    def contract(self) -> str:
        """Id of the contract in question; "" for something else."""
        ...

    def means(self, test: str) -> bool:
        """Whether a test of a record is one of those in question."""
        ...

    def run_on(self, choice: Choice, folder: Path) -> Reading:
        """Ask one release; the folder is for files."""
        ...


def search_releases(
    asked: Question,
    selectors: Sequence[str],
    *,
    records: Sequence[Path] = (),
    exhaustive: bool = False,
    one_flip: bool = False,
    say: Callable[[str], None],
) -> Searched:
    """Find between which releases the answers change.

    Args:
        asked: What is asked of each release.
        selectors: Every release that they name is a candidate.
        records: Run records whose answers on these exact kernels are believed.
        exhaustive: Run every release.
        one_flip: Believe that there is one change in all of them.
        say: Prints a line of progress.

    Raises:
        UsageError: There is one release only, or they are of several architectures, or pytest finds no such test.
    """
    catalog = Catalog(progress=say)
    choices = catalog.resolve(selectors, every=True)
    if len(choices) < 2:
        raise UsageError(
            f"{selectors[0]!r} is one release: {choices[0].version}",
            expected="at least two, to find a boundary between",
            hint="name a series (6.12) or a range ('>=6.12,<7.2'); `harness kernels list SERIES` shows its releases",
        )
    if len(architectures := {choice.architecture for choice in choices}) > 1:
        raise UsageError(
            f"the releases are of several architectures: {', '.join(sorted(architectures))}",
            expected="those of one, as a boundary lies between two releases",
            hint="what differs between architectures: harness compare",
        )
    known = _known(records, choices, asked)
    say(f"{len(choices)} releases, from {choices[0].version} to {choices[-1].version}")
    with tempfile.TemporaryDirectory(prefix="harness-boundary-") as folder:

        def oracle(position: int) -> Reading:
            began = time.monotonic()
            reading = asked.run_on(choices[position], Path(folder))
            say(f"{choices[position].label}: {reading.text} ({time.monotonic() - began:.0f} s)")
            return reading

        found = find(
            len(choices),
            oracle,
            groups=[choice.version.series for choice in choices],
            known=known,
            exhaustive=exhaustive,
            one_flip=one_flip,
        )
    return Searched(choices, found, known, changes_between(catalog, choices, found, progress=say))


def _known(paths: Sequence[Path], choices: Sequence[Choice], asked: Question) -> dict[int, Reading]:
    known = {}
    for path in paths:
        record = read(path)
        labels = {kernel.key: kernel.label for kernel in record.kernels}
        for position, choice in enumerate(choices):
            if choice.key in labels:
                reading = reading_of(record, labels[choice.key], contract=asked.contract, about=asked.means)
                if reading.answers:
                    known[position] = reading
    return known
