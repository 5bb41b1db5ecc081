"""Tries many mutants in one kernel, one switch after the other (see :mod:`harness.mutants.switches`).

The kernel is built once. All tests run on it once with every switch off, and the kernel reports which mutants each
test comes past. Then each mutant is tried with only those tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import BuildError, InfrastructureError
from harness.kernel.build.kept_tree import Kept
from harness.kernel.types import Progress
from harness.mutants import inner_plugin
from harness.mutants.edit import Mutant
from harness.mutants.session import (
    KERNEL,
    PRESENCE_TEST,
    Session,
    Suite,
    build_id_of,
    last_attempts,
    make_cache,
    whole_round,
)
from harness.mutants.session import run as run_session
from harness.mutants.state import KnownResults, MutantResult, describe
from harness.mutants.status import MutantStatus, judge
from harness.mutants.switches import HOME, Switched, switched
from harness.util import cache

BATCH = 10
"""Mutants per run of pytest: an interrupted run loses at most these."""

ROUND_SECONDS = 900.0
"""Seconds that one mutant's tests may take, on average over a batch."""

CONTROL_SECONDS = 4 * 3600.0
BUILD_SECONDS = 3600.0
ATTEMPTS = 2


@dataclass(frozen=True)
class Control:
    """The results of all tests with every switch off.

    Attributes:
        seconds: Seconds that each passing test takes.
        passes: Numbers of the switches that each test comes past.
        failing: Tests that do not pass, with their messages; they judge no mutant.
    """

    seconds: dict[str, float]
    passes: dict[str, list[int]]
    failing: dict[str, str]

    def tests_for(self, number: int, kills: Mapping[str, int], near: Mapping[str, int]) -> list[str]:
        """Return the tests that can find a mutant, the most likely ones first.

        Args:
            number: The mutant's switch.
            kills: Number of mutants that each test has killed.
            near: Number of those in the same function.
        """
        first = [test for test in self.seconds if PRESENCE_TEST in test]
        known = {test for test, numbers in self.passes.items() if number in numbers and test in self.seconds}

        def rank(test: str) -> tuple[int, int, float, str]:
            return -near.get(test, 0), -kills.get(test, 0), self.seconds[test], test

        return [*first, *sorted(known - set(first), key=rank)]


