"""Descriptors of outer maps: opened by id or by a pin, for reading or writing only, frozen; what the kernel reports."""

from __future__ import annotations

import ctypes
import mmap as memory
import os
import resource
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.contracts.conftest import Forbidden, Observe
from harness.contracts.contract import Contract
from harness.contracts.scene import Scene, by_errno, name_of, open_to_all
from harness.guest import calls
from harness.guest.api import bpf as raw
from harness.testing import Map, errno_of, uapi

pytestmark = pytest.mark.vm(group="operations")

MODES = {"readonly": uapi.RDONLY, "writeonly": uapi.WRONLY}

BPFFS = "/sys/fs/bpf"


@pytest.fixture
def unpinned(scene: Scene) -> Iterator[None]:
    """Remove what the test has pinned, when it is over."""
    yield
    for path, *_ in scene.bpf.commands.process.ask(calls.Files.entries, BPFFS):
        scene.bpf.unpin(f"{BPFFS}/{path}")


def outer_map(outer_type: str) -> tuple[int, int]:
    """Create an outer map; return its descriptor and that of its template."""
    template = raw.map_create("hash", 4, 4, 8)
    return raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template), template


# Opening by id, and descriptors that may not do everything.


@pytest.mark.contract("fd_by_id.unknown_id")
def test_ids_that_no_map_has(scene: Scene, case: str, observe: Observe) -> None:
    outer = scene.empty()
    ids = {"zero": 0, "next": outer.id + 1, "largest": 0xFFFFFFFF}
    observe(errno_of(scene.bpf.map_by_id, ids[case], like=outer))


@pytest.mark.contract("fd_by_id.descriptors")
def test_each_opening_gives_a_descriptor(scene: Scene, observe: Observe) -> None:
    outer = scene.empty()
    observe(len({one.fd for one in (outer, *(scene.bpf.map_by_id(outer.id, like=outer) for _ in range(3)))}))


@pytest.mark.contract("fd_by_id.same_map")
def test_an_id_opens_the_same_map(scene: Scene, observe: Observe) -> None:
    outer = scene.empty()
    scene.bpf.map_by_id(outer.id, like=outer)[0] = scene.inner
    observe("the same map" if outer.lookup(0) == scene.inner.id else "another")


@pytest.mark.contract("fd_by_id.of_inner")
def test_what_a_lookup_gives_opens_the_inner_map(scene: Scene, observe: Observe) -> None:
    inner, outer = scene.like_template(), scene.empty()
    inner[1] = 41
    outer[0] = inner
    observe(scene.bpf.map_by_id(outer.lookup(0), like=inner).lookup(1))


def answers_to_flags_of_opening(outer_type: str) -> list[tuple[int, int]]:
    """Open a map by its id with each bit of open_flags; return the errnos."""
    outer, _ = outer_map(outer_type)
    id_ = raw.info(outer, "map")["id"]
    numbers = (0, *(1 << bit for bit in range(32)))
    return [(number, raw.attempt("MAP_GET_FD_BY_ID", {"id": id_, "open_flags": number})[0]) for number in numbers]


@pytest.mark.contract("fd_by_id.flag_bits")
def test_every_bit_of_the_flags_of_opening_by_id(scene: Scene, observe: Observe) -> None:
    observe(by_errno(scene.guest.call(answers_to_flags_of_opening, scene.type, closes=False)))


def commands_on(outer: Map, inner: Map, name: str) -> dict[str, Any]:
    """Return what may be asked of a map whose element 0 holds `inner`, by the case of a contract; `name` is a pin's."""
    return {
        "update": lambda: outer.update(1, inner),
        "replace": lambda: outer.update(0, inner),
        "delete": lambda: outer.delete(0),
        "lookup": lambda: outer.lookup(0),
        "next_key": lambda: outer.next_key(),
        "info": lambda: outer.info(),
        "update_batch": lambda: outer.update_batch({1: inner}),
        "delete_batch": lambda: outer.delete_batch([0]),
        "lookup_batch": lambda: outer.lookup_batch(4),
        "lookup_and_delete_batch": lambda: outer.lookup_and_delete_batch(4),
        "freeze": lambda: outer.freeze(),
        "pin": lambda: outer.pin(f"{BPFFS}/{name.replace('.', '_')}"),
    }


