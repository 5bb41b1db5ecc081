"""Makes each contract a parameter of its test, records what the test saw, and holds it against the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from harness.contracts import contracts
from harness.contracts.contract import NOT_ASKED, Contract, NotAsked, Verdict, condition_of, judge
from harness.contracts.scene import Scene
from harness.features.capability import Answer, Decision
from harness.pytest_plugin.markers import Capabilities, act_on
from harness.pytest_plugin.summaries.contracts import FOR_KERNELS
from harness.results import properties
from harness.results.types import Observation

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

    from harness.kernel.types import Choice
    from harness.kernel.version import KernelVersion
    from harness.testing import Bpf, Guest, Kernel
    from harness.vm.machine import Machine

PARAMETER = "contract"
GROUP = "contract_group"
"""The parameter of a test that observes several contracts on one machine."""


class Observe(Protocol):
    """Takes the one answer of a test."""

    def __call__(self, observed: object) -> None:
        """Record the answer, and fail the test if the contract names another one for this kernel."""
        ...


class ObserveEach(Protocol):
    """Takes the answers of a test that observes several contracts."""

    def __call__(self, answer: Callable[[Contract], object]) -> None:
        """Ask for the answer to each contract, record all, and fail the test if any of them is another one."""
        ...


Probed = Callable[[Contract], str]
"""Returns what the probe says that decides a contract: "yes", "no" or ""."""


class ContractBroken(AssertionError):
    """A kernel answers otherwise than the contract says."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "contract(name, ..., together=False): the contracts that a test observes, without outer and case; together: "
        "those of one outer map in one test, which leaves out what the kernel cannot be asked",
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
    if mark.kwargs.get("together", False):
        metafunc.parametrize(GROUP, list(_groups(found)))
    else:
        metafunc.parametrize(PARAMETER, list(map(_alone, found)))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let `-k` know a test by the ids of all contracts that it observes."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    group = (parameters[PARAMETER],) if PARAMETER in parameters else parameters.get(GROUP, ())
    item.extra_keyword_matches.update(one.id for one in group)


def _groups(found: list[Contract]) -> Iterator[ParameterSet]:
    """Sort contracts into those that one test observes: of the same outer map."""
    groups: dict[str, list[Contract]] = {}
    for one in found:
        groups.setdefault(one.outer, []).append(one)
    for group in groups.values():
        first = group[0]
        name = first.id.removesuffix(f".{first.case}") if first.case else first.id
        yield pytest.param(tuple(group), id=name, marks=_for(condition_of(group)))


def _alone(contract: Contract) -> ParameterSet:
    needs = [pytest.mark.requires(*contract.requires)] if contract.requires else []
    return pytest.param(contract, id=contract.id, marks=[*_for(contract.condition), *needs])


def _for(condition: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.kernel(condition)] if condition else []


@pytest.fixture
def outer_type(request: pytest.FixtureRequest) -> str:
    """Type of the outer map that the contract, or the group of contracts, speaks of."""
    parameters = request.node.callspec.params
    one: Contract = parameters[PARAMETER] if PARAMETER in parameters else parameters[GROUP][0]
    return one.outer


@pytest.fixture
def replaces(kernel: Kernel, outer_type: str, request: pytest.FixtureRequest) -> None:
    """Used before its machine by a test that replaces elements: some kernels leak then, which has a contract."""
    known = contracts()["hom.lifetime.replaced_twenty_times.prealloc"]
    if outer_type == known.outer and judge(known, kernel.version, None).expected != 1:
        request.applymarker(pytest.mark.leaks(f"inner maps that were replaced, by the contract {known.id}"))


@pytest.fixture
def bpf(bpf: Bpf) -> Bpf:
    """The bpf system call, in a kernel that hurries the grace periods that changes of outer maps wait for."""
    bpf.commands.call("hooks.expedite", "rcu_expedited")
    return bpf


@pytest.fixture
def scene(guest: Guest, bpf: Bpf, kernel: Kernel, outer_type: str) -> Scene:
    """What a test's outer maps are made on."""
    return Scene(guest, bpf, kernel, outer_type)


