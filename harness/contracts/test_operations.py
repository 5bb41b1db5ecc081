"""Commands on outer maps, one element at a time: what an update takes, what a lookup gives, and who may."""

from __future__ import annotations

import ctypes
import mmap as memory
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.contracts.conftest import Forbidden, Observe
from harness.contracts.contract import Contract
from harness.contracts.scene import ENTRIES, Scene, by_errno, descriptor, name_of, open_to_all
from harness.guest import calls
from harness.guest.api import bpf as raw
from harness.guest.api import btf
from harness.testing import ANY, EXIST, LOCK, NOEXIST, Bpf, BpfError, Held, Kernel, Map, asm, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")

FLAGS = {"any": ANY, "noexist": NOEXIST, "exist": EXIST, "lock": LOCK, "cpu": 8, "unknown": 1 << 20}
MODES = {"readonly": uapi.RDONLY, "writeonly": uapi.WRONLY}

BPFFS = "/sys/fs/bpf"


@pytest.fixture
def unpinned(scene: Scene) -> Iterator[None]:
    """Remove what the test has pinned, when it is over."""
    yield
    for path, *_ in scene.bpf.commands.process.ask(calls.Files.entries, BPFFS):
        scene.bpf.unpin(f"{BPFFS}/{path}")


# What an update takes.


def no_inner_map(bpf: Bpf, kind: str, outer: Map, template: Map) -> Held | int:
    """Return what stands for no inner map: an object that a descriptor of the guest process holds, or a number."""
    if kind == "closed":
        other = bpf.map("hash", max_entries=8)
        other.close()
        return other.fd
    numbers = {"minus_one": -1, "not_open": 9999, "itself": outer.fd}
    if kind in numbers:
        return numbers[kind]
    makers: dict[str, Callable[[], Held]] = {
        "regular_file": lambda: bpf.open("/proc/version"),
        "directory": lambda: bpf.open("/"),
        "path_only": lambda: bpf.open("/", os.O_PATH),
        "btf": lambda: bpf.btf([btf.integer("int", 4)]),
        "program": lambda: bpf.prog("socket_filter", asm.return_(0)),
        "link": lambda: bpf.link(
            bpf.prog("cgroup_skb", asm.return_(1), expected_attach_type="cgroup_inet_egress"),
            "cgroup_inet_egress",
            bpf.cgroup("linked"),
        ),
        "perf_event": lambda: bpf.tracepoint(bpf.prog("tracepoint", asm.return_(0)), "raw_syscalls", "sys_enter"),
        "another_outer_map": lambda: bpf.map(outer.type, inner=template),
    }
    return makers[kind]()


@pytest.mark.contract("update.fd_of_no_map", "update.fd_of_no_inner_map")
def test_a_value_is_the_descriptor_of_an_inner_map(scene: Scene, case: str, observe: Observe) -> None:
    outer = scene.empty()
    with descriptor(no_inner_map(scene.bpf, case, outer, scene.template)) as fd:
        observe(errno_of(outer.update, 0, fd.to_bytes(4, scene.bpf.byte_order, signed=fd < 0)))


@pytest.mark.contract("update.bad_fd_and_flag")
def test_descriptor_and_flag_are_both_wrong(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(scene.empty().update, 0, -1, FLAGS[case]))


@pytest.mark.contract("update.flag_on_absent")
def test_flags_where_there_is_no_element(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(scene.empty().update, 0, scene.inner, FLAGS[case]))


@pytest.mark.contract("update.flag_on_present")
@pytest.mark.usefixtures("replaces")
def test_flags_where_there_is_an_element(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(scene.holding().update, 0, scene.inner, FLAGS[case]))


@pytest.mark.contract("update.new_key_when_full")
def test_a_full_hash_takes_no_new_key(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(full(scene, case).update, ENTRIES, scene.inner))


@pytest.mark.contract("update.replace_when_full")
@pytest.mark.usefixtures("replaces")
def test_a_full_hash_replaces(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(full(scene, case).update, 0, scene.inner))


@pytest.mark.contract("update.room_after_delete")
@pytest.mark.usefixtures("replaces")
def test_a_deletion_makes_room(scene: Scene, case: str, observe: Observe) -> None:
    outer = full(scene, case)
    outer.delete(0)
    observe(errno_of(outer.update, ENTRIES, scene.inner))


