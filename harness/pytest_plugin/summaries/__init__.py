"""Summaries at the end of a run: pytest plugins that collect data from the reports of tests.

They run in the process that gets all reports (with xdist, the controller), and use only the reports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.errors import InfrastructureError
from harness.pytest_plugin.summaries.contracts import summary
from harness.pytest_plugin.summaries.loaders import loader_differences
from harness.pytest_plugin.summaries.verdicts import BehaviourOutcome, table
from harness.results import properties
from harness.results.outcomes import Trouble, outcome_of, worst

Labels = Callable[[], Sequence[str]]
"""Returns the labels of the selected kernels, in order."""


def _look(reporter: pytest.TerminalReporter) -> dict[str, Any]:
    """Return how wide a table may be where pytest prints, and whether it has colours."""
    from harness.util import tables  # here, as a run without tests of kernels loads as little as it can

    return {"width": tables.columns(terminal=bool(reporter.isatty)), "colour": reporter.hasmarkup}


class KernelFaults:
    """Collects faults that no test caused, and prints each once for each kernel.

    A fault during boot fails the run, like a failed test.
    """

    def __init__(self) -> None:
        self._boot: dict[tuple[str, str], dict[str, Any]] = {}
        self._known: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect from the last report of a test, which has everything."""
        kernel = next(iter(properties.values(report.user_properties, properties.KERNEL)), "")
        for found in properties.values(report.user_properties, properties.BOOT_FAULT):
            self._boot.setdefault((found["kernel"], found["fault"]["fingerprint"]), found["fault"])
        if report.when == "teardown":
            for fault in properties.values(report.user_properties, properties.KNOWN_FAULT):
                self._known.setdefault((kernel, fault["fingerprint"]), []).append(fault)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail the run."""
        if self._boot and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the faults."""
        if self._boot:
            terminalreporter.section("kernels that complained while they booted", red=True)
        for (kernel, fingerprint), fault in self._boot.items():
            terminalreporter.write_line(f"kernel {kernel}: {fault['kind']}: {fault['title']}", red=True)
            terminalreporter.write_line(f"  fingerprint: {fingerprint}")
            for line in fault["excerpt"].split("\n"):
                terminalreporter.write_line(f"  | {line}")
        if self._known:
            terminalreporter.section("known faults")
        for (kernel, fingerprint), faults in self._known.items():
            times = f", {len(faults)} times" if len(faults) > 1 else ""
            terminalreporter.write_line(f"kernel {kernel}: {fingerprint}{times}: {faults[0]['reason']}")


class Infrastructure:
    """Reports a machine that does not boot once, counts the tests not run because of it, sets the exit status.

    Each xdist worker finds it separately; their reports meet here.
    """

    def __init__(self) -> None:
        self._causes: dict[tuple[str, str], properties.NotBooted] = {}
        self._tests: dict[tuple[str, str], list[str]] = {}
        self._lost = 0
        self._failed = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Shorten an error that another test has reported before to one line."""
        for cause in properties.values(report.user_properties, properties.NOT_BOOTED):
            key = (cause["kernel"], cause["what"])
            tests = self._tests.setdefault(key, [])
            tests.append(report.nodeid)
            if self._causes.setdefault(key, cause) is not cause:
                report.longrepr = f"not run: {cause['what']} (see {tests[0]})"
                report.user_properties.append((properties.NOT_RUN, cause["what"]))
        if report.failed:
            lost = Trouble.INFRASTRUCTURE in properties.troubles(report.user_properties)
            self._lost += lost
            self._failed += not lost

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Set the exit status of a run that lost tests but has no failures."""
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and self._lost and not self._failed:
            session.exitstatus = InfrastructureError.exit_status

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what did not boot, and how many tests were not run because of it."""
        if self._causes:
            terminalreporter.section("what did not boot", red=True)
        for key, cause in self._causes.items():
            kernel = f"kernel {cause['kernel']}" if cause["kernel"] else "every kernel"
            first, *others = self._tests[key]
            terminalreporter.write_line(f"{kernel}: {cause['what']}", red=True)
            terminalreporter.write_line(f"  first in {first}; {len(others)} more tests were not run")
            terminalreporter.write_line(f"  next step: {cause['hint']}")


class Retried:
    """Lists at the end the tests whose machine was lost and that ran again."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the reason."""
        for reason in properties.values(report.user_properties, properties.LOST):
            self._reasons[report.nodeid] = reason

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them."""
        if self._reasons:
            terminalreporter.section("tests that ran again, for their machine was lost")
        for nodeid, reason in self._reasons.items():
            terminalreporter.write_line(f"{nodeid}: {reason}")


class CountOnce:
    """Counts a test only once when its assertions passed and a check failed it afterwards, or its machine was lost."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remove the test from the passed ones."""
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        troubles = properties.troubles(report.user_properties)
        # A test that shared its machine may have passed there and fail on its own.
        again = report.when == "call" or (report.when == "teardown" and troubles)
        # pytest-rerunfailures: what an attempt that does not count has passed.
        rerun = report.outcome not in ("passed", "failed", "skipped") and properties.values(
            report.user_properties, properties.KERNEL
        )
        if reporter is not None and ((report.failed and again) or rerun):
            for category in ("passed", "xfailed"):
                counted = reporter.stats.get(category, [])
                counted[:] = [one for one in counted if one.nodeid != report.nodeid]


