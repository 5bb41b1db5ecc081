"""The fixtures: a kernel, its machine, its guest, and the loaders in the guest.

A project may have fixtures of its own with these names. So none of these asks for another by such a name: they are made
of fixtures whose names begin with `_harness_`, and each of the others gives one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin.marks import has_mark
from harness.pytest_plugin.options import LIBBPF, RAW, option
from harness.pytest_plugin.parts import running

if TYPE_CHECKING:
    from harness.kernel.types import Choice, Kernel
    from harness.remote.bcc import Bcc
    from harness.remote.bpf import Bpf
    from harness.remote.guest import Guest
    from harness.remote.libbpf import Libbpf
    from harness.remote.stress import Stress
    from harness.vm.machine import Machine


@pytest.fixture(scope="session")
def _harness_choice(request: pytest.FixtureRequest) -> Choice:
    """The chosen kernel of a test; it is the parameter of every test function that uses a kernel."""
    choice: Choice | None = getattr(request, "param", None)
    return choice if choice is not None else running(request.config).only_choice()


@pytest.fixture(scope="session")
def _harness_kernel(_harness_choice: Choice, request: pytest.FixtureRequest) -> Kernel:
    """The kernel of a test, on this machine."""
    return running(request.config).pool().prepare(_harness_choice).kernel


@pytest.fixture
def _harness_vm(_harness_choice: Choice, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The machine of a test, with the checks around it."""
    state = running(request.config)
    # Not before: a project without tests of kernels does not load them.
    from harness.pytest_plugin.around import Taken, look_back
    from harness.pytest_plugin.collection import needs_of, note_kernel
    from harness.pytest_plugin.scopes import scope_of, shared_machine
    from harness.pytest_plugin.state import MACHINE

    item: pytest.Item = request.node
    note_kernel(item)
    spec = state.pool().prepare(_harness_choice, needs_of(item))
    scope = scope_of(item)
    shared = shared_machine(item, _harness_choice, spec, scope).taken.machine if scope is not None else None
    if has_mark(item, "requires"):
        from harness.pytest_plugin.markers import required

        state.require(_harness_choice, spec, required(item), shared)
    if shared is not None:
        item.stash[MACHINE] = shared
        yield shared
        del item.stash[MACHINE]  # pytest keeps the item until the run ends
        return
    taken = Taken(item, _harness_choice, spec)
    item.stash[MACHINE] = taken.machine
    yield taken.machine
    del item.stash[MACHINE]
    try:
        look_back(item, taken)
    finally:
        taken.give_back(spoiled=has_mark(item, "leaks"))


@pytest.fixture
def _harness_guest(_harness_vm: Machine, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest of a test, whose output its report shows."""
    from harness.pytest_plugin.state import GUESTS
    from harness.remote.guest import Guest

    guest = Guest(_harness_vm)
    request.node.stash[GUESTS] = guest
    yield guest
    del request.node.stash[GUESTS]  # pytest keeps the item until the run ends
    if has_mark(request.node, "leaks"):
        guest.close()  # otherwise the leak check ends its process


@pytest.fixture
def _harness_second_vm(
    _harness_vm: Machine, _harness_choice: Choice, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """The second machine of a test, with the checks around it."""
    from harness.pytest_plugin.around import Taken, look_back
    from harness.pytest_plugin.collection import needs_of, second_choice

    choice = second_choice(request.node, _harness_choice)
    spec = running(request.config).pool().prepare(choice, needs_of(request.node))
    taken = Taken(request.node, choice, spec, first=_harness_vm)
    yield taken.machine
    try:
        look_back(request.node, taken)
    finally:
        taken.give_back()


@pytest.fixture
def _harness_loader(request: pytest.FixtureRequest) -> str:
    """The loader of a test's bpf(2) calls: a parameter where --loader says so."""
    return str(getattr(request, "param", RAW))


@pytest.fixture
def _harness_bcc(_harness_guest: Guest) -> Bcc:
    """Marks a test that needs a guest with bcc."""
    from harness.remote.bcc import Bcc
    from harness.remote.command import Commands

    return Bcc(Commands(_harness_guest.process))


@pytest.fixture(scope="session")
def kernel_choice(_harness_choice: Choice) -> Choice:
    """The kernel of this test as it was selected, before it is on this machine."""
    return _harness_choice


@pytest.fixture(scope="session")
def kernel(_harness_kernel: Kernel) -> Kernel:
    """The kernel of this test: version, release, origin."""
    return _harness_kernel


@pytest.fixture
def vm(_harness_vm: Machine) -> Machine:
    """The virtual machine of this test, a new one unless the marker `vm` says that tests share it."""
    return _harness_vm


@pytest.fixture
def guest(_harness_guest: Guest) -> Guest:
    """The guest: call functions and run programs there, read its kernel log."""
    return _harness_guest


@pytest.fixture
def second_vm(_harness_second_vm: Machine) -> Machine:
    """Another machine of the test, on the same kernel or another; its network cards reach those of the first."""
    return _harness_second_vm


@pytest.fixture
def second_guest(_harness_second_vm: Machine, _harness_guest: Guest) -> Guest:
    """The guest of the second machine; the test's report shows what it prints among the output of the first."""
    from harness.remote.guest import Guest

    guest = Guest(_harness_second_vm)
    guest.outputs = _harness_guest.outputs
    return guest


@pytest.fixture
def shared_guest(_harness_vm: Machine, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest, with one guest process for all tests that share the machine."""
    # What a test leaves open there stays open until the machine's last test. After a process has died, there is a new
    # one.
    from harness.pytest_plugin.state import GUESTS
    from harness.remote.guest import Guest

    shared = running(request.config).shared
    guest = shared.guest if shared is not None else None
    if guest is None or not guest.process.alive:
        guest = Guest(_harness_vm)
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
    """Repeat functions in the guest, as often as --stress says, and report the speed."""
    from harness.remote.stress import Stress
    from harness.results import properties

    stress = Stress(option(request.config, "stress"), request.node.name, running(request.config).output.say)
    yield stress
    request.node.user_properties += [(properties.THROUGHPUT, dict(one)) for one in stress.throughputs]


@pytest.fixture
def bpf_loader(_harness_loader: str) -> str:
    """The loader of this test's bpf(2) calls, from --loader: "raw" or a library."""
    return _harness_loader


@pytest.fixture
def bpf(_harness_guest: Guest, _harness_loader: str) -> Bpf:
    """The bpf system call, in a guest process of this test."""
    from harness.remote.bpf import Bpf
    from harness.remote.libbpf import require_library

    if _harness_loader == LIBBPF:
        require_library()
    return Bpf(_harness_guest.process, _harness_loader)


@pytest.fixture
def libbpf(_harness_guest: Guest) -> Libbpf:
    """The library libbpf, in the same guest process: open compiled objects with it."""
    from harness.remote.command import Commands
    from harness.remote.libbpf import Libbpf

    return Libbpf(Commands(_harness_guest.process))


@pytest.fixture
def bcc(_harness_bcc: Bcc) -> Bcc:
    """The library bcc, in the same guest process: compile programs with it."""
    return _harness_bcc


@pytest.fixture(scope="session")
def bpf_object() -> Callable[..., Path]:
    """A function that compiles a BPF program written in C: its file, then macros such as "NAME=VALUE"."""
    from harness.util import clang

    def build(source: str | Path, *defines: str) -> Path:
        return clang.build(clang.find_source(source), defines=defines)

    return build
