"""Tries mutants one by one: builds each from a kept tree, boots it through pytest like any kernel, judges its reports.

The next mutant is built while the current one is tested. A mutant's kernel and template are removed with it: its
pytest has its own cache, which shares the guest images and BPF objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import BuildError, InfrastructureError
from harness.kernel.build.kept_tree import Kept
from harness.kernel.types import Progress
from harness.mutants import inner_plugin
from harness.mutants.edit import Mutant, changed
from harness.mutants.session import KERNEL, PRESENCE_TEST, Suite, build_id_of, last_attempts, make_cache, whole_round
from harness.mutants.session import run as run_session
from harness.mutants.state import KnownResults, MutantResult, describe
from harness.mutants.status import MutantStatus, TrialResult, judge
from harness.util import cache as disk_cache

ATTEMPTS = 3
"""Number of runs without a verdict after which a mutant has no verdict."""

RUN_SECONDS = 3600.0
"""Seconds that the tests may take on one mutant."""

BUILD_SECONDS = 1800.0

CONTROL = Mutant("control", "", "the kernel as it is", ())


@dataclass(frozen=True)
class _Built:
    """A mutant's kernel, or the `error` of its build."""

    mutant: Mutant
    vmlinux: Path
    build_id: str = ""
    seconds: float = 0.0
    error: str = ""