@pytest.mark.contract("readonly_fd", "writeonly_fd", "readonly_fd_batch", "writeonly_fd_batch")
@pytest.mark.usefixtures("replaces", "unpinned")
def test_descriptors_that_may_only_read_or_write(scene: Scene, contract: Contract, observe: Observe) -> None:
    outer = scene.holding()
    less = scene.bpf.map_by_id(outer.id, open_flags=MODES[contract.name.partition("_")[0]], like=outer)
    observe(errno_of(commands_on(less, scene.inner, contract.id)[contract.case]))


@pytest.mark.contract("created_readonly", "created_writeonly")
@pytest.mark.usefixtures("unpinned")
def test_maps_created_for_reading_or_writing_only(scene: Scene, contract: Contract, observe: Observe) -> None:
    outer = scene.empty(map_flags=MODES[contract.name.removeprefix("created_")])
    further = {"update_reopened": lambda: scene.bpf.map_by_id(outer.id, like=outer).update(0, scene.inner)}
    observe(errno_of({**commands_on(outer, scene.inner, contract.id), **further}[contract.case]))


# Frozen maps.


@pytest.mark.contract("frozen", "frozen_batch")
@pytest.mark.usefixtures("unpinned")
def test_a_frozen_outer_map(scene: Scene, contract: Contract, observe: Observe) -> None:
    outer = scene.holding()
    before = scene.bpf.map_by_id(outer.id, like=outer)
    outer.freeze()
    further = {
        "inner_update": lambda: scene.inner.update(1, 1),
        "update_by_older_fd": lambda: before.update(1, scene.inner),
        "update_reopened": lambda: scene.bpf.map_by_id(outer.id, like=outer).update(1, scene.inner),
    }
    observe(errno_of({**commands_on(outer, scene.inner, contract.id), **further}[contract.case]))


@pytest.mark.contract("freeze.further_fields")
def test_freezing_takes_nothing_but_the_map(scene: Scene, observe: Observe) -> None:
    found = scene.bpf.commands.attempt("MAP_FREEZE", {"map_fd": scene.empty()}, tail=b"\1\0\0\0")
    observe(name_of(found.errno))


