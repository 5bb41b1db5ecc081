"""Makes each contract a parameter of its test, records what the test saw, and holds it against the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from harness.contracts import contracts
from harness.judge.contracts import Contract, Verdict, judge
from harness.remote.command import BpfError
from harness.run import properties

if TYPE_CHECKING:
    from harness.testing import Bpf, Kernel, Map
    from harness.vm.machine import Machine

PARAMETER = "contract"


class Observe(Protocol):
    """Takes the one answer of a test."""

    def __call__(self, observed: object) -> None:
        """Record the answer, and fail the test if the contract names another one for this kernel."""
        ...


class OfType(Protocol):
    """Creates maps of any type."""

    def __call__(self, type_: str, **changes: Any) -> Map:
        """Create a small map of a type, with attributes that differ.

        The test is left out where the kernel is not expected to have such maps.
        """
        ...


class ContractBroken(AssertionError):
    """A kernel answers otherwise than the contract says."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "contract(name, ...): the contracts that a test observes, without outer and case"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the contracts that a test names a parameter of it."""
    mark = metafunc.definition.get_closest_marker("contract")
    if mark is None:
        return
    found = [one for one in contracts().values() if one.name in mark.args]
    missing = set(mark.args) - {one.name for one in found}
    if missing or not mark.args:
        pytest.fail(f"{metafunc.definition.nodeid}: no contract is called {min(missing, default='')!r}", pytrace=False)
    metafunc.parametrize(PARAMETER, [pytest.param(one, id=one.id, marks=_marks(one)) for one in found])


def _marks(contract: Contract) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.kernel(contract.condition)] if contract.condition else []
    return [*marks, pytest.mark.requires(*contract.requires)] if contract.requires else marks


@pytest.fixture
def outer_type(contract: Contract) -> str:
    """Type of the outer map that the contract speaks of."""
    return contract.outer


@pytest.fixture
def observe(request: pytest.FixtureRequest, contract: Contract, kernel: Kernel) -> Iterator[Observe]:
    """Take the answer of this test."""
    properties_of_test: list[tuple[str, Any]] = request.node.user_properties
    properties_of_test.append((properties.CONTRACT, contract.id))
    probed = request.getfixturevalue("probed") if contract.decided_by else ""
    seen: list[object] = []

    def take(observed: object) -> None:
        seen.append(observed)
        assert len(seen) == 1, f"{contract.id} is observed twice in one test"
        verdict = judge(contract, kernel.version, observed, probed)
        properties_of_test.append((properties.OBSERVATION, _record(contract, observed, verdict)))
        if verdict.word == "differs":
            raise ContractBroken(
                f"{contract.id} does not hold on {kernel.version}: {contract.sentence}\n"
                f"  observed: {observed}\n  expected: {verdict.expected}, by {verdict.source}"
                + (f"\n  note: {verdict.note}" if verdict.note else "")
            )

    yield take
    failed = request.node.stash.get(_FAILED, False)
    assert seen or failed, f"the test observed nothing of {contract.id}"


@pytest.fixture
def probed(contract: Contract, vm: Machine) -> str:
    """Ask the kernel for the capability that decides what the contract expects; "" when the probe cannot tell."""
    from harness.judge.capabilities import Answer, find
    from harness.remote.bpf import Bpf

    process = vm.new_process()
    finding = find(contract.decided_by).probe(Bpf(process))
    process.close()
    return "" if finding.answer is Answer.INCONCLUSIVE else finding.answer.value


@pytest.fixture
def of_type(bpf: Bpf, kernel: Kernel) -> OfType:
    """Create maps of any type that the kernel offers."""
    from harness.judge import map_types
    from harness.judge.capabilities import Answer, Finding, judge
    from harness.kernel.kconfig import parse_config
    from harness.marks import act_on

    def create(type_: str, **changes: Any) -> Map:
        try:
            return map_types.create(bpf, type_, **changes)
        except BpfError as error:
            if changes:
                raise
            config = parse_config(kernel.config.read_text()) if kernel.config is not None else None
            act_on(judge(f"map_{type_}", Finding(Answer.NO, error.name), kernel.version, config))
            raise

    return create


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note a test that ended before it could observe."""
    try:
        return (yield)
    except BaseException:
        item.stash[_FAILED] = True
        raise


def _record(contract: Contract, observed: object, verdict: Verdict) -> properties.Observation:
    return {
        "contract": contract.id,
        "sentence": contract.sentence,
        "takes": contract.takes,
        "observed": observed,
        "expected": verdict.expected,
        "source": verdict.source,
        "verdict": verdict.word,
        "note": verdict.note,
    }