class SchemataTrial:
    """Tries mutants that are all in one kernel.

    Args:
        lend: Lends the tree for the build; it is not needed after the build.
        read: Returns the text of a source file, by its path in the tree.
        suite: The tests.
        results: Known results; new results are added.
        folder: A folder for intermediate files; created.
        progress: Called with a line of text for each step.
        workers: Number of parallel test processes.
        seconds: After this time no further test of a mutant starts; 0 for no limit. A mutant that survives the limit is
            tried again in a later run.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractContextManager[Kept]],
        read: Callable[[str], str],
        suite: Suite,
        results: KnownResults,
        folder: Path,
        progress: Progress,
        *,
        workers: int = 1,
        seconds: float = 0,
    ) -> None:
        self._workers = workers
        self._seconds = seconds
        self._lend = lend
        self._read = read
        self._suite = suite
        self._digest = suite.digest()
        self._results = results
        self._folder = folder / "switched"
        self._kernel = self._folder / KERNEL
        self._progress = progress

    def run(
        self, mutants: Sequence[Mutant], wanted: Sequence[Mutant], *, again: bool = False
    ) -> Iterator[MutantResult]:
        """Try mutants, and yield each result.

        Args:
            mutants: All mutants in the kernel.
            wanted: The mutants to try; those with a valid verdict are skipped.
            again: Try those with a valid verdict too.

        Raises:
            BuildError: The kernel with all switches cannot be built.
            InfrastructureError: No test passes with all switches off.
        """
        make_cache(self._folder)
        built, build_id = self._build(mutants)
        control = self._control(build_id)
        for test, message in control.failing.items():
            self._progress(f"ignored, because it fails with every switch off: {test}: {message[:150]}")
        todo = [
            mutant
            for mutant in wanted
            if mutant.name in built.numbers and (again or not self._results.holds(mutant, self._digest))
        ]
        for attempt in range(ATTEMPTS):
            lost: list[str] = []
            number = 0
            for start in range(0, len(todo), BATCH):
                for result in self._batch(todo[start : start + BATCH], built, build_id, control):
                    self._results.add(result)
                    number += 1
                    self._progress(f"{number} of {len(todo)}: {describe(result)}"[:300])
                    if result.status is MutantStatus.UNKNOWN and attempt + 1 < ATTEMPTS:
                        lost.append(result.mutant)
                    else:
                        yield result
            todo = [mutant for mutant in todo if mutant.name in lost]

    def _build(self, mutants: Sequence[Mutant]) -> tuple[Switched, str]:
        """Build the kernel with all mutants that compile; the others get their result."""
        files = {HOME, *(edit.file for mutant in mutants for edit in mutant.edits)}
        texts = {file: self._read(file) for file in files}
        record = self._folder / "built.json"
        key = hashlib.sha256(
            json.dumps([sorted(texts.items()), [(one.name, one.becomes) for one in mutants]]).encode()
        ).hexdigest()
        known: dict[str, Any] = cache.from_record(record, dict) or {}
        refused: dict[str, str] = known["refused"] if known.get("key") == key else {}
        made = switched([mutant for mutant in mutants if mutant.name not in refused], texts)
        if known.get("key") == key and self._kernel.is_file():
            return made, build_id_of(self._kernel)
        with self._lend() as kept:
            while found := self._refused(kept, made):
                self._progress(f"{len(found)} do not compile and are skipped: {', '.join(found)}")
                refused |= found
                made = switched([mutant for mutant in mutants if mutant.name not in refused], texts)
            self._kernel.unlink(missing_ok=True)
            os.link(kept.vmlinux, self._kernel)
        for mutant in mutants:
            if mutant.name in refused:
                self._results.add(MutantResult.of(mutant, MutantStatus.UNBUILT, message=refused[mutant.name]))
        cache.write_record(record, {"key": key, "refused": refused})
        return made, build_id_of(self._kernel)

    def _refused(self, kept: Kept, made: Switched) -> dict[str, str]:
        """Build the kernel; return the mutants that do not compile and so prevent the build."""
        kept.restore()
        for file, text in made.files.items():
            kept.write(file, text)
        self._progress(f"building one kernel with {len(made.numbers)} mutants")
        try:
            kept.build(seconds=BUILD_SECONDS, keep_going=True)
        except BuildError:
            found = refused_by(kept.log.read_text(errors="replace"), made)
            if not found:
                raise
            return found
        return {}

    def _control(self, build_id: str) -> Control:
        record = self._folder / "control.json"
        known: dict[str, Any] = cache.from_record(record, dict) or {}
        if (known.get("build_id"), known.get("suite")) == (build_id, self._digest):
            return Control(**known["control"])
        self._progress("running every test with every switch off")
        of = self._workers
        rounds = [[whole_round("", 0, None, watch=True, part=part, of=of)] for part in range(of)]
        # This kernel has no mistake, so its tests can share a machine and need no clone each.
        session = self._sessions(build_id, rounds, options=("--isolation=fork",), seconds=CONTROL_SECONDS)
        control = control_of(session.records)
        if control.failing:
            # Some tests need a fresh machine, for example because of a sysctl that cannot be restored.
            again = [whole_round("", 0, list(control.failing), watch=True)]
            alone = self._sessions(build_id, [again], seconds=CONTROL_SECONDS)
            control = control_of([*others(session.records, control.failing), *alone.records])
        if not any(PRESENCE_TEST in test for test in control.seconds):
            raise InfrastructureError(
                "the kernel with every switch off did not run",
                expected="its tests pass",
                detail=session.tail,
            )
        facts = {"seconds": control.seconds, "passes": control.passes, "failing": control.failing}
        cache.write_record(record, {"build_id": build_id, "suite": self._digest, "control": facts})
        return control

    def _batch(
        self, mutants: Sequence[Mutant], built: Switched, build_id: str, control: Control
    ) -> Iterator[MutantResult]:
        kills = self._results.killers()
        tests = {
            one.name: control.tests_for(
                built.numbers[one.name], kills, self._results.killers(one.name.rpartition("/")[0] + "/")
            )
            for one in mutants
        }
        plan = [
            whole_round(one.name, built.numbers[one.name], tests[one.name], seconds=self._seconds) for one in mutants
        ]
        plans = [plan[part :: self._workers] for part in range(self._workers)]
        try:
            session = self._sessions(build_id, plans, seconds=ROUND_SECONDS * len(plan))
        except InfrastructureError as error:
            session = Session(3, (), str(error))
        over = {record["round"] for record in session.records if "round" in record}
        for mutant in mutants:
            reports = last_attempts(session.records, mutant.name)
            verdict = judge(reports, status=0 if mutant.name in over else 3, presence=PRESENCE_TEST)
            yield MutantResult.of(
                mutant,
                verdict.status,
                how=verdict.how,
                test=verdict.test,
                message=verdict.message if mutant.name in over else f"{verdict.message}\n{session.tail}",
                ran=verdict.ran,
                relevant=len(tests[mutant.name]) - 1,
                build_id=f"{build_id}:{built.numbers[mutant.name]}",
                # Tests that did not start gave no result, so a survivor of the others is tried again.
                suite="" if self._seconds and verdict.status is MutantStatus.SURVIVED else self._digest,
                seconds=round(sum(report["seconds"] for report in reports), 1),
            )

    def _sessions(
        self, build_id: str, plans: Sequence[Sequence[Any]], *, options: tuple[str, ...] = (), seconds: float
    ) -> Session:
        """Run plans in parallel, and return their results as one."""
        suite = replace(self._suite, options=(*self._suite.options, *options))

        def run_one(part: int) -> Session:
            path = self._folder / f"plan-{part}.json"
            path.write_text(json.dumps(plans[part]))
            environment = {inner_plugin.PLAN: str(path)}
            return run_session(self._kernel, build_id, suite, self._folder, str(part), environment, seconds=seconds)

        if len(plans) == 1:
            # In the main thread, an interrupt ends it without waiting for hours of tests.
            return run_one(0)
        with ThreadPoolExecutor(max_workers=len(plans)) as pool:
            sessions = list(pool.map(run_one, range(len(plans))))
        return Session(
            max(session.status for session in sessions),
            tuple(record for session in sessions for record in session.records),
            "\n".join(session.tail for session in sessions),
        )


def control_of(records: Sequence[Mapping[str, Any]]) -> Control:
    """Return the baseline from a round with every switch off.

    Args:
        records: The records that :mod:`harness.mutants.inner_plugin` wrote.
    """
    reports = last_attempts(records, "")
    failing = {one["test"]: one["message"] for one in reports if one["outcome"] == "failed"}
    seconds = {
        one["test"]: one["seconds"]
        for one in reports
        if one["when"] == "call" and one["outcome"] == "passed" and one["test"] not in failing
    }
    passes = {one["watched"]: numbers_in(one["passed"]) for one in records if "watched" in one}
    return Control(seconds, passes, failing)


def others(records: Sequence[Mapping[str, Any]], tests: Collection[str]) -> list[Mapping[str, Any]]:
    """Return the records of all but certain tests."""
    return [one for one in records if one.get("test", one.get("watched")) not in tests]


def numbers_in(bitmap: str) -> list[int]:
    """Return the numbers of the set bits of a bitmap in the kernel's format ("%*pb").

    Args:
        bitmap: Groups of 32 bits in hexadecimal, the highest first, with commas between; "" for none.
    """
    bits = int(bitmap.replace(",", "") or "0", 16)
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


def refused_by(log: str, made: Switched) -> dict[str, str]:
    """Return the mutants that a compiler refuses, with its messages.

    Args:
        log: make's output.
        made: The compiled sources.
    """
    refused: dict[str, str] = {}
    message = ""
    for line in log.splitlines():
        found = re.match(r"(\S+?):(\d+):(?:\d+:)? (error|warning|note): (.*)", line)
        if found is None:
            continue
        if found[3] != "note":
            message = found[4] if found[3] == "error" else ""
        if message:
            here = int(found[2])
            names = [name for (file, at), name in made.lines.items() if at == here and found[1].endswith(file)]
            refused |= dict.fromkeys(names, message)
    return refused