def as_another_user(command: str, fields: dict[str, Any]) -> int:
    """Issue a command as a user without capabilities; return the errno."""
    child = os.fork()
    if child == 0:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        os._exit(raw.attempt(command, fields)[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def freeze_as_another_user(outer_type: str) -> int:
    """Freeze a map that root has created and handed over; return the errno."""
    outer, _ = outer_map(outer_type)
    return as_another_user("MAP_FREEZE", {"map_fd": outer})


@pytest.mark.contract("freeze.without_capabilities")
def test_freezing_without_capabilities(scene: Scene, case: str, forbidden: Forbidden, observe: Observe) -> None:
    with open_to_all(scene.bpf) if case == "allowed" else forbidden():
        observe(name_of(scene.guest.call(freeze_as_another_user, scene.type, closes=False)))


# What the kernel reports of a map.


@pytest.mark.contract("info")
def test_information_on_an_outer_map(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.empty().info()[case])


MORE_THAN_A_PAGE = 0


def ask_info(outer_type: str, size: int, offset: int) -> tuple[int, int]:
    """Ask for information of a size, with one bit set in what is handed in; return errno and the size reported."""
    outer, _ = outer_map(outer_type)
    size = size or resource.getpagesize() + 1
    data = bytearray(size)
    if offset >= 0:
        data[offset] = 1
    fields: dict[str, Any] = {"bpf_fd": outer, "info_len": size, "info": bytes(data)}
    errno, _, numbers, _ = raw.attempt("OBJ_GET_INFO_BY_FD", fields)
    return errno, numbers.get("info_len", size)


ASKED = {
    "info.hash_asked": (1024, 96),
    "info.unknown_field_asked": (1024, 1000),
    "info.too_long": (MORE_THAN_A_PAGE, -1),
}


@pytest.mark.contract(*ASKED)
def test_information_that_is_asked_for_in_a_wrong_way(scene: Scene, contract: Contract, observe: Observe) -> None:
    observe(name_of(scene.guest.call(ask_info, scene.type, *ASKED[contract.name], closes=False)[0]))


@pytest.mark.contract("info.short")
def test_information_may_be_cut_short(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(ask_info, scene.type, 8, -1, closes=False)[1])


OF_EVERY_FILE = {"pos", "flags", "mnt_id", "ino"}


@pytest.mark.contract("fdinfo.lines")
def test_the_lines_of_fdinfo(scene: Scene, observe: Observe) -> None:
    observe(sorted(set(scene.empty().fdinfo()) - OF_EVERY_FILE))


@pytest.mark.contract("fdinfo.value_size")
def test_fdinfo_has_the_size_of_a_value(scene: Scene, observe: Observe) -> None:
    observe(int(scene.empty().fdinfo()["value_size"]))


@pytest.mark.contract("fdinfo.memlock")
def test_fdinfo_has_the_memory(scene: Scene, observe: Observe) -> None:
    outer = scene.empty(max_entries=64, map_flags=uapi.NO_PREALLOC if scene.type == "hash_of_maps" else 0)
    before = outer.fdinfo()
    for key in range(16):
        outer[key] = scene.inner
    observe("grows" if int(outer.fdinfo()["memlock"]) > int(before["memlock"]) else "stays")


# Descriptors.


def close_on_exec(outer_type: str, how: str) -> bool:
    """Return whether a descriptor of a map is closed when the process runs another program."""
    outer, _ = outer_map(outer_type)
    if how == "reopened":
        outer = raw.command("MAP_GET_FD_BY_ID", id=raw.info(outer, "map")["id"])
    if how == "pinned":
        raw.command("OBJ_PIN", pathname="/sys/fs/bpf/pinned", bpf_fd=outer)
        outer = raw.command("OBJ_GET", pathname="/sys/fs/bpf/pinned")
        os.unlink("/sys/fs/bpf/pinned")  # noqa: PTH108 - as its neighbours, a system call
    return not os.get_inheritable(outer)


def send_over_socket(outer_type: str) -> int:
    """Hand an outer map to a child process over a socket; return the errno of the child's update."""
    outer, template = outer_map(outer_type)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        _, fds, _, _ = socket.recv_fds(there, 1, 2)
        fields: dict[str, Any] = {"map_fd": fds[0], "key": bytes(4), "value": fds[1].to_bytes(4, sys.byteorder)}
        os._exit(raw.attempt("MAP_UPDATE_ELEM", fields)[0])
    socket.send_fds(here, [b"x"], [outer, template])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def map_into_memory(outer_type: str) -> int:
    """Map an outer map into memory; return the errno."""
    outer, _ = outer_map(outer_type)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    found = libc.mmap(None, memory.PAGESIZE, memory.PROT_READ, memory.MAP_SHARED, outer, 0)
    return ctypes.get_errno() if found == ctypes.c_void_p(-1).value else 0


def duplicate_as_value(outer_type: str) -> int:
    """Insert an inner map by a copy of its descriptor."""
    outer, template = outer_map(outer_type)
    value = os.dup(template).to_bytes(4, sys.byteorder)
    fields: dict[str, Any] = {"map_fd": outer, "key": bytes(4), "value": value}
    return raw.attempt("MAP_UPDATE_ELEM", fields)[0]


@pytest.mark.contract("fd.close_on_exec")
def test_descriptors_are_closed_on_exec(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.guest.call(close_on_exec, scene.type, case, closes=False))


@pytest.mark.contract("fd.sent_over_socket")
def test_a_descriptor_is_sent_over_a_socket(scene: Scene, observe: Observe) -> None:
    observe(name_of(scene.guest.call(send_over_socket, scene.type, closes=False)))


@pytest.mark.contract("fd.duplicated")
def test_a_duplicate_of_a_descriptor_is_inserted(scene: Scene, observe: Observe) -> None:
    observe(name_of(scene.guest.call(duplicate_as_value, scene.type, closes=False)))


@pytest.mark.contract("mmap")
def test_an_outer_map_is_mapped_into_memory(scene: Scene, observe: Observe) -> None:
    observe(name_of(scene.guest.call(map_into_memory, scene.type, closes=False)))


# Pinned maps.


def answers_to_flags_of_pin(outer_type: str) -> list[tuple[int, int]]:
    """Open a pinned map with each bit of file_flags; return the errnos."""
    outer, _ = outer_map(outer_type)
    raw.command("OBJ_PIN", pathname="/sys/fs/bpf/pinned", bpf_fd=outer)
    numbers = (0, *(1 << bit for bit in range(32)))
    answers = [
        (number, raw.attempt("OBJ_GET", {"pathname": "/sys/fs/bpf/pinned", "file_flags": number})[0])
        for number in numbers
    ]
    os.unlink("/sys/fs/bpf/pinned")  # noqa: PTH108 - as its neighbours, a system call
    return answers


@pytest.mark.contract("pinned.flag_bits")
def test_every_bit_of_the_flags_of_opening_a_pin(scene: Scene, observe: Observe) -> None:
    observe(by_errno(scene.guest.call(answers_to_flags_of_pin, scene.type, closes=False)))


@pytest.mark.contract("pin.twice")
@pytest.mark.usefixtures("unpinned")
def test_a_path_is_for_one_pin(scene: Scene, observe: Observe) -> None:
    outer = scene.empty()
    outer.pin(f"{BPFFS}/there")
    observe(errno_of(outer.pin, f"{BPFFS}/there"))


@pytest.mark.contract("pin.two_names")
@pytest.mark.usefixtures("unpinned")
def test_a_map_has_two_names(scene: Scene, observe: Observe) -> None:
    outer = scene.empty()
    outer.pin(f"{BPFFS}/there")
    observe(errno_of(outer.pin, f"{BPFFS}/other"))


@pytest.mark.contract("pin.outside_bpffs")
def test_a_pin_is_in_a_bpf_file_system(scene: Scene, observe: Observe) -> None:
    observe(errno_of(scene.empty().pin, "/tmp/pinned"))


@pytest.mark.contract("pin.name_with_dot")
@pytest.mark.usefixtures("unpinned")
def test_a_pin_has_a_dot_in_its_name(scene: Scene, observe: Observe) -> None:
    observe(errno_of(scene.empty().pin, f"{BPFFS}/with.dot"))


@pytest.mark.contract("pinned.reopened")
@pytest.mark.usefixtures("unpinned")
def test_a_pin_keeps_the_outer_map_and_its_elements(scene: Scene, observe: Observe) -> None:
    inner, outer = scene.like_template(), scene.empty()
    inner[1] = 41
    outer[0] = inner
    outer.pin(f"{BPFFS}/kept")
    outer.close()
    inner.close()
    with scene.bpf.pinned_map(f"{BPFFS}/kept", like=outer) as again:
        observe(scene.bpf.map_by_id(again.lookup(0), like=inner).lookup(1))


@pytest.mark.contract("pinned")
@pytest.mark.usefixtures("replaces", "unpinned")
def test_a_pin_is_opened_for_reading_or_writing_only(scene: Scene, contract: Contract, observe: Observe) -> None:
    outer = scene.holding()
    outer.pin(f"{BPFFS}/pinned")
    mode, _, command = contract.case.partition("_")
    again = scene.bpf.pinned_map(f"{BPFFS}/pinned", file_flags=MODES[mode], like=outer)
    observe(errno_of(commands_on(again, scene.inner, contract.id)[command]))


def open_as_another_user(outer_type: str, mode: int, flags: int) -> int:
    """Open a pinned map, of a mode, as a user that is not its owner; return the errno."""
    outer, _ = outer_map(outer_type)
    os.chdir("/sys/fs/bpf")  # folders on the way may be closed to others
    folder = stat.S_IMODE(Path().stat().st_mode)
    Path().chmod(0o755)
    raw.command("OBJ_PIN", pathname="foreign", bpf_fd=outer)
    Path("foreign").chmod(mode)
    errno = as_another_user("OBJ_GET", {"pathname": "foreign", "file_flags": flags})
    Path("foreign").unlink()
    Path().chmod(folder)
    return errno


@pytest.mark.contract("pinned.by_another_user")
def test_the_mode_of_a_pin_says_who_may_open_it(scene: Scene, case: str, observe: Observe) -> None:
    mode, _, how = case.partition("_")
    with open_to_all(scene.bpf):
        found = scene.guest.call(open_as_another_user, scene.type, int(mode, 8), MODES.get(how, 0), closes=False)
    observe(name_of(found))
