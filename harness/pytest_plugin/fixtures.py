"""The fixtures: a kernel, its machine, its guest, and the loaders in the guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.around import Taken, look_back
from harness.pytest_plugin.collection import needs_of
from harness.pytest_plugin.options import LIBBPF, RAW
from harness.pytest_plugin.scopes import scope_of, shared_machine
from harness.pytest_plugin.state import GUESTS, STATE
from harness.results import properties

if TYPE_CHECKING:
    from harness.kernel.types import Choice, Kernel
    from harness.pytest_plugin.stress import Stress
    from harness.remote.bcc import Bcc
    from harness.remote.bpf import Bpf
    from harness.remote.guest import Guest
    from harness.remote.libbpf import Libbpf
    from harness.vm.machine import Machine


@pytest.fixture(scope="session")
def kernel_choice(request: pytest.FixtureRequest) -> Choice:
    """The chosen kernel of this test; it is the parameter of every test that uses a kernel."""
    choice: Choice = request.param
    return choice


@pytest.fixture(scope="session")
def kernel(kernel_choice: Choice, request: pytest.FixtureRequest) -> Kernel:
    """The kernel of this test: version, release, origin."""
    return request.config.stash[STATE].pool().prepare(kernel_choice).kernel


@pytest.fixture
def vm(kernel_choice: Choice, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that runs the kernel: by default one of this test's own, as it was right after boot.

    Tests share one where the marker `vm(scope=...)` or `vm(group=...)` says so.
    """
    state = request.config.stash[STATE]
    spec = state.pool().prepare(kernel_choice, needs_of(request.node))
    scope = scope_of(request.node)
    shared = shared_machine(request.node, kernel_choice, spec, scope).taken.machine if scope is not None else None
    if request.node.get_closest_marker("requires") is not None:
        from harness.pytest_plugin.markers import required

        state.require(kernel_choice, spec, required(request.node), shared)
    if shared is not None:
        yield shared
        return
    taken = Taken(request.node, kernel_choice, spec)
    yield taken.machine
    try:
        look_back(request.node, taken)
    finally:
        taken.give_back(spoiled=request.node.get_closest_marker("leaks") is not None)


@pytest.fixture
def guest(vm: Machine, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest: call functions and run programs there, read its kernel log."""
    from harness.remote.guest import Guest

    guest = Guest(vm)
    request.node.stash[GUESTS] = guest
    yield guest
    del request.node.stash[GUESTS]  # pytest keeps the item until the run ends
    if request.node.get_closest_marker("leaks") is not None:
        guest.close()  # otherwise the leak check ends its process


@pytest.fixture
def shared_guest(vm: Machine, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest, with one guest process for all tests that share the machine; a new one after a process has died.

    What a test leaves open there stays open until the machine's last test.
    """
    from harness.remote.guest import Guest

    shared = request.config.stash[STATE].shared
    guest = shared.guest if shared is not None else None
    if guest is None or not guest.process.alive:
        guest = Guest(vm)
        if shared is not None:
            shared.guest = guest
    guest.outputs.clear()
    stash = request.node.stash
    is_alone = GUESTS not in stash  # a test may have a guest process of its own too
    if is_alone:
        stash[GUESTS] = guest
    yield guest
    if is_alone and GUESTS in stash:
        del stash[GUESTS]


@pytest.fixture
def stress(request: pytest.FixtureRequest) -> Iterator[Stress]:
    """Repeat functions in the guest, as often as --stress says; the report has the speed."""
    from harness.pytest_plugin.stress import Stress

    state = request.config.stash[STATE]
    stress = Stress(request.config.getoption("stress"), request.node.name, state.output.say)
    yield stress
    request.node.user_properties += [(properties.THROUGHPUT, dict(one)) for one in stress.throughputs]


@pytest.fixture
def bpf_loader(request: pytest.FixtureRequest) -> str:
    """The loader of this test's bpf(2) calls: "raw" or a library, from --loader."""
    return str(getattr(request, "param", RAW))


@pytest.fixture
def bpf(guest: Guest, bpf_loader: str) -> Bpf:
    """Return the bpf system call in a guest process of this test."""
    from harness.remote.bpf import Bpf
    from harness.remote.libbpf import require_library

    if bpf_loader == LIBBPF:
        require_library()
    return Bpf(guest.process, bpf_loader)


@pytest.fixture
def libbpf(guest: Guest) -> Libbpf:
    """Return libbpf, in the same guest process: open compiled objects with it."""
    from harness.remote.command import Commands
    from harness.remote.libbpf import Libbpf

    return Libbpf(Commands(guest.process))


@pytest.fixture
def bcc(guest: Guest) -> Bcc:
    """Return bcc, in the same guest process: compile programs with it."""
    from harness.remote.bcc import Bcc
    from harness.remote.command import Commands

    return Bcc(Commands(guest.process))


@pytest.fixture(scope="session")
def bpf_object() -> Callable[..., Path]:
    """Return a function that compiles a BPF program written in C, and returns the object's path.

    It takes the path of a C file, or the name of one in `bpf/`, and macros: `bpf_object(path, "NAME=VALUE", ...)`.
    """
    from harness.util import clang

    def build(source: str | Path, *defines: str) -> Path:
        return clang.build(clang.find_source(source), defines=defines)

    return build