def full(scene: Scene, case: str) -> Map:
    return scene.holding(*range(ENTRIES), map_flags=uapi.NO_PREALLOC if case == "no_prealloc" else 0)


@pytest.mark.contract("index_at_max_entries")
def test_an_index_is_less_than_max_entries(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(commands_on_key(scene, ENTRIES)[case]))


@pytest.mark.contract("empty_slot", "missing_key")
def test_elements_that_are_not_there(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(commands_on_key(scene, 0)[case]))


def commands_on_key(scene: Scene, key: int) -> dict[str, Callable[[], object]]:
    outer = scene.empty()
    return {
        "update": lambda: outer.update(key, scene.inner),
        "lookup": lambda: outer.lookup(key),
        "delete": lambda: outer.delete(key),
    }


def update_at_the_end_of_a_page(outer_type: str) -> int:
    """Update with a value whose four bytes are the last ones before memory that may not be read."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    libc = ctypes.CDLL(None, use_errno=True)
    pages = memory.mmap(-1, 2 * memory.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if libc.mprotect(ctypes.c_void_p(start + memory.PAGESIZE), ctypes.c_size_t(memory.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    pages[memory.PAGESIZE - 4 : memory.PAGESIZE] = template.to_bytes(4, sys.byteorder)
    fields: dict[str, Any] = {"map_fd": outer, "key": bytes(4), "value": start + memory.PAGESIZE - 4}
    return raw.attempt("MAP_UPDATE_ELEM", fields)[0]


@pytest.mark.contract("update.value_before_unreadable_memory")
def test_a_value_is_four_bytes(scene: Scene, observe: Observe) -> None:
    observe(name_of(scene.guest.call(update_at_the_end_of_a_page, scene.type, closes=False)))


@pytest.mark.contract("update.null_pointer")
def test_key_and_value_are_there(scene: Scene, case: str, observe: Observe) -> None:
    good = {"key": bytes(4), "value": scene.inner.fd.to_bytes(4, scene.bpf.byte_order)}
    observe(errno_of(scene.bpf.command, "MAP_UPDATE_ELEM", map_fd=scene.empty(), **{**good, case: None}))


@pytest.fixture
def unlike(scene: Scene) -> Map:
    """A map that the outer maps do not take."""
    return scene.map_once("hash", key_size=8, max_entries=8)


@pytest.mark.contract("update.failure_keeps_element")
def test_a_refused_replacement_keeps_the_element(scene: Scene, unlike: Map, case: str, observe: Observe) -> None:
    outer = scene.holding()
    value, flags = {"mismatch": (unlike, ANY), "bad_fd": (-1, ANY), "unknown_flag": (scene.inner, 8)}[case]
    assert errno_of(outer.update, 0, value, flags) != "ok"
    observe("kept" if outer.lookup(0) == scene.inner.id else "changed")


@pytest.mark.contract("update.failure_leaves_nothing")
def test_a_refused_insertion_leaves_nothing(scene: Scene, unlike: Map, case: str, observe: Observe) -> None:
    outer = scene.empty()
    assert errno_of(outer.update, 0, {"mismatch": unlike, "bad_fd": -1}[case]) != "ok"
    observe(errno_of(outer.delete, 0))


# Flags, bit by bit.


def answers_to_bits(
    outer_type: str, command: str, field: str, bits: int, present: bool, reopened: bool = False
) -> list[tuple[int, int]]:
    """Issue a command on an outer map once with no bit of a field set, once with each; return the errnos.

    Args:
        outer_type: The outer map's type.
        command: What is issued.
        field: The field of union bpf_attr.
        bits: How many bits it has.
        present: Whether the element that is spoken of is there.
        reopened: Whether the command opens the map instead of using an element of it.
    """
    template = raw.map_create("hash", 4, 4, 8)
    outer, found = -1, []
    for number in (0, *(1 << bit for bit in range(bits))):
        key, value = bytes(4), template.to_bytes(4, sys.byteorder)
        if outer < 0:
            outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
            if present:
                raw.map_update(outer, key, value)
        fields: dict[str, Any] = {"map_fd": outer, "key": key}
        outputs: dict[str, int | bytes] = {}
        if reopened:
            fields = {"id": raw.info(outer, "map")["id"]}
        elif command == "MAP_UPDATE_ELEM":
            fields["value"] = value
        elif command in ("MAP_LOOKUP_ELEM", "MAP_LOOKUP_AND_DELETE_ELEM"):
            outputs["value"] = 4
        errno, result, _, _ = raw.attempt(command, {**fields, field: number}, outputs)
        if reopened and not errno:
            os.close(result)
        if not errno and "DELETE" in command:  # what is refused deletes nothing
            os.close(outer)
            outer = -1
        found.append((number, errno))
    return found


COMMANDS = {
    "update": "MAP_UPDATE_ELEM",
    "lookup": "MAP_LOOKUP_ELEM",
    "delete": "MAP_DELETE_ELEM",
    "lookup_and_delete": "MAP_LOOKUP_AND_DELETE_ELEM",
}


@pytest.mark.contract("flag_bits")
@pytest.mark.usefixtures("replaces")
def test_every_bit_of_a_commands_flags(scene: Scene, case: str, observe: Observe) -> None:
    observe(by_errno(scene.guest.call(answers_to_bits, scene.type, COMMANDS[case], "flags", 64, True, closes=False)))


@pytest.mark.contract("fd_by_id.flag_bits")
def test_every_bit_of_the_flags_of_opening_by_id(scene: Scene, observe: Observe) -> None:
    command = ("MAP_GET_FD_BY_ID", "open_flags", 32)
    observe(by_errno(scene.guest.call(answers_to_bits, scene.type, *command, False, True, closes=False)))


def answers_to_flags_of_pin(outer_type: str) -> list[tuple[int, int]]:
    """Open a pinned map with each bit of file_flags; return the errnos."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
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


