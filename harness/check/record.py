"""A run record of a check: a result for each row of its table on each kernel."""

from __future__ import annotations

from collections.abc import Iterable

from harness.check.results import Kind, Result, Verdict
from harness.results.command import CommandRecord
from harness.results.gather import plain, shortened
from harness.results.outcomes import Outcome
from harness.results.types import Fault, Observation, RecordedKernel, RecordedResult
from harness.vm.spec import Acceleration

_OUTCOMES = {
    Verdict.OK: Outcome.PASSED,
    Verdict.HUNG: Outcome.HUNG,
    Verdict.FAULTED: Outcome.FAULTED,
    Verdict.CRASHED: Outcome.CRASHED,
    Verdict.LOST: Outcome.INFRASTRUCTURE,
}
"""The outcome of each verdict; that of all others is "failed"."""

_SENTENCE = "The answer to a loader."


class CheckRecord(CommandRecord):
    """The record of `harness check`."""

    def add(self, kernel: RecordedKernel, results: Iterable[Result], acceleration: Acceleration | None) -> None:
        """Add the results of an object on a kernel.

        Args:
            kernel: The kernel.
            results: The results.
            acceleration: How it was run; None when it was not.
        """
        self.add_kernel(kernel, acceleration)
        for one in results:
            self.add_result(recorded(one, self.run))


def recorded(one: Result, run: str) -> RecordedResult:
    """Return a result as records have it.

    Args:
        one: The result.
        run: The run's id.
    """
    # A program's name is a name in C: what has a blank is none.
    name = {
        Kind.OBJECT: one.object,
        Kind.MAPS: f"{one.object}::the maps",
        Kind.PROGRAM: f"{one.object}::{one.program}",
        Kind.LOADER: f"{one.object}::{one.program} (loader)",
    }[one.kind]
    seen = Observation(_SENTENCE, plain(one.cell), takes="errno")
    return RecordedResult(
        test=plain(name),
        kernel=one.kernel,
        run=run,
        outcome=_OUTCOMES.get(one.verdict, Outcome.FAILED),
        reason=plain(one.reason),
        observations=() if one.verdict is Verdict.LOST else (seen,),
        faults=tuple(Fault(*plain(title).split(": ", 1)) for title in one.faults),
        cost=one.cost or {},
        failure="" if one.is_good else plain(shortened(one.message)),
    )
