"""Machines that several tests share, as `vm(scope=...)` and `vm(group=...)` ask.

The checks of a shared machine are made once, after its last test. The teardown reports of its tests wait for that: when
something is found, each of these tests runs again on a machine of its own, and the report of that run counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

from harness.errors import HarnessError
from harness.pytest_plugin.around import Taken, handled
from harness.pytest_plugin.collection import wanted_by
from harness.pytest_plugin.evidence import ALSO_FOUND
from harness.pytest_plugin.marks import has_mark, marks
from harness.pytest_plugin.state import ALONE, OUTCOME, STATE
from harness.results import properties
from harness.results.outcomes import Trouble, trouble_of

if TYPE_CHECKING:
    from harness.checks.base import Complaint
    from harness.kernel.types import Choice
    from harness.remote.guest import Guest
    from harness.vm.spec import MachineSpec

SCOPES = ("function", "class", "module")


def check_scope(definition: pytest.Item) -> None:
    """Look at what a test function's markers say of its machine's scope, while it is collected.

    Raises:
        pytest.UsageError: It is not a scope.
    """
    scope, group = _asked(definition)
    if scope not in SCOPES or not isinstance(group, str):
        raise pytest.UsageError(
            f"the marker vm takes scope={' or '.join(map(repr, SCOPES))}, or group= and a name; "
            f"not scope={scope!r}, group={group!r}"
        )


def _asked(item: pytest.Item) -> tuple[Any, Any]:
    """Return scope and group as the nearest marker that names one of them says."""
    for mark in marks(item, "vm"):
        if mark.kwargs.keys() & {"scope", "group"}:
            return mark.kwargs.get("scope", "function"), mark.kwargs.get("group", "")
    return "function", ""


def scope_of(item: pytest.Item | None) -> tuple[object, ...] | None:
    """Return what a test's machine is shared in, the same for tests that share it; None for a machine of its own."""
    if item is None or item.stash.get(ALONE, False):
        return None
    scope, group = _asked(item)
    if (scope == "function" and not group) or _may_run_again(item):
        return None
    wanted = wanted_by(item)
    if wanted is None or has_mark(item, "expects_fault"):
        return None
    parent = item.getparent(pytest.Class) if scope == "class" else None
    place = group or (parent or item.getparent(pytest.Module) or item.session).nodeid
    # A test that leaks on purpose shares a machine with tests that do so too.
    return place, wanted, has_mark(item, "leaks")


def _may_run_again(item: pytest.Item) -> bool:
    """Whether pytest-rerunfailures runs the test again when it fails; it must have a machine of its own for that."""
    return bool(item.config.getoption("reruns", None)) or item.get_closest_marker("flaky") is not None


