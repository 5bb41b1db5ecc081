"""A run record of foreign programs: a result for each program and each of its tests on each kernel."""

from __future__ import annotations

from harness.exec.run import Done
from harness.kernel.types import Choice
from harness.results.command import CommandRecord
from harness.results.gather import plain, shortened
from harness.results.kernels import recorded_kernel
from harness.results.outcomes import Outcome
from harness.results.types import RecordedResult
from harness.vm.spec import MachineSpec


class ExecRecord(CommandRecord):
    """The record of `harness exec`."""

    def add_choice(self, choice: Choice, spec: MachineSpec | None, release: str) -> None:
        """Add a kernel; `spec` is None where it is not on this machine, `release` "" where it did not run."""
        self.add_kernel(recorded_kernel(choice, spec, release), spec.acceleration if spec else None)

    def add(self, label: str, program: str, done: Done, seconds: float) -> None:
        """Add the result of a program on a kernel, and those of its tests.

        Args:
            label: The kernel's.
            program: The program's name, which comes before the names of its tests.
            done: How it ended.
            seconds: How long it took.
        """
        cases = done.suite.cases if done.suite is not None else ()
        failed = [case.name for case in cases if case.outcome is Outcome.FAILED]
        for case in cases:
            reason, failure = case.reason, ""
            if case.outcome is Outcome.FAILED:
                if not reason and (inner := sum(name.startswith(f"{case.name}/") for name in failed)):
                    reason = f"{inner} of the tests in it failed"
                failure = case.output or reason
            self._result(f"{program}::{case.name}", label, case.outcome, case.seconds, reason, failure)
        failure = "\n\n".join(done.said) or (f"exit status {done.status}" if done.status else "")
        self._result(program, label, done.outcome, round(seconds, 3), failure.partition("\n")[0], failure)

    def _result(self, test: str, label: str, outcome: Outcome, seconds: float, reason: str, failure: str) -> None:
        self.add_result(
            RecordedResult(
                test=plain(test),
                kernel=label,
                run=self.run,
                outcome=outcome,
                call=seconds,
                reason=plain(reason),
                failure=plain(shortened(failure)),
            )
        )
