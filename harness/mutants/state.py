"""Results of mutants on disk: a file of JSON lines; the last line of a mutant counts.

A run that is interrupted loses only its current mutant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import CacheError
from harness.mutants.edit import Mutant
from harness.mutants.status import MutantStatus


@dataclass(frozen=True)
class MutantResult:
    """The result of one mutant.

    Attributes:
        mutant: Its name.
        area: As in :class:`harness.mutants.edit.Mutant`.
        what: As in :class:`harness.mutants.edit.Mutant`.
        was: As in :class:`harness.mutants.edit.Mutant`.
        becomes: As in :class:`harness.mutants.edit.Mutant`.
        status: Its status.
        how: As in :class:`harness.mutants.status.TrialResult`.
        test: As in :class:`harness.mutants.status.TrialResult`.
        message: As in :class:`harness.mutants.status.TrialResult`, shortened for a table.
        ran: Number of tests that ran on it.
        relevant: Number of tests that come past its change; -1 when unknown.
        build_id: Build id of its kernel; "" when none was built.
        suite: Digest of the tests that ran on it.
        seconds: Seconds for building and testing it.
        twin: Another mutant with the same kernel, or "".
    """

    mutant: str
    area: str
    what: str
    was: str
    becomes: str
    status: MutantStatus
    how: str = ""
    test: str = ""
    message: str = ""
    ran: int = 0
    relevant: int = -1
    build_id: str = ""
    suite: str = ""
    seconds: float = 0.0
    twin: str = ""

    @classmethod
    def of(cls, mutant: Mutant, status: MutantStatus, **more: Any) -> MutantResult:
        """Return a result of a mutant."""
        return cls(mutant.name, mutant.area, mutant.what, mutant.was, mutant.becomes, status, **more)


def describe(result: MutantResult) -> str:
    """Return the result of a mutant on one line."""
    text = f"{result.mutant}: {result.status.value}"
    if result.twin:
        text += f" of {result.twin}"
    if result.test:
        text += f" ({result.how}) by {result.test.rpartition('/')[2]}"
    return f"{text}, {result.seconds:.0f} s"


class KnownResults:
    """The results of one kernel's mutants.

    Args:
        path: The file; it may be missing.

    Raises:
        CacheError: A line cannot be parsed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, MutantResult] = {}
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                continue  # the process that wrote it was interrupted
            try:
                record: dict[str, Any] = json.loads(line)
                status = record.pop("fate", None) or record["status"]  # "fate": before version 0.1.0
                result = MutantResult(**{**record, "status": MutantStatus(status)})
            except (ValueError, TypeError, KeyError) as error:
                raise CacheError(
                    f"line {number} of {path} is not a result of a mutant: {error}",
                    expected="lines that this version of the harness wrote",
                    hint="remove the file; every mutant is then tried again",
                ) from error
            self._known[result.mutant] = result
        if lines and not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]))

    def get(self, mutant: Mutant) -> MutantResult | None:
        """Return the result of a mutant; None when there is none, or the mutant has changed since."""
        found = self._known.get(mutant.name)
        return found if found is not None and (found.was, found.becomes) == (mutant.was, mutant.becomes) else None

    def of(self, mutants: Iterable[Mutant]) -> list[MutantResult]:
        """Return the known results of some mutants."""
        return [result for result in map(self.get, mutants) if result is not None]

    def holds(self, mutant: Mutant, suite: str) -> bool:
        """Return whether trying a mutant again would give nothing new.

        Args:
            mutant: The mutant.
            suite: Digest of the tests for it.
        """
        known = self.get(mutant)
        if known is None or known.status is MutantStatus.UNKNOWN:
            return False
        return known.status is not MutantStatus.SURVIVED or known.suite == suite

    def same_kernel(self, build_id: str, suite: str) -> MutantResult | None:
        """Return the result of the mutant whose kernel has this build id, if it is valid for the current tests."""
        return next(
            (
                result
                for result in self._known.values()
                if result.build_id == build_id
                and (
                    result.status is MutantStatus.KILLED
                    or (result.status is MutantStatus.SURVIVED and result.suite == suite)
                )
            ),
            None,
        )

    def add(self, result: MutantResult) -> None:
        """Store a result at once and permanently.

        Raises:
            CacheError: It cannot be written.
        """
        result = replace(result, message=result.message[:4000])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as stream:
                stream.write(json.dumps({**asdict(result), "status": result.status.value}) + "\n")
        except OSError as error:
            raise CacheError(
                f"{self._path} cannot be written: {error.strerror}", hint="make room in the cache"
            ) from error
        self._known[result.mutant] = result

    def killers(self, near: str = "") -> dict[str, int]:
        """Return the number of mutants that each test has killed.

        Args:
            near: Only mutants whose names begin with this: those of one function.
        """
        counts: dict[str, int] = {}
        for result in self._known.values():
            if result.status is MutantStatus.KILLED and result.mutant.startswith(near):
                counts[result.test] = counts.get(result.test, 0) + 1
        return counts