class AloneTrial:
    """Tries mutants, each in a kernel of its own.

    Args:
        kept: The tree for the builds.
        suite: The tests.
        results: Known results; new results are added.
        folder: A folder for intermediate files; created.
        progress: Called with a line of text for each step.
    """

    def __init__(self, kept: Kept, suite: Suite, results: KnownResults, folder: Path, progress: Progress) -> None:
        self._kept = kept
        self._suite = suite
        self._suite_digest = suite.digest()
        self._results = results
        self._folder = folder
        self._progress = progress
        self._durations: dict[str, float] = {}
        self.failing: dict[str, str] = {}
        self._control_id = ""

    def control(self) -> None:
        """Build the kernel without mutants and run the tests on it; tests that fail there judge no mutant.

        Raises:
            InfrastructureError: No test passes.
        """
        started = time.monotonic()
        built = self._build(CONTROL)
        if built.error:
            raise BuildError("the kernel without mutants does not build", detail=built.error)
        self._control_id = built.build_id
        known = self._folder / "control.json"
        passed: dict[str, Any] = disk_cache.from_record(known, dict) or {}
        if passed.get("build_id") == built.build_id and passed.get("suite") == self._suite_digest:
            self._durations, self.failing = passed["durations"], passed["failing"]
            built.vmlinux.unlink()
        else:
            self._progress(f"control: built in {built.seconds:.0f} s; running every test on it")
            verdict = self._judged(built)
            if not any(PRESENCE_TEST in test and test not in self.failing for test in self._durations):
                raise InfrastructureError(
                    "the kernel without mutants did not run",
                    expected="tests that pass on it, because only they can judge a mutant",
                    detail=verdict.message,
                )
            facts = {"build_id": built.build_id, "suite": self._suite_digest, "failing": self.failing}
            disk_cache.write_record(known, {**facts, "durations": self._durations})
            self._progress(f"control: {len(self._durations)} tests, {time.monotonic() - started:.0f} s")
        for test, message in self.failing.items():
            self._progress(f"ignored, because it fails without a mutant: {test}: {message[:150]}")

    def run(self, mutants: Sequence[Mutant], *, again: bool = False) -> Iterator[MutantResult]:
        """Try mutants, and yield each result as soon as it is known.

        Args:
            mutants: The mutants; those with a valid verdict are skipped.
            again: Try those with a valid verdict too.
        """
        todo = [mutant for mutant in mutants if again or not self._results.holds(mutant, self._suite_digest)]
        with ThreadPoolExecutor(max_workers=1) as builder:
            coming: Future[_Built] | None = builder.submit(self._build, todo[0]) if todo else None
            try:
                for number, mutant in enumerate(todo, 1):
                    assert coming is not None, "every mutant is built while the previous one is tested"
                    started = time.monotonic()
                    built = coming.result()
                    coming = builder.submit(self._build, todo[number]) if number < len(todo) else None
                    result = self._result(mutant, built, started)
                    self._results.add(result)
                    self._progress(f"{number} of {len(todo)}: {describe(result)}")
                    yield result
            finally:
                if coming is not None:
                    coming.cancel()

    def _result(self, mutant: Mutant, built: _Built, started: float) -> MutantResult:
        facts = MutantResult.of(
            mutant, MutantStatus.UNBUILT, message=built.error, build_id=built.build_id, suite=self._suite_digest
        )
        if built.error:
            return replace(facts, seconds=round(built.seconds, 1))
        twin = self._results.same_kernel(built.build_id, self._suite_digest)
        if built.build_id == self._control_id:
            built.vmlinux.unlink()
            return replace(facts, status=MutantStatus.SAME, seconds=round(built.seconds, 1))
        if twin is not None and twin.mutant != mutant.name and not mutant.name.startswith("hand/"):
            built.vmlinux.unlink()
            return replace(facts, status=MutantStatus.TWIN, twin=twin.mutant, seconds=round(built.seconds, 1))
        verdict = self._judged(built)
        return replace(
            facts,
            status=verdict.status,
            how=verdict.how,
            test=verdict.test,
            message=verdict.message,
            ran=verdict.ran,
            seconds=round(built.seconds + time.monotonic() - started, 1),
        )

    def _order(self) -> list[str]:
        """Return the tests: first those that killed most mutants, then the shortest."""
        kills = self._results.killers()
        tests = [test for test in self._durations if test not in self.failing]
        return sorted(tests, key=lambda test: (PRESENCE_TEST not in test, -kills.get(test, 0), self._durations[test]))

    def _build(self, mutant: Mutant) -> _Built:
        vmlinux = self._folder / f"{hashlib.sha256(mutant.name.encode()).hexdigest()[:12]}.vmlinux"
        started = time.monotonic()
        self._kept.restore()
        for file, text in changed(mutant.edits, self._kept.read).items():
            self._kept.write(file, text)
        try:
            self._kept.build(seconds=BUILD_SECONDS)
        except BuildError as error:
            return _Built(mutant, vmlinux, seconds=time.monotonic() - started, error=error.detail or error.what)
        vmlinux.unlink(missing_ok=True)
        # The next build makes a new file and does not change this one.
        os.link(self._kept.vmlinux, vmlinux)
        return _Built(mutant, vmlinux, build_id_of(vmlinux), time.monotonic() - started)

    def _judged(self, built: _Built) -> TrialResult:
        """Run the tests until there is a verdict, at most a few times; remove the kernel."""
        try:
            for _ in range(ATTEMPTS):
                verdict = self._tested(built)
                if verdict.status is not MutantStatus.UNKNOWN:
                    break
                self._progress(f"{built.mutant.name}: no verdict: {verdict.message.splitlines()[0][:200]}")
            return verdict
        finally:
            built.vmlinux.unlink(missing_ok=True)

    def _tested(self, built: _Built) -> TrialResult:
        with tempfile.TemporaryDirectory(prefix="run-", dir=self._folder) as name:
            cache = Path(name)
            make_cache(cache)
            kernel = cache / KERNEL
            os.link(built.vmlinux, kernel)
            is_control = built.mutant is CONTROL
            tests = None if is_control else self._order()
            plan = cache / "plan.json"
            plan.write_text(json.dumps([whole_round(built.mutant.name, None, tests, watch=is_control)]))
            environment = {inner_plugin.PLAN: str(plan)}
            try:
                session = run_session(kernel, built.build_id, self._suite, cache, "0", environment, seconds=RUN_SECONDS)
            except InfrastructureError as error:
                return TrialResult(MutantStatus.UNKNOWN, message=str(error))
            reports = last_attempts(session.records, built.mutant.name)
            is_over = any("round" in record for record in session.records)
            if is_control:
                self._durations = {one["test"]: one["seconds"] for one in reports if one["when"] == "call"}
                self.failing = {one["test"]: one["message"] for one in reports if one["outcome"] == "failed"}
            verdict = judge(reports, status=0 if is_over else session.status or 3, presence=PRESENCE_TEST)
            if verdict.status is MutantStatus.UNKNOWN:
                verdict = replace(verdict, message=f"{verdict.message}\n{session.tail}")
            return verdict
