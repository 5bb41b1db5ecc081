"""`pytest --record=FILE`: writes reports of tests into the run record as they arrive.

The plugin registers it only with --record; under pytest-xdist only in the controller, which gets every worker's
reports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.errors import HarnessError, RecordError
from harness.pytest_plugin.options import option
from harness.results import host, properties
from harness.results.file import Journal
from harness.results.gather import Gatherer, Phase, parts
from harness.results.ids import kernel_of, without_kernel
from harness.results.kernels import recorded_kernel
from harness.results.types import Deselected, NotRun, RecordedKernel

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.vm.spec import MachineSpec

SHARD = "HARNESS_SHARD"
"""Environment variable with the part of a larger run that this run is, such as "2/5"."""


class Recorder:
    """Writes the record of this run.

    Args:
        config: pytest's.
        path: The record's file.
        choices: Returns the kernels that tests run on.
        prepare: Brings a kernel onto this machine and returns it.
        complain: Prints errors outside any test.

    """

    def __init__(
        self,
        config: pytest.Config,
        path: Path,
        *,
        choices: Callable[[], list[Choice]],
        prepare: Callable[[Choice], MachineSpec],
        complain: Callable[[str], None],
    ) -> None:
        self._config = config
        self._choices = choices
        self._prepare = prepare
        self._complain = complain
        self._began = time.monotonic()
        self._path = path
        self._exit_status: int | None = None
        self._interrupted = False
        self._accelerator = ("", "")
        self._planned = False
        self._uncollected = False
        self._broken: RecordError | None = None
        self._releases: dict[str, str] = {}
        self._left_out: set[Deselected] = set()
        self._run = msgspec.structs.replace(
            host.new_run([os.fsdecode(word) for word in config.invocation_params.args], config.rootpath),
            shard=os.environ.get(SHARD, ""),
            isolation=option(config, "isolation"),
            loaders=tuple(option(config, "loader")),
        )
        self._gatherer = Gatherer(self._run.id)
        self._journal: Journal | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Create the journal in the place of the record, before anything slow."""
        try:
            self._journal = Journal(self._path)
        except RecordError as error:
            raise pytest.UsageError(str(error)) from None
        self._add(run=self._run)

    def left_out(self, found: Sequence[tuple[str, str, str]]) -> None:
        """Record tests that are not for a kernel: id without the kernel, label, and the versions that they are for."""
        new = {Deselected(*one) for one in found} - self._left_out
        self._left_out |= new
        for label in sorted({one.kernel for one in new}):
            self._know(label)
        if new:
            self._add(left_out=sorted(new, key=lambda one: (one.test, one.kernel)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a collection error; the number of its tests is unknown."""
        if report.failed:
            self._uncollected = True
            self._gatherer.problems.append(f"{report.nodeid}: it could not be collected")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the tests that should run; under xdist the workers report them."""
        found = [(item.nodeid, properties.values(item.user_properties, properties.KERNEL)) for item in session.items]
        self._plan([(nodeid, str(labels[0])) for nodeid, labels in found if labels])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:  # noqa: ARG002 - xdist's
        """Record the tests that should run."""
        if not self._planned and any("[" in nodeid for nodeid in ids):
            labels = self._labels()
            found = [(nodeid, kernel_of(nodeid, labels)) for nodeid in ids]
            self._plan([(nodeid, label) for nodeid, label in found if label is not None])

    def _plan(self, found: Sequence[tuple[str, str]]) -> None:
        if found:
            self._planned = True
            for label in dict.fromkeys(label for _, label in found):
                self._know(label)
            self._add(plan=[NotRun(without_kernel(nodeid, label), label) for nodeid, label in found])

    def _labels(self) -> list[str]:
        try:
            return [choice.label for choice in self._choices()]
        except HarnessError:
            return []  # reported where kernels are resolved; no test runs on a kernel

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the report of a test's phase."""
        for release in properties.values(report.user_properties, properties.RELEASE):
            for label in properties.values(report.user_properties, properties.KERNEL):
                self._releases.setdefault(label, str(release))
        result = self._gatherer.add(_phase(report), self._labels() if _is_lost(report) else ())
        if result is not None:
            self._know(result.kernel)
            self._add(result=result)
            for part in parts(result, report.user_properties):
                self._add(result=part)

    def _know(self, label: str) -> None:
        """Add the kernel to the record, and again when its release is known."""
        assert self._journal is not None, "there are no tests before the session"
        known = self._journal.draft.kernels.get(label)
        release = self._releases.get(label, "")
        if known is not None and known.release == release:
            return
        choice = next((choice for choice in self._choices() if choice.label == label), None)
        if choice is None:
            self._gatherer.problems.append(f"{label}: a test uses this kernel, but it was not selected")
            self._add(kernel=RecordedKernel(label=label, version="0.0", release=release))
            return
        self._add(kernel=self._kernel(choice, release))

    def _kernel(self, choice: Choice, release: str) -> RecordedKernel:
        known = recorded_kernel(choice, None, release)
        if not release:
            return known  # it was never booted, so it may be unavailable
        try:
            spec = self._prepare(choice)
        except HarnessError as error:
            self._gatherer.problems.append(f"{choice.label}: it is not on this machine: {error.what}")
            return known
        self._accelerator = (spec.accel.value, spec.acceleration.reason)
        return recorded_kernel(choice, spec, release)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """Take note of it: when another plugin fails over it, pytest goes on with the status of success."""
        self._interrupted = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the complete record; a run whose record could not be written is not a success."""
        is_cut = self._interrupted and exitstatus == pytest.ExitCode.OK
        self._exit_status = int(pytest.ExitCode.INTERRUPTED if is_cut else exitstatus)
        self.finish()
        if self._broken is not None and exitstatus in _ENDS:
            session.exitstatus = self._broken.exit_status

    def _add(self, **what: Any) -> None:
        assert self._journal is not None, "there is a journal from the session's start on"
        try:
            self._journal.add(**what)
        except RecordError as error:
            self._broken = error
            self._complain(f"{error}\n  the run continues; the record is tried again at the end")

    def finish(self) -> None:
        """Write the complete record if that was not done."""
        if self._journal is None:
            return
        accelerator, reason = self._accelerator
        ended = self._exit_status in _ENDS and not self._uncollected
        self._run = msgspec.structs.replace(
            self._run,
            seconds=round(time.monotonic() - self._began, 3),
            complete=ended and self._journal.draft.reached_all,
            exit_status=self._exit_status,
            workers=len(self._config.getoption("tx", None) or ()),
            accelerator=accelerator,
            accelerator_reason=reason,
            problems=tuple(self._gatherer.problems),
        )
        try:
            self._journal.finish(self._run)
        except RecordError as error:
            self._broken = error
            self._complain(str(error))
        self._journal = None


_ENDS = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


def _is_lost(report: pytest.TestReport) -> bool:
    """Return whether xdist made the report because the test's worker ended."""
    return report.when not in ("setup", "call", "teardown")


def _phase(report: pytest.TestReport) -> Phase:
    """Return the relevant parts of a report."""
    text = report.longreprtext if report.longrepr is not None else ""
    expected = getattr(report, "wasxfail", None)
    longrepr: Any = report.longrepr
    if expected is not None:
        reason = str(expected)
    elif isinstance(longrepr, tuple):
        reason, text = str(longrepr[2]).removeprefix("Skipped: "), ""
    else:
        crash = getattr(longrepr, "reprcrash", None)
        reason = str(getattr(crash, "message", "") or text).strip().partition("\n")[0].removeprefix("Failed: ")
    return Phase(
        nodeid=report.nodeid,
        when=str(report.when),
        outcome=str(report.outcome),
        expected=expected is not None,
        is_part=hasattr(report, "context"),  # subtests of pytest 9, or of pytest-subtests
        seconds=report.duration,
        reason=reason,
        text=text if report.failed else "",
        sections=report.sections,
        properties=report.user_properties,
    )