@dataclass
class SharedMachine:
    """A machine, and the tests that have run on it.

    Attributes:
        scope: What the tests have in common, see :func:`scope_of`.
        taken: The machine and its checks.
        guest: The guest process that its tests may share; None until a test asks for it.
        tests: The tests that used it, in order.
    """

    scope: tuple[object, ...]
    taken: Taken
    guest: Guest | None = None
    tests: list[pytest.Item] = field(default_factory=list)
    _reports: dict[pytest.Item, pytest.TestReport] = field(default_factory=dict)
    _known: dict[pytest.Item, list[tuple[str, object]]] = field(default_factory=dict)

    def hold(self, item: pytest.Item, known: list[tuple[str, object]], report: pytest.TestReport) -> None:
        """Keep a test's teardown report, and the properties that the test had before it ran."""
        self._reports[item] = report
        self._known[item] = known

    def end(self, nextitem: pytest.Item | None) -> None:
        """Make the checks, give the machine back, and report each test's teardown."""
        last = self.tests[-1]
        was_alive = self.taken.is_alive
        complaints: list[Complaint] = []
        error = ""
        try:
            complaints = self.taken.check(self._reports[last].user_properties)
        except HarnessError as raised:
            error = f"{type(raised).__name__}: {raised}"
        finally:
            self.taken.give_back(spoiled=bool(complaints or error) or self.scope[-1] is True)
        passed = [item for item in self.tests if item.stash.get(OUTCOME, "") == "passed"]
        text = "\n\n".join([*(one.text for one in complaints), *filter(None, [error])])
        if not was_alive:
            # It died or was closed in its last test, which knows. What the others left in it cannot be seen any more.
            self._add_section([last], text)
            if self.taken.unexpected_end is not None and last in passed:
                self._fail_for(last, handled(self.taken.unexpected_end))
            self._run_again([item for item in passed if item is not last], nextitem)
        elif text:
            blamed = self._run_again(passed, nextitem)
            failed = [item for item in self.tests if item.stash.get(OUTCOME, "") == "failed"]
            if not blamed and failed:
                self._add_section(failed, text)
            elif not blamed:
                self._blame(last, complaints, text)
        for item in self.tests:
            _report(item, self._reports[item])

    def _add_section(self, items: list[pytest.Item], text: str) -> None:
        for item in items if text else ():
            self._reports[item].sections.append((ALSO_FOUND, text))

    def _blame(self, last: pytest.Item, complaints: list[Complaint], text: str) -> None:
        """Fail the last test for what no test shows by itself."""
        report = self._reports[last]
        names = "\n  ".join(item.nodeid for item in self.tests)
        report.outcome = "failed"
        report.longrepr = (
            f"{text}\n\nfound after these tests on the machine that they share, and after none of them on its own:\n"
            f"  {names}"
        )
        report.user_properties += [(one.name, dict(one.data)) for one in complaints if one.name]
        troubles = [one.trouble for one in complaints] or [Trouble.INFRASTRUCTURE]
        report.user_properties += [(properties.TROUBLE, one.value) for one in dict.fromkeys(troubles)]

    def _fail_for(self, last: pytest.Item, end: HarnessError) -> None:
        """Fail the test that has handled the error of the machine's end."""
        report = self._reports[last]
        report.outcome = "failed"
        report.longrepr = f"{type(end).__name__}: {end}"
        trouble = trouble_of(end)
        report.user_properties += [(properties.TROUBLE, trouble.value)] if trouble is not None else []

    def _run_again(self, items: list[pytest.Item], nextitem: pytest.Item | None) -> bool:
        """Run tests one by one on machines of their own; return whether any of them fails there."""
        if not items:
            return False
        state = items[0].config.stash[STATE]
        state.output.say(
            f"something was found on the machine that {len(self.tests)} tests shared; they run again one by one"
        )
        items[0].session._setupstate.teardown_exact(items[0])
        found = False
        for item, after in zip(items, [*items[1:], nextitem], strict=True):
            item.user_properties[:] = self._known[item]
            item.stash[ALONE] = True
            state.next = wanted_by(after)
            *before, self._reports[item] = runtestprotocol(item, log=False, nextitem=after)
            bad = [report for report in before if report.failed]
            for report in bad:
                _report(item, report)
            found = found or bool(bad) or self._reports[item].failed
        return found


def _report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Report a phase of a test that may be over; workers of xdist report none but of the test that they are at."""
    plugins: list[Any] = list(item.config.pluginmanager.get_plugins())
    worker = next((one for one in plugins if type(one).__name__ == "WorkerInteractor"), None)
    if worker is None:
        item.ihook.pytest_runtest_logreport(report=report)
        return
    current = worker.item_index
    worker.item_index = item.session.items.index(item)
    try:
        item.ihook.pytest_runtest_logreport(report=report)
    finally:
        worker.item_index = current


def shared_machine(item: pytest.Item, choice: Choice, spec: MachineSpec, scope: tuple[object, ...]) -> SharedMachine:
    """Return the machine that a test shares, taken now if the test is the first on it.

    Raises:
        HarnessError: As :meth:`harness.machines.pool.Pool.take`.
    """
    state = item.config.stash[STATE]
    if state.shared is None:
        state.shared = SharedMachine(scope, Taken(item, choice, spec))
    else:
        state.shared.taken.note(item, seconds=0.0)
    state.shared.tests.append(item)
    return state.shared


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Note which machine comes next; run a test that shares its machine, and end the machine after its last test."""
    state = item.config.stash[STATE]
    scope = scope_of(item)
    # A machine that is there already need not be prepared while this test runs.
    state.next = wanted_by(nextitem) if scope is None or scope_of(nextitem) != scope else None
    if scope is None:
        return None
    known = list(item.user_properties)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    *reports, last = runtestprotocol(item, log=False, nextitem=nextitem)
    shared = state.shared
    uses_it = shared is not None and item in shared.tests
    for report in reports if uses_it else [*reports, last]:
        item.ihook.pytest_runtest_logreport(report=report)
    if shared is not None:
        if uses_it:
            shared.hold(item, known, last)
        is_stopping = item.session.shouldfail or item.session.shouldstop
        if is_stopping or scope_of(nextitem) != scope or not shared.taken.is_usable:
            state.shared = None
            shared.end(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
