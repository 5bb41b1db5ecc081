"""Makes each contract a parameter of its test, records what the test saw, and compares it with the table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import msgspec
import pytest

from harness.contracts import contracts
from harness.contracts.contract import NOT_ASKED, Contract, ContractVerdict, NotAsked, judge
from harness.contracts.scene import Scene
from harness.features.capabilities import CAPABILITIES
from harness.features.capability import Availability, Decision
from harness.guest import calls
from harness.kernel.vendor import vendor_of
from harness.pytest_plugin.markers import Capabilities, act_on
from harness.pytest_plugin.options import KERNEL_PARAMETER, LIBBPF
from harness.pytest_plugin.state import STATE
from harness.pytest_plugin.summaries.contracts import FOR_KERNELS
from harness.remote.libbpf import require_library
from harness.remote.sysctl import restricted
from harness.results import properties
from harness.results.types import Observation
from harness.testing import Bpf

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.kernel.version import KernelVersion
    from harness.testing import Guest, Kernel
    from harness.vm.machine import Machine

PARAMETER = "contract"


class Observe(Protocol):
    """Takes the one answer of a test."""

    def __call__(self, observed: object) -> None:
        """Record the answer, and fail the test if the contract names another one for this kernel."""
        ...


Probed = Callable[[Contract], str]
"""Returns what the probe says that decides a contract: "yes", "no" or ""."""


Forbidden = Callable[[], contextlib.AbstractContextManager[None]]
"""Forbids bpf(2) to the unprivileged for a while."""


class ContractBroken(AssertionError):
    """A kernel answers otherwise than the contract says."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "contract(name, ...): the contracts that a test observes, one at a time, without outer map and case",
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
    metafunc.parametrize(PARAMETER, found, ids=[one.id for one in found])


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put a test's contract into its reports, and mark a test that leaks because its kernel does."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    contract: Contract | None = parameters.get(PARAMETER)
    if contract is None:
        return
    item.user_properties.append((properties.CONTRACT, contract.id))
    if "replaces" in getattr(item, "fixturenames", ()):
        known = contracts()["hom.lifetime.replaced_twenty_times.prealloc"]
        if contract.outer == known.outer and judge(known, parameters[KERNEL_PARAMETER].version, None).expected != 1:
            item.add_marker(pytest.mark.leaks(f"inner maps that were replaced, by the contract {known.id}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a contract that cannot be asked of the kernel's version, before it takes a machine."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    contract: Contract | None = parameters.get(PARAMETER)
    if contract is not None and not contract.can_be_asked_of(parameters[KERNEL_PARAMETER].version):
        _skip(item, contract, f"{FOR_KERNELS}{contract.condition}")


@pytest.fixture
def outer_type(contract: Contract) -> str:
    """Type of the outer map that the contract speaks of."""
    return contract.outer


@pytest.fixture
def case(contract: Contract) -> str:
    """Which of several like it a contract is: the last word of its id."""
    return contract.case


@pytest.fixture
def replaces() -> None:
    """Used by a test that replaces elements: some kernels leak then, which has a contract."""


@pytest.fixture
def bpf(bpf: Bpf) -> Bpf:
    """The bpf system call, in a kernel that hurries the grace periods that changes of outer maps wait for."""
    bpf.commands.ask("rcu_expedited", calls.Hooks.expedite)
    return bpf


@pytest.fixture(scope="session")
def scenes() -> WeakKeyDictionary[Guest, dict[tuple[str, str], Scene]]:
    """What was made on each machine, by loader and outer map."""
    return WeakKeyDictionary()


@pytest.fixture
def scene(
    shared_guest: Guest,
    bpf_loader: str,
    kernel: Kernel,
    outer_type: str,
    scenes: WeakKeyDictionary[Guest, dict[tuple[str, str], Scene]],
) -> Iterator[Scene]:
    """What a test's outer maps are made on."""
    made = scenes.setdefault(shared_guest, {})
    known = made.get((bpf_loader, outer_type))
    if known is None or not known.bpf.commands.process.alive:
        if bpf_loader == LIBBPF:
            require_library()
        bpf = Bpf(shared_guest.new_process(), bpf_loader)
        bpf.commands.ask("rcu_expedited", calls.Hooks.expedite)
        known = made[bpf_loader, outer_type] = Scene(shared_guest, bpf, kernel, outer_type)
    yield known
    known.end_others()


@pytest.fixture
def forbidden(scene: Scene, vm: Machine, request: pytest.FixtureRequest) -> Forbidden:
    """Forbids bpf(2) to the unprivileged for a while, as distributions do.

    Where it cannot be allowed again, no other test gets the machine.
    """

    @contextlib.contextmanager
    def forbid() -> Iterator[None]:
        with restricted(scene.bpf.commands) as can_be_allowed:
            if not can_be_allowed:
                request.config.stash[STATE].pool().spoil(vm)
            yield

    return forbid


@pytest.fixture(autouse=True)
def asked_only_where_possible(request: pytest.FixtureRequest) -> None:
    """Skip a contract that its kernel cannot be asked, before any fixture of its test reaches for what is missing."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    contract: Contract | None = parameters.get(PARAMETER)
    if contract is None:
        return
    may_be_asked: Callable[[Contract], None] = request.getfixturevalue("may_be_asked")
    try:
        may_be_asked(contract)
    except NotAsked as reason:
        _skip(request.node, contract, str(reason))


@pytest.fixture
def observe(
    request: pytest.FixtureRequest,
    contract: Contract,
    kernel: Kernel,
    vm: Machine,
    probed: Probed,
) -> Iterator[Observe]:
    """Take the answer of this test."""
    decided = probed(contract)
    seen: list[object] = []

    def take(observed: object) -> None:
        seen.append(observed)
        assert len(seen) == 1, f"{contract.id} is observed twice in one test"
        broken = _hold(request.node, contract, kernel.version, observed, decided, vendor_of(vm.release))
        if broken:
            raise ContractBroken(broken)

    yield take
    assert seen or request.node.stash.get(_ENDED, False), f"the test observed nothing of {contract.id}"


@pytest.fixture(scope="session")
def asked_of_kernels() -> Capabilities:
    """What probes found; a kernel is asked once, whatever number of contracts it decides."""
    return Capabilities()


@pytest.fixture
def may_be_asked(
    vm: Machine, kernel: Kernel, kernel_choice: Choice, asked_of_kernels: Capabilities
) -> Callable[[Contract], None]:
    """Return a function that raises NotAsked where a kernel's version, or what it lacks, leaves nothing to ask.

    It raises CapabilityMissing where the kernel should have what it lacks, unless it is a vendor's.
    """

    def check(contract: Contract) -> None:
        if not contract.can_be_asked_of(kernel.version):
            raise NotAsked(f"{FOR_KERNELS}{contract.condition}")
        # Parts first: where one is missing, the probe of a capability that needs it has no answer.
        for name in sorted(contract.requires, key=lambda one: not CAPABILITIES[one].is_part):
            asked_of_kernels.ask(kernel_choice, name, vm)
            judgement = asked_of_kernels.judge(kernel, kernel_choice, name)
            if judgement.decision is Decision.SKIP or (judgement.decision is Decision.FAIL and vendor_of(vm.release)):
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
        return "" if finding.answer is Availability.INCONCLUSIVE else finding.answer.value

    return probe


def _hold(
    item: pytest.Item, contract: Contract, version: KernelVersion, observed: object, probed: str, vendor: str
) -> str:
    """Record an answer; return how it differs from the one that the contract names, "" when it does not."""
    verdict = judge(contract, version, observed, probed, vendor)
    item.user_properties.append((properties.OBSERVATION, _record(contract, observed, verdict)))
    if verdict.word != "differs":
        return ""
    return (
        f"{contract.id} does not hold on {version}: {verdict.sentence}\n"
        f"  observed: {observed}\n  expected: {verdict.expected}, by {verdict.source}"
        + (f"\n  note: {verdict.note}" if verdict.note else "")
    )


_ENDED = pytest.StashKey[bool]()
"""Whether a test ended before it could observe."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a test that finds out that its contract cannot be asked; note a test that ends before it could observe."""
    item.stash[_ENDED] = True
    try:
        yield
    except NotAsked as reason:
        _skip(item, item.callspec.params[PARAMETER], str(reason))  # type: ignore[attr-defined]
    item.stash[_ENDED] = False


def _skip(item: pytest.Item, contract: Contract, reason: str) -> None:
    """Record why a contract is not asked, and skip its test."""
    verdict = ContractVerdict(NOT_ASKED, None, "", reason)
    item.user_properties.append((properties.OBSERVATION, _record(contract, None, verdict)))
    pytest.skip(reason)


def _record(contract: Contract, observed: object, verdict: ContractVerdict) -> dict[str, Any]:
    return msgspec.structs.asdict(
        Observation(
            contract=contract.id,
            sentence=verdict.sentence or contract.sentence,
            takes=contract.takes,
            observed=observed,
            expected=verdict.expected,
            source=verdict.source,
            verdict=verdict.word,
            note=verdict.note,
        )
    )