# What a lookup gives.


@pytest.mark.contract("lookup.present")
def test_an_element_is_looked_up(scene: Scene, observe: Observe) -> None:
    observe(errno_of(scene.holding().lookup, 0))


def what_is_at(scene: Scene, outer: Map, key: int | bytes) -> str:
    names = {scene.inner.id: "the inner map's id", scene.template.id: "the new inner map's id"}
    return names.get(outer.lookup(key), "something else")


@pytest.mark.contract("lookup.gives")
def test_a_lookup_gives_an_id(scene: Scene, observe: Observe) -> None:
    observe(what_is_at(scene, scene.holding(), 0))


@pytest.mark.contract("lookup.after_replace")
@pytest.mark.usefixtures("replaces")
def test_a_lookup_gives_the_new_id(scene: Scene, observe: Observe) -> None:
    outer = scene.holding()
    outer[0] = scene.template
    observe(what_is_at(scene, outer, 0))


@pytest.mark.contract("lookup.after_replacement_by_itself")
@pytest.mark.usefixtures("replaces")
def test_an_inner_map_is_replaced_by_itself(scene: Scene, observe: Observe) -> None:
    outer = scene.holding()
    outer[0] = scene.inner
    observe(what_is_at(scene, outer, 0))


@pytest.mark.contract("lookup.key_of_seven_bytes")
@pytest.mark.usefixtures("replaces")
def test_a_key_may_have_seven_bytes(scene: Scene, observe: Observe) -> None:
    outer = scene.empty(key_size=7)
    for _ in range(2):
        outer[bytes(range(7))] = scene.inner
    observe(what_is_at(scene, outer, bytes(range(7))))


@pytest.mark.contract("lookup_and_delete")
def test_lookup_and_delete_of_one_element(scene: Scene, case: str, observe: Observe) -> None:
    outer = scene.holding() if case == "present" else scene.empty()
    observe(errno_of(outer.lookup_and_delete, 0))


# Walking over keys.


def next_key(outer: Map, of: int | bytes | None) -> str:
    """Return what follows a key: "the first key" there is, "another key", or the errno's name."""
    first = next(iter(outer.keys()), None)
    try:
        found = outer.next_key(of)
    except BpfError as error:
        return error.name
    return "the first key" if found in (first, bytes(4)) else "another key"


@pytest.mark.contract("next_key.of_nothing")
def test_the_first_key_follows_no_key(scene: Scene, observe: Observe) -> None:
    observe(next_key(scene.holding(1, 3), None))