@pytest.fixture
def observe(request: pytest.FixtureRequest, contract: Contract, kernel: Kernel, probed: Probed) -> Iterator[Observe]:
    """Take the answer of this test."""
    decided = probed(contract)
    _announce(request.node, contract)
    seen: list[object] = []

    def take(observed: object) -> None:
        seen.append(observed)
        assert len(seen) == 1, f"{contract.id} is observed twice in one test"
        broken = _hold(request.node, contract, kernel.version, observed, decided)
        if broken:
            raise ContractBroken(broken)

    yield take
    failed = request.node.stash.get(_FAILED, False)
    assert seen or failed, f"the test observed nothing of {contract.id}"


@pytest.fixture
def observe_each(
    request: pytest.FixtureRequest,
    contract_group: tuple[Contract, ...],
    kernel: Kernel,
    may_be_asked: Callable[[Contract], None],
    probed: Probed,
) -> Iterator[ObserveEach]:
    """Take the answers of this test, one to each contract."""
    for one in contract_group:
        _announce(request.node, one)
    seen: list[object] = []

    def take(answer: Callable[[Contract], object]) -> None:
        assert not seen, f"{contract_group[0].id} is observed twice in one test"
        broken = []
        for one in contract_group:
            try:
                may_be_asked(one)
                decided = probed(one)
                seen.append(answer(one))
            except NotAsked as reason:
                seen.append(None)
                verdict = Verdict(NOT_ASKED, None, "", str(reason))
                request.node.user_properties.append((properties.OBSERVATION, _record(one, None, verdict)))
                continue
            broken.append(_hold(request.node, one, kernel.version, seen[-1], decided))
        if any(broken):
            raise ContractBroken("\n".join(filter(None, broken)))

    yield take
    failed = request.node.stash.get(_FAILED, False)
    assert seen or failed, f"the test observed nothing of {contract_group[0].id}"


@pytest.fixture(scope="session")
def asked_of_kernels() -> Capabilities:
    """What probes found; a kernel is asked once, whatever number of contracts it decides."""
    return Capabilities()


@pytest.fixture
def may_be_asked(
    vm: Machine, kernel: Kernel, kernel_choice: Choice, asked_of_kernels: Capabilities
) -> Callable[[Contract], None]:
    """Return a function that raises NotAsked where a kernel's version, or what it lacks, leaves nothing to ask.

    It raises CapabilityMissing where the kernel should have what it lacks.
    """

    def check(contract: Contract) -> None:
        if not contract.can_be_asked_of(kernel.version):
            raise NotAsked(f"{FOR_KERNELS}{contract.condition}")
        for name in contract.requires:
            asked_of_kernels.ask(kernel_choice, name, vm)
            judgement = asked_of_kernels.judge(kernel, kernel_choice, name)
            if judgement.decision is Decision.SKIP:
                raise NotAsked(judgement.reason)
            act_on(judgement)

    return check


@pytest.fixture
def probed(vm: Machine, kernel_choice: Choice, asked_of_kernels: Capabilities) -> Probed:
    """Ask the kernel for the capability that decides what a contract expects; "" when none does or it cannot tell."""

    def probe(contract: Contract) -> str:
        if not contract.decided_by:
            return ""
        finding = asked_of_kernels.ask(kernel_choice, contract.decided_by, vm)
        return "" if finding.answer is Answer.INCONCLUSIVE else finding.answer.value

    return probe


def _announce(item: pytest.Item, contract: Contract) -> None:
    item.user_properties.append((properties.CONTRACT, contract.id))


def _hold(item: pytest.Item, contract: Contract, version: KernelVersion, observed: object, probed: str) -> str:
    """Record an answer; return how it differs from the one that the contract names, "" when it does not."""
    verdict = judge(contract, version, observed, probed)
    item.user_properties.append((properties.OBSERVATION, _record(contract, observed, verdict)))
    if verdict.word != "differs":
        return ""
    return (
        f"{contract.id} does not hold on {version}: {contract.sentence}\n"
        f"  observed: {observed}\n  expected: {verdict.expected}, by {verdict.source}"
        + (f"\n  note: {verdict.note}" if verdict.note else "")
    )


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note a test that ended before it could observe."""
    try:
        return (yield)
    except BaseException:
        item.stash[_FAILED] = True
        raise


def _record(contract: Contract, observed: object, verdict: Verdict) -> dict[str, Any]:
    return msgspec.structs.asdict(
        Observation(
            contract=contract.id,
            sentence=contract.sentence,
            takes=contract.takes,
            observed=observed,
            expected=verdict.expected,
            source=verdict.source,
            verdict=verdict.word,
            note=verdict.note,
        )
    )