class Throughputs:
    """Prints the speed of stress tests at the end."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the measurements of a test."""
        for one in properties.values(report.user_properties, properties.THROUGHPUT):
            rounds, seconds, per_second = one["rounds"], one["seconds"], one["per_second"]
            self._lines[report.nodeid] = f"{per_second:>7}/s  {rounds} rounds in {seconds:.1f} s  {report.nodeid}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each test."""
        if self._lines:
            terminalreporter.section("throughput")
            for line in self._lines.values():
                terminalreporter.write_line(line)


class Unchecked:
    """Says at the end what the leak check could not look at on a kernel that does not say."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what each kernel does not show."""
        for count in properties.values(report.user_properties, properties.LEAK_COUNT):
            for kernel in properties.values(report.user_properties, properties.KERNEL):
                self._lines[kernel] = count["unchecked"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print it, kernel by kernel."""
        lines = [f"{kernel}: {line}" for kernel, unchecked in self._lines.items() for line in unchecked]
        if lines:
            terminalreporter.section("what could not be checked for leaks")
            for line in lines:
                terminalreporter.write_line(line)


class Contracts:
    """Collects observations of contracts, and prints the summary at the end."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._observations: dict[str, tuple[str, list[dict[str, Any]]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the observations of a test; the report of a later phase has those of earlier phases too."""
        observations = properties.values(report.user_properties, properties.OBSERVATION)
        kernels = properties.values(report.user_properties, properties.KERNEL)
        if observations and kernels:
            self._observations[report.nodeid] = (kernels[0], observations)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary."""
        if not self._observations:
            return
        # A session without tests of kernels does not load msgspec.
        import msgspec

        from harness.results.types import Observation

        by_kernel = {label: list[Observation]() for label in self._labels()}
        for kernel, observations in self._observations.values():
            by_kernel.setdefault(kernel, []).extend(msgspec.convert(observations, list[Observation]))
        lines = summary(by_kernel, **_look(terminalreporter))
        if lines:
            terminalreporter.section("contracts")
            for line in lines:
                terminalreporter.write_line(line)


class Verdicts:
    """Collects outcomes, and prints the table of verdicts at the end."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._results: dict[str, BehaviourOutcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of a test's phases."""
        kernels = properties.values(report.user_properties, properties.KERNEL)
        if not kernels:
            return
        if report.when == "setup":
            self._results.pop(report.nodeid, None)  # of an earlier attempt
        if report.outcome not in ("passed", "failed", "skipped"):
            return  # pytest-rerunfailures: the next attempt counts
        outcome = outcome_of(
            report.outcome,
            expected=hasattr(report, "wasxfail"),
            troubles=properties.troubles(report.user_properties),
        )
        known = self._results.get(report.nodeid)
        if known is not None:
            outcome = worst([known.outcome, outcome])
        self._results[report.nodeid] = BehaviourOutcome(report.nodeid.partition("[")[0], kernels[0], outcome)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        """Print the table."""
        if not self._results:
            return
        results = [self._results[nodeid] for nodeid in sorted(self._results, key=self._order)]
        found = {result.kernel for result in results}
        kernels = [label for label in self._labels() if label in found]
        marks = "UTF" in (getattr(sys.stdout, "encoding", None) or "").upper()
        terminalreporter.section("verdicts")
        for line in table(results, kernels=kernels, marks=marks, **_look(terminalreporter)):
            terminalreporter.write_line(line)
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            terminalreporter.write_line("The run is incomplete: tests that did not run are not counted above.")

    def _order(self, nodeid: str) -> int:
        behaviours = list(dict.fromkeys(result.behaviour for result in self._results.values()))
        return behaviours.index(self._results[nodeid].behaviour)


class Loaders:
    """Compares a test's outcomes with different loaders, and says whether the kernel or a loader is the cause."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome of a test with its loader."""
        loader = dict(report.user_properties).get(properties.LOADER)
        if not isinstance(loader, str) or (report.when != "call" and report.passed):
            return
        head, _, tail = report.nodeid.partition("[")
        words = tail.removesuffix("]").split("-")
        words.remove(loader)
        self._outcomes.setdefault(f"{head}[{'-'.join(words)}]", {})[loader] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the tests that failed only with some loaders."""
        lines = loader_differences(self._outcomes)
        if lines:
            terminalreporter.section("differences between loaders")
            for line in lines:
                terminalreporter.write_line(line)
