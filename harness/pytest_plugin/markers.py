"""The markers `kernel` and `requires` (kernels of a test by version and by capability), `expects_fault` and `leaks`.

The plugin calls this module when a test has such markers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from harness.checks import known_faults
from harness.checks.known_faults import ExpectedFault
from harness.errors import CapabilityMissing, ProbeInconclusive, SelectorError, UsageError
from harness.features import capabilities
from harness.features.capability import Decision, Judgement, ProbeResult
from harness.kernel import selection, selector
from harness.kernel.types import Choice, Kernel
from harness.pytest_plugin.marks import marks
from harness.pytest_plugin.options import KERNEL_PARAMETER, VM_FIXTURE
from harness.pytest_plugin.scopes import check_scope
from harness.results.ids import without_kernel

if TYPE_CHECKING:
    from harness.vm.machine import Machine


def check(definition: pytest.Item, fixtures: Collection[str]) -> None:
    """Check the markers of a test that uses a kernel, at collection.

    Args:
        definition: The function.
        fixtures: Names of the fixtures that it uses.

    Raises:
        pytest.UsageError: A marker is malformed, or its test does not use a kernel or guest.
    """
    for mark in marks(definition, "kernel"):
        _condition(mark)
    for name in ("requires", "expects_fault"):
        if VM_FIXTURE not in fixtures and any(mark in definition.own_markers for mark in marks(definition, name)):
            raise pytest.UsageError(f"the marker {name} is for tests that use a guest's fixtures")
    for mark in marks(definition, "leaks"):
        if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], str) or not mark.args[0].strip():
            raise pytest.UsageError(
                "the marker leaks takes the reason why a test leaves kernel objects behind, as in "
                'leaks("its pin is for the next boot")'
            )
    expected_faults(definition)
    check_scope(definition)
    for name in required(definition):
        try:
            capabilities.find(name)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None


def _condition(mark: pytest.Mark) -> list[selector.Item]:
    if not mark.args or mark.kwargs or not all(isinstance(word, str) for word in mark.args):
        raise pytest.UsageError("the marker kernel takes conditions such as '>=5.11'")
    try:
        return [one for word in mark.args for one in selector.parse_condition(word)]
    except SelectorError as error:
        raise pytest.UsageError(str(error)) from None


@dataclass(frozen=True)
class Sorted:
    """Tests, split by whether the selected kernels can run them.

    Attributes:
        kept: The tests to run.
        left_out: Tests whose markers exclude their kernel, each with the versions that it is for.
    """

    kept: list[pytest.Item]
    left_out: list[tuple[pytest.Item, str]]

    @property
    def unreachable(self) -> dict[str, str]:
        """The tests that no selected kernel can run: id without the kernel, and the versions that they are for."""
        reached = {behaviour(item) for item in self.kept}
        conditions: dict[str, str] = {}
        for item, condition in self.left_out:
            conditions.setdefault(behaviour(item), condition)
        return {name: text for name, text in conditions.items() if name not in reached}


def sort_out(items: list[pytest.Item], policy: Callable[[], selection.Policy]) -> Sorted:
    """Split tests by whether their kernel fits their markers.

    Args:
        items: The collected tests.
        policy: The meaning of selectors such as "lts".
    """
    kept: list[pytest.Item] = []
    left_out: list[tuple[pytest.Item, str]] = []
    for item in items:
        unmet = _unmet(item, policy)
        if unmet is None:
            kept.append(item)
        else:
            left_out.append((item, unmet))
    return Sorted(kept, left_out)


def _choice(item: pytest.Item) -> Choice | None:
    callspec: Any = getattr(item, "callspec", None)
    return callspec.params.get(KERNEL_PARAMETER) if callspec is not None else None


def _unmet(item: pytest.Item, policy: Callable[[], selection.Policy]) -> str | None:
    """Return the condition that the test's kernel does not meet; None when it meets all."""
    choice = _choice(item)
    if choice is None:
        return None  # a marker of its module or class, for the other tests
    for mark in marks(item, "kernel"):
        if not selection.meets(choice, _condition(mark), policy()):
            return " or ".join(mark.args)
    return None


def behaviour(item: pytest.Item) -> str:
    """Return a test's id without its kernel."""
    choice = _choice(item)
    return item.nodeid if choice is None else without_kernel(item.nodeid, choice.label)


def required(item: pytest.Item) -> list[str]:
    """Return the capabilities that a test's markers name."""
    found: list[str] = []
    for mark in marks(item, "requires"):
        if not mark.args or mark.kwargs or not all(isinstance(word, str) for word in mark.args):
            raise pytest.UsageError("the marker requires takes names of capabilities")
        found += [name for name in mark.args if name not in found]
    return found


def expected_faults(item: pytest.Item) -> list[ExpectedFault]:
    """Return the expected faults from a test's markers."""
    found = []
    for mark in marks(item, "expects_fault"):
        if len(mark.args) != 1 or set(mark.kwargs) - {"title", "reason"}:
            raise pytest.UsageError(
                "the marker expects_fault takes a kind of fault, reason=..., and if needed title=..."
            )
        try:
            found.append(known_faults.expect(mark.args[0], mark.kwargs.get("title", ""), mark.kwargs.get("reason")))
        except UsageError as error:
            raise pytest.UsageError(f"the marker expects_fault: {error.what}; expected: {error.expected}") from None
    return found


class Capabilities:
    """The capabilities of each kernel; a kernel is asked once."""

    def __init__(self) -> None:
        self._findings: dict[tuple[Choice, str], ProbeResult] = {}

    def missing(self, choice: Choice, names: list[str]) -> list[str]:
        """Return the capabilities that the kernel was not asked about yet."""
        return [name for name in names if (choice, name) not in self._findings]

    def ask(self, choice: Choice, name: str, machine: Machine) -> ProbeResult:
        """Return the kernel's answer; if it was not asked before, ask it in a separate guest process."""
        from harness.remote.bpf import Bpf

        if (choice, name) not in self._findings:
            process = machine.new_process()
            self._findings[choice, name] = capabilities.find(name).probe(Bpf(process))
            process.close()
        return self._findings[choice, name]

    def judge(self, kernel: Kernel, choice: Choice, name: str) -> Judgement:
        """Return the consequence of the kernel's answer for a test that requires the capability."""
        return capabilities.judge(name, self._findings[choice, name], kernel.version, kernel.settings)


def act_on(judgement: Judgement) -> None:
    """Let the test run, skip it, or fail it.

    Raises:
        pytest.skip.Exception: The kernel lacks it, and its version is not expected to have it.
        CapabilityMissing: The kernel lacks it, but should have it.
        ProbeInconclusive: The probe gave no answer.
    """
    if judgement.decision is Decision.SKIP:
        pytest.skip(judgement.reason)
    if judgement.decision is Decision.FAIL:
        raise CapabilityMissing(judgement.reason, expected="a kernel with all capabilities of its version")
    if judgement.decision is Decision.INCONCLUSIVE:
        raise ProbeInconclusive(judgement.reason, expected="a probe that answers yes or no")
