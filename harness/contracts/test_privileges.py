"""Who may create an outer map and use one: unprivileged users, single capabilities, namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.contracts.conftest import Forbidden, Observe
from harness.contracts.scene import Scene, open_to_all
from harness.guest import calls
from harness.testing import Map, asm, errno_of, uapi
from harness.vm.guest_process import GuestProcess

pytestmark = pytest.mark.vm(scope="module")

NOBODY = 65534

# Who asks: capabilities that user 65534 keeps, or namespaces that root goes into.
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "nobody": (),
    "cap_bpf": ("bpf",),
    "cap_sys_admin": ("sys_admin",),
    "cap_net_admin": ("net_admin",),
}
NAMESPACES: dict[str, Callable[[GuestProcess], object]] = {
    "user_namespace": lambda process: process.ask(calls.Credentials.leave, ("user",)),
    "mount_namespace": lambda process: process.ask(calls.Credentials.leave, ("mnt",)),
}


def become(process: GuestProcess, who: str) -> None:
    """Make a guest process somebody else."""
    if who in NAMESPACES:
        NAMESPACES[who](process)
    else:
        process.ask(calls.Credentials.become, NOBODY, CAPABILITIES[who])


class Caller:
    """A new guest process: root until it becomes somebody."""

    def __init__(self, scene: Scene) -> None:
        self.bpf = scene.another()
        self.process = self.bpf.commands.process
        self.outer = scene.type

    def create(self, **fields: Any) -> str:
        """Create an outer map with a template of one's own, or another one's where one may not."""
        return errno_of(self.bpf.map, self.outer, **fields)


@pytest.fixture
def restricted(forbidden: Forbidden) -> Iterator[None]:
    """Forbid bpf(2) to the unprivileged until the test is over."""
    with forbidden():
        yield


@pytest.fixture
def unrestricted(scene: Scene) -> Iterator[None]:
    """Allow bpf(2) to the unprivileged, until the test is over."""
    with open_to_all(scene.bpf):
        yield


# Where it is restricted.


@pytest.mark.contract("privilege.create")
@pytest.mark.usefixtures("restricted")
def test_who_may_create_an_outer_map(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    template = caller.bpf.map("hash")
    become(caller.process, case)
    observe(caller.create(inner=template))


@pytest.mark.contract("privilege.create_bad_value_size")
@pytest.mark.usefixtures("restricted")
def test_privileges_and_the_value_size_are_both_wrong(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    template = caller.bpf.map("hash")
    become(caller.process, case or "nobody")
    observe(caller.create(value_size=8, inner=template))


@pytest.mark.contract("privilege.create_bad_fd")
@pytest.mark.usefixtures("restricted")
def test_privileges_and_the_template_are_both_wrong(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    become(caller.process, case or "nobody")
    observe(caller.create(inner_map_fd=-1))


def held_by(scene: Scene, who: str) -> tuple[Map, Map]:
    """Return an outer map, and the inner map at key 0, of a process that has just become somebody."""
    caller = Caller(scene)
    inner = caller.bpf.map("hash")
    outer = caller.bpf.map(scene.type, max_entries=4, inner=inner)
    outer.update(0, inner)
    become(caller.process, who)
    return outer, inner


@pytest.mark.contract("privilege.update")
@pytest.mark.usefixtures("restricted")
def test_who_may_update(scene: Scene, case: str, observe: Observe) -> None:
    outer, inner = held_by(scene, case)
    observe(errno_of(outer.update, 1, inner))


@pytest.mark.contract("privilege.lookup")
@pytest.mark.usefixtures("restricted")
def test_who_may_look_up(scene: Scene, case: str, observe: Observe) -> None:
    outer, _ = held_by(scene, case)
    observe(errno_of(outer.lookup, 0))


@pytest.mark.contract("privilege.delete")
@pytest.mark.usefixtures("restricted")
def test_who_may_delete(scene: Scene, case: str, observe: Observe) -> None:
    outer, _ = held_by(scene, case)
    observe(errno_of(outer.delete, 0))


@pytest.mark.contract("privilege.freeze")
@pytest.mark.usefixtures("restricted")
def test_who_may_freeze(scene: Scene, case: str, observe: Observe) -> None:
    outer, _ = held_by(scene, case)
    observe(errno_of(outer.freeze))


@pytest.mark.contract("privilege.fd_by_id")
@pytest.mark.usefixtures("restricted")
def test_who_may_open_by_id(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    inner = scene.inner
    number = inner.id
    become(caller.process, case)
    observe(errno_of(caller.bpf.map_by_id, number, like=inner))


# Where it is open to all.


@pytest.mark.contract("privilege.open")
@pytest.mark.usefixtures("unrestricted")
def test_who_may_create_where_it_is_open(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    become(caller.process, case or "nobody")
    observe(caller.create(inner=caller.bpf.map("hash")))


@pytest.mark.contract("privilege.open_zero_seed")
@pytest.mark.usefixtures("unrestricted")
def test_who_may_choose_the_seed_where_it_is_open(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    become(caller.process, case or "nobody")
    observe(caller.create(map_flags=uapi.ZERO_SEED, inner=caller.bpf.map("hash")))


@pytest.mark.contract("privilege.open_socket_filter")
@pytest.mark.usefixtures("unrestricted")
def test_who_may_load_a_program_where_it_is_open(scene: Scene, case: str, observe: Observe) -> None:
    caller = Caller(scene)
    become(caller.process, case or "nobody")
    outer = caller.bpf.map(scene.type, inner=caller.bpf.map("hash"))
    code = (asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), *asm.return_(0))
    observe(errno_of(caller.bpf.prog, "socket_filter", code))


# From another mount namespace.


@pytest.mark.contract("privilege.id_in_mount_namespace")
def test_an_id_is_the_same_in_another_mount_namespace(scene: Scene, observe: Observe) -> None:
    other = Caller(scene)
    outer = scene.empty()
    become(other.process, "mount_namespace")
    observe(errno_of(other.bpf.map_by_id, outer.id, like=outer))


@pytest.mark.contract("privilege.pinned_in_mount_namespace")
def test_a_pin_is_seen_from_another_mount_namespace(scene: Scene, observe: Observe) -> None:
    other = Caller(scene)
    outer = scene.empty()
    become(other.process, "mount_namespace")
    path = f"/sys/fs/bpf/{scene.type}"
    outer.pin(path)
    try:
        observe(errno_of(other.bpf.pinned_map, path, like=outer))
    finally:
        scene.bpf.unpin(path)