@pytest.mark.contract("next_key.of_last")
def test_nothing_follows_the_last_key(scene: Scene, observe: Observe) -> None:
    outer = scene.holding(1, 3)
    *_, last = outer.keys()
    observe(next_key(outer, last))


@pytest.mark.contract("next_key.of_unknown")
def test_what_follows_an_unknown_key(scene: Scene, observe: Observe) -> None:
    observe(next_key(scene.holding(1, 3), 99))


@pytest.mark.contract("next_key.of_empty_map")
def test_the_keys_of_an_empty_map(scene: Scene, observe: Observe) -> None:
    observe(next_key(scene.empty(), None))


@pytest.mark.contract("next_key.walk")
def test_a_walk_comes_to_every_key(scene: Scene, observe: Observe) -> None:
    observe(sorted(int.from_bytes(key, scene.bpf.byte_order) for key in scene.holding(1, 3)))


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
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    return as_another_user("MAP_FREEZE", {"map_fd": outer})


@pytest.mark.contract("freeze.without_capabilities")
def test_freezing_without_capabilities(scene: Scene, case: str, forbidden: Forbidden, observe: Observe) -> None:
    with open_to_all(scene.bpf) if case == "allowed" else forbidden():
        observe(name_of(scene.guest.call(freeze_as_another_user, scene.type, closes=False)))


# What the kernel reports of a map.


@pytest.mark.contract("info")
def test_information_on_an_outer_map(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.empty().info()[case])


def ask_info(outer_type: str, size: int, offset: int) -> tuple[int, int]:
    """Ask for information of a size, with one bit set in what is handed in; return errno and the size reported."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    data = bytearray(size)
    if offset >= 0:
        data[offset] = 1
    fields: dict[str, Any] = {"bpf_fd": outer, "info_len": size, "info": bytes(data)}
    errno, _, numbers, _ = raw.attempt("OBJ_GET_INFO_BY_FD", fields)
    return errno, numbers.get("info_len", size)


ASKED = {"info.hash_asked": (1024, 96), "info.unknown_field_asked": (1024, 1000), "info.too_long": (4097, -1)}


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
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    if how == "reopened":
        outer = raw.command("MAP_GET_FD_BY_ID", id=raw.info(outer, "map")["id"])
    if how == "pinned":
        raw.command("OBJ_PIN", pathname="/sys/fs/bpf/pinned", bpf_fd=outer)
        outer = raw.command("OBJ_GET", pathname="/sys/fs/bpf/pinned")
        os.unlink("/sys/fs/bpf/pinned")  # noqa: PTH108 - as its neighbours, a system call
    return not os.get_inheritable(outer)


def send_over_socket(outer_type: str) -> int:
    """Hand an outer map to a child process over a socket; return the errno of the child's update."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
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
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    found = libc.mmap(None, memory.PAGESIZE, memory.PROT_READ, memory.MAP_SHARED, outer, 0)
    return ctypes.get_errno() if found == ctypes.c_void_p(-1).value else 0


def duplicate_as_value(outer_type: str) -> int:
    """Insert an inner map by a copy of its descriptor."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
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
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
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


# Iterators.

TRACE_ITER = uapi.ATTACH_TYPES["trace_iter"]


def number_of_iterator(name: str) -> int:
    """Return the number of an iterator's function in the kernel's BTF, as libbpf finds it."""
    return ctypes.CDLL("libbpf.so.1").libbpf_find_vmlinux_btf_id(name.encode(), TRACE_ITER)  # type: ignore[no-any-return]


@pytest.mark.contract("iter.map_elem")
@pytest.mark.usefixtures("libbpf")
def test_iterators_over_elements(scene: Scene, kernel: Kernel, case: str, observe: Observe) -> None:
    bpf = scene.bpf
    function = scene.guest.call(number_of_iterator, "bpf_map_elem")
    program = bpf.prog("tracing", asm.return_(0), expected_attach_type="trace_iter", attach_btf_id=function)
    of = scene.inner if case == "inner_map" else Scene(scene.guest, bpf, kernel, case).holding()
    info = of.fd.to_bytes(4, bpf.byte_order)
    observe(errno_of(bpf.link, program, "trace_iter", iter_info=info, iter_info_len=len(info)))
