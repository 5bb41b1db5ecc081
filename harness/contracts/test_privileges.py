"""Who may create an outer map and use one: unprivileged users, single capabilities, namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.errors import GuestCallError
from harness.testing import Bpf, Guest, asm, errno_of, uapi
from harness.vm.machine import GuestProcess, Machine

SYSCTL = "/proc/sys/kernel/unprivileged_bpf_disabled"

NOBODY = 65534

# Who asks: capabilities that user 65534 keeps, or namespaces that root goes into.
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "nobody": (),
    "cap_bpf": ("bpf",),
    "cap_sys_admin": ("sys_admin",),
    "cap_net_admin": ("net_admin",),
}
NAMESPACES: dict[str, tuple[str, ...]] = {"user_namespace": ("user",), "mount_namespace": ("mnt",)}


def become(process: GuestProcess, who: str) -> None:
    """Make a guest process somebody else."""
    if who in NAMESPACES:
        process.call("credentials.leave", NAMESPACES[who])
    else:
        process.call("credentials.become", NOBODY, CAPABILITIES[who])


class Caller:
    """A new guest process: root until it becomes somebody."""

    def __init__(self, vm: Machine, outer: str) -> None:
        self.process = vm.new_process()
        self.bpf = Bpf(self.process)
        self.outer = outer

    def create(self, **fields: Any) -> str:
        """Create an outer map with a template of one's own, or another one's where one may not."""
        return errno_of(self.bpf.map, self.outer, **fields)


@pytest.fixture
def sysctl(guest: Guest, request: pytest.FixtureRequest) -> Iterator[None]:
    """Forbid bpf(2) to the unprivileged, as distributions do, until the test is over."""
    before = guest.read(SYSCTL).strip()
    try:
        guest.write(SYSCTL, "2")
    except GuestCallError:
        # Before 5.13 there is no 2, and no way back: no other test may have this machine.
        guest.write(SYSCTL, "1")
        request.applymarker(pytest.mark.leaks("unprivileged_bpf_disabled stays 1"))
    yield
    if guest.read(SYSCTL).strip() == b"2":
        guest.write(SYSCTL, before)


@pytest.fixture
def open_to_all(guest: Guest) -> Iterator[None]:
    """Allow bpf(2) to the unprivileged, until the test is over."""
    before = guest.read(SYSCTL).strip()
    if before != b"0":  # before 5.13 it can be set to 1 alone, and is 0 until then
        guest.write(SYSCTL, "0")
    yield
    if before != b"0":
        guest.write(SYSCTL, before)


@pytest.mark.contract("privilege.create", "privilege.create_bad_value_size", "privilege.create_bad_fd", together=True)
def test_create_where_it_is_restricted(vm: Machine, sysctl: None, observe_each: ObserveEach) -> None:
    def answer(contract: Contract) -> str:
        caller = Caller(vm, contract.outer)
        template = caller.bpf.map("hash")
        become(caller.process, contract.case or "nobody")
        if contract.name == "privilege.create_bad_value_size":
            return caller.create(value_size=8, inner=template)
        if contract.name == "privilege.create_bad_fd":
            return caller.create(inner_map_fd=-1)
        return caller.create(inner=template)

    observe_each(answer)


@pytest.mark.contract(
    "privilege.update", "privilege.lookup", "privilege.delete", "privilege.freeze", "privilege.fd_by_id", together=True
)
def test_use_where_it_is_restricted(vm: Machine, sysctl: None, observe_each: ObserveEach) -> None:
    def answer(contract: Contract) -> str:
        caller = Caller(vm, contract.outer)
        bpf = caller.bpf
        inner = bpf.map("hash")
        outer = bpf.map(contract.outer, max_entries=4, inner=inner)
        outer.update(0, inner)
        number = inner.id if contract.name == "privilege.fd_by_id" else 0
        become(caller.process, contract.case)
        match contract.name.removeprefix("privilege."):
            case "update":
                return errno_of(outer.update, 1, inner)
            case "lookup":
                return errno_of(outer.lookup, 0)
            case "delete":
                return errno_of(outer.delete, 0)
            case "freeze":
                return errno_of(outer.freeze)
        return errno_of(bpf.map_by_id, number, like=inner)

    observe_each(answer)


@pytest.mark.contract("privilege.open", "privilege.open_zero_seed", "privilege.open_socket_filter", together=True)
def test_where_it_is_open_to_all(vm: Machine, open_to_all: None, observe_each: ObserveEach) -> None:
    def answer(contract: Contract) -> str:
        caller = Caller(vm, contract.outer)
        become(caller.process, contract.case or "nobody")
        template = caller.bpf.map("hash")
        if contract.name == "privilege.open_zero_seed":
            return caller.create(map_flags=uapi.ZERO_SEED, inner=template)
        if contract.name == "privilege.open":
            return caller.create(inner=template)
        outer = caller.bpf.map(contract.outer, inner=template)
        code = (asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), *asm.return_(0))
        return errno_of(caller.bpf.prog, "socket_filter", code)

    observe_each(answer)


@pytest.mark.contract("privilege.pinned_in_mount_namespace", "privilege.id_in_mount_namespace", together=True)
def test_from_another_mount_namespace(vm: Machine, observe_each: ObserveEach) -> None:
    def answer(contract: Contract) -> str:
        caller = Caller(vm, contract.outer)
        outer = caller.bpf.map(contract.outer, inner=caller.bpf.map("hash"))
        other = Caller(vm, contract.outer)
        become(other.process, "mount_namespace")
        if contract.name == "privilege.id_in_mount_namespace":
            return errno_of(other.bpf.map_by_id, outer.id, like=outer)
        path = f"/sys/fs/bpf/{contract.outer}"
        outer.pin(path)
        try:
            return errno_of(other.bpf.pinned_map, path, like=outer)
        finally:
            caller.bpf.unpin(path)

    observe_each(answer)
