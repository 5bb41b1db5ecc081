"""Outer maps, one element at a time: what an update takes, what a lookup gives, and the walk over keys."""

from __future__ import annotations

import ctypes
import mmap as memory
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.scene import ENTRIES, Scene, by_errno, descriptor, name_of
from harness.guest.api import bpf as raw
from harness.guest.api import btf
from harness.testing import ANY, EXIST, LOCK, NOEXIST, Bpf, BpfError, Held, Kernel, Map, asm, errno_of, uapi

pytestmark = pytest.mark.vm(group="operations")

FLAGS = {"any": ANY, "noexist": NOEXIST, "exist": EXIST, "lock": LOCK, "cpu": 8, "unknown": 1 << 20}


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


def answers_to_bits(outer_type: str, command: str, field: str, bits: int, present: bool) -> list[tuple[int, int]]:
    """Issue a command on an outer map once with no bit of a field set, once with each; return the errnos.

    Args:
        outer_type: The outer map's type.
        command: What is issued.
        field: The field of union bpf_attr.
        bits: How many bits it has.
        present: Whether the element that is spoken of is there.
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
        if command == "MAP_UPDATE_ELEM":
            fields["value"] = value
        elif command in ("MAP_LOOKUP_ELEM", "MAP_LOOKUP_AND_DELETE_ELEM"):
            outputs["value"] = 4
        errno, _, _, _ = raw.attempt(command, {**fields, field: number}, outputs)
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


# What a command returns.


@pytest.mark.contract("returns")
@pytest.mark.usefixtures("replaces")
def test_a_command_returns_zero(scene: Scene, case: str, observe: Observe) -> None:
    outer = scene.empty() if case == "insert" else scene.holding(0, 1)
    value = scene.inner.fd.to_bytes(4, scene.bpf.byte_order)
    commands: dict[str, tuple[str, dict[str, Any], dict[str, int | bytes]]] = {
        "insert": ("MAP_UPDATE_ELEM", {"key": bytes(4), "value": value}, {}),
        "replace": ("MAP_UPDATE_ELEM", {"key": bytes(4), "value": value}, {}),
        "delete": ("MAP_DELETE_ELEM", {"key": bytes(4)}, {}),
        "lookup": ("MAP_LOOKUP_ELEM", {"key": bytes(4)}, {"value": 4}),
        "next_key": ("MAP_GET_NEXT_KEY", {"key": None}, {"next_key": 4}),
        "freeze": ("MAP_FREEZE", {}, {}),
        "update_batch": ("MAP_UPDATE_BATCH", {"keys": bytes(4), "values": value, "count": 1}, {}),
        "delete_batch": ("MAP_DELETE_BATCH", {"keys": bytes(4), "count": 1}, {}),
    }
    command, fields, outputs = commands[case]
    answer = scene.bpf.commands.attempt(command, {"map_fd": outer.fd, **fields}, outputs)
    observe(name_of(answer.errno) if answer.errno else answer.result)


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


@pytest.mark.contract("lookup.where")
def test_an_inner_map_is_found_where_it_was_put(scene: Scene, observe: Observe) -> None:
    outer = scene.holding(2)
    observe([key for key in range(ENTRIES) if errno_of(outer.lookup, key) == "ok"])


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
