"""Commands on outer maps, one element at a time: what an update takes, what a lookup gives, and who may."""

from __future__ import annotations

import contextlib
import ctypes
import mmap as memory
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.contracts.scene import ENTRIES, Answers, Questions, Scene, by_errno, name_of
from harness.guest.api import bpf as raw
from harness.guest.api import btf
from harness.testing import ANY, EXIST, LOCK, NOEXIST, Bpf, BpfError, Guest, Held, Kernel, Map, asm, errno_of, uapi

FLAGS = {"any": ANY, "noexist": NOEXIST, "exist": EXIST, "lock": LOCK, "cpu": 8, "unknown": 1 << 20}
MODES = {"readonly": uapi.RDONLY, "writeonly": uapi.WRONLY}

FULL = range(ENTRIES)

BPFFS = "/sys/fs/bpf"


@pytest.fixture
def unpinned(bpf: Bpf) -> Iterator[None]:
    """Remove what the test has pinned, when it is over."""
    yield
    for path, *_ in bpf.commands.process.call("files.entries", BPFFS):
        bpf.unpin(f"{BPFFS}/{path}")


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
        key, value = bytes(4), template.to_bytes(4, "little")
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


# What an update takes.


def fd_of_kind(bpf: Bpf, kind: str, outer: Map, template: Map) -> int:
    """Return a descriptor of the guest process that stands for no inner map."""
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
        "btf": lambda: bpf.btf(btf.encode(btf.integer("int", 4))),
        "program": lambda: bpf.prog("socket_filter", asm.return_(0)),
        "link": lambda: bpf.link(
            bpf.prog("cgroup_skb", asm.return_(1), expected_attach_type="cgroup_inet_egress"),
            "cgroup_inet_egress",
            bpf.cgroup("linked"),
        ),
        "perf_event": lambda: bpf.tracepoint(bpf.prog("tracepoint", asm.return_(0)), "raw_syscalls", "sys_enter"),
        "another_outer_map": lambda: bpf.map(outer.type, inner=template),
    }
    return makers[kind]().fd


UPDATES = Questions()


@UPDATES.of("update.fd_of_no_map", "update.fd_of_no_inner_map")
def descriptors_that_are_no_inner_map(scene: Scene) -> Answers:
    outer = scene.empty()

    def answer(contract: Contract) -> str:
        fd = fd_of_kind(scene.bpf, contract.case, outer, scene.template)
        return errno_of(outer.update, 0, fd.to_bytes(4, "little", signed=fd < 0))

    return answer


@UPDATES.of("update.bad_fd_and_flag")
def what_is_looked_at_first(scene: Scene) -> Answers:
    outer = scene.empty()
    return lambda contract: errno_of(outer.update, 0, -1, FLAGS[contract.case])


@UPDATES.of("update.flag_on_absent", "update.flag_on_present")
def flags_of_an_update(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.holding() if contract.name.endswith("present") else scene.empty()
        return errno_of(outer.update, 0, scene.inner, FLAGS[contract.case])

    return answer


COMMANDS = {
    "update": "MAP_UPDATE_ELEM",
    "lookup": "MAP_LOOKUP_ELEM",
    "delete": "MAP_DELETE_ELEM",
    "lookup_and_delete": "MAP_LOOKUP_AND_DELETE_ELEM",
}


BITS = Questions()


@BITS.of("flag_bits")
def every_bit_of_a_commands_flags(scene: Scene) -> Answers:
    return lambda contract: by_errno(
        scene.guest.call(answers_to_bits, scene.type, COMMANDS[contract.case], "flags", 64, True, closes=False)
    )


@BITS.of("fd_by_id.flag_bits")
def every_bit_of_the_flags_of_opening_by_id(scene: Scene) -> Answers:
    return lambda _: by_errno(
        scene.guest.call(answers_to_bits, scene.type, "MAP_GET_FD_BY_ID", "open_flags", 32, False, True, closes=False)
    )


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


@BITS.of("pinned.flag_bits")
def every_bit_of_the_flags_of_opening_a_pin(scene: Scene) -> Answers:
    return lambda _: by_errno(scene.guest.call(answers_to_flags_of_pin, scene.type, closes=False))


@pytest.mark.contract(*BITS.names, together=True)
@pytest.mark.usefixtures("replaces")
def test_every_bit_of_flags(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(BITS.on(scene))


@UPDATES.of("update.new_key_when_full", "update.replace_when_full", "update.room_after_delete")
def a_full_hash_of_maps(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.holding(*FULL, map_flags=uapi.NO_PREALLOC if contract.case == "no_prealloc" else 0)
        if contract.name == "update.room_after_delete":
            outer.delete(0)
        return errno_of(outer.update, 0 if contract.name == "update.replace_when_full" else ENTRIES, scene.inner)

    return answer


@UPDATES.of("index_at_max_entries", "empty_slot", "missing_key")
def elements_that_are_not_there(scene: Scene) -> Answers:
    outer = scene.empty()

    def answer(contract: Contract) -> str:
        key = ENTRIES if contract.name == "index_at_max_entries" else 0
        commands = {
            "update": lambda: outer.update(key, scene.inner),
            "lookup": lambda: outer.lookup(key),
            "delete": lambda: outer.delete(key),
        }
        return errno_of(commands[contract.case])

    return answer


def update_at_the_end_of_a_page(outer_type: str) -> int:
    """Update with a value whose four bytes are the last ones before memory that may not be read."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    libc = ctypes.CDLL(None, use_errno=True)
    pages = memory.mmap(-1, 2 * memory.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if libc.mprotect(ctypes.c_void_p(start + memory.PAGESIZE), ctypes.c_size_t(memory.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    pages[memory.PAGESIZE - 4 : memory.PAGESIZE] = template.to_bytes(4, "little")
    fields: dict[str, Any] = {"map_fd": outer, "key": bytes(4), "value": start + memory.PAGESIZE - 4}
    return raw.attempt("MAP_UPDATE_ELEM", fields)[0]


@UPDATES.of("update.value_before_unreadable_memory")
def a_value_is_four_bytes(scene: Scene) -> Answers:
    return lambda _: name_of(scene.guest.call(update_at_the_end_of_a_page, scene.type, closes=False))


@UPDATES.of("update.null_pointer")
def null_pointers(scene: Scene) -> Answers:
    outer = scene.empty()
    good = {"key": bytes(4), "value": scene.inner.fd.to_bytes(4, "little")}
    return lambda contract: errno_of(
        scene.bpf.command, "MAP_UPDATE_ELEM", map_fd=outer, **{**good, contract.case: None}
    )


@UPDATES.of("update.failure_keeps_element")
def a_refused_replacement_changes_nothing(scene: Scene) -> Answers:
    unlike = scene.bpf.map("hash", key_size=8, max_entries=8)
    outer = scene.holding()

    def answer(contract: Contract) -> str:
        value, flags = {"mismatch": (unlike, ANY), "bad_fd": (-1, ANY), "unknown_flag": (scene.inner, 8)}[contract.case]
        assert errno_of(outer.update, 0, value, flags) != "ok"
        return "kept" if outer.lookup(0) == scene.inner.id else "changed"

    return answer


@UPDATES.of("update.failure_leaves_nothing")
def a_refused_insertion_leaves_nothing(scene: Scene) -> Answers:
    unlike = scene.bpf.map("hash", key_size=8, max_entries=8)
    outer = scene.empty()

    def answer(contract: Contract) -> str:
        assert errno_of(outer.update, 0, {"mismatch": unlike, "bad_fd": -1}[contract.case]) != "ok"
        return errno_of(outer.delete, 0)

    return answer


@pytest.mark.contract(*UPDATES.names, together=True)
@pytest.mark.usefixtures("replaces")
def test_updates(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(UPDATES.on(scene))


# What a lookup gives.


LOOKUPS = Questions()


@LOOKUPS.of("lookup.present")
def a_lookup_from_user_space(scene: Scene) -> Answers:
    return lambda _: errno_of(scene.holding().lookup, 0)


@LOOKUPS.of("lookup.gives", "lookup.after_replace", "lookup.after_replacement_by_itself", "lookup.key_of_seven_bytes")
def what_a_lookup_gives(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        key: int | bytes = 0
        if contract.name == "lookup.key_of_seven_bytes":
            key = bytes(range(7))
            outer = scene.empty(key_size=7)
            outer[key] = scene.inner
        else:
            outer = scene.holding()
        if contract.name != "lookup.gives":
            outer[key] = scene.template if contract.name == "lookup.after_replace" else scene.inner
        names = {scene.inner.id: "the inner map's id", scene.template.id: "the new inner map's id"}
        return names.get(outer.lookup(key), "something else")

    return answer


@LOOKUPS.of("lookup_and_delete")
def lookup_and_delete_of_one_element(scene: Scene) -> Answers:
    return lambda contract: errno_of(
        (scene.holding() if contract.case == "present" else scene.empty()).lookup_and_delete, 0
    )


# Walking over keys.


@LOOKUPS.of("next_key.of_nothing", "next_key.of_last", "next_key.of_unknown", "next_key.of_empty_map")
def the_next_key(scene: Scene) -> Answers:
    outer, empty = scene.holding(1, 3), scene.empty()
    first, *_, last = outer.keys()
    starts: dict[str, int | bytes] = {"next_key.of_last": last, "next_key.of_unknown": 99}

    def answer(contract: Contract) -> str:
        of = empty if contract.name == "next_key.of_empty_map" else outer
        try:
            found = of.next_key(starts.get(contract.name))
        except BpfError as error:
            return error.name
        return "the first key" if found in (first, bytes(4)) else "another key"

    return answer


@LOOKUPS.of("next_key.walk")
def a_walk_over_the_keys(scene: Scene) -> Answers:
    return lambda _: sorted(int.from_bytes(key, "little") for key in scene.holding(1, 3))


@pytest.mark.contract(*LOOKUPS.names, together=True)
@pytest.mark.usefixtures("replaces")
def test_lookups_and_walks(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(LOOKUPS.on(scene))


# Opening by id, and descriptors that may not do everything.


OPENED = Questions()


@OPENED.of("fd_by_id.unknown_id")
def ids_that_nothing_has(scene: Scene) -> Answers:
    outer = scene.empty()
    ids = {"zero": 0, "next": outer.id + 1, "largest": 0xFFFFFFFF}
    return lambda contract: errno_of(scene.bpf.map_by_id, ids[contract.case], like=outer)


@OPENED.of("fd_by_id.descriptors")
def opening_several_times(scene: Scene) -> Answers:
    def answer(_: Contract) -> object:
        outer = scene.empty()
        return len({one.fd for one in (outer, *(scene.bpf.map_by_id(outer.id, like=outer) for _ in range(3)))})

    return answer


@OPENED.of("fd_by_id.same_map", "fd_by_id.of_inner")
def what_is_opened_by_id(scene: Scene) -> Answers:
    outer = scene.empty()
    scene.inner[1] = 41
    scene.bpf.map_by_id(outer.id, like=outer)[0] = scene.inner

    def answer(contract: Contract) -> object:
        if contract.name == "fd_by_id.same_map":
            return "the same map" if outer.lookup(0) == scene.inner.id else "another"
        return scene.bpf.map_by_id(outer.lookup(0), like=scene.inner).lookup(1)

    return answer


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


@OPENED.of("readonly_fd", "writeonly_fd", "readonly_fd_batch", "writeonly_fd_batch")
def descriptors_that_may_only_read_or_write(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.holding()
        less = scene.bpf.map_by_id(outer.id, open_flags=MODES[contract.name.partition("_")[0]], like=outer)
        return errno_of(commands_on(less, scene.inner, contract.id)[contract.case])

    return answer


@OPENED.of("created_readonly", "created_writeonly")
def maps_created_for_reading_or_writing_only(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.empty(map_flags=MODES[contract.name.removeprefix("created_")])
        if contract.case == "update_reopened":
            return errno_of(scene.bpf.map_by_id(outer.id, like=outer).update, 0, scene.inner)
        return errno_of(commands_on(outer, scene.inner, contract.id)[contract.case])

    return answer


@pytest.mark.contract(*OPENED.names, together=True)
@pytest.mark.usefixtures("replaces", "unpinned")
def test_maps_opened_by_id(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(OPENED.on(scene))


# Frozen maps.


FROZEN = Questions()


@FROZEN.of("frozen", "frozen_batch")
def a_frozen_outer_map(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.holding()
        before = scene.bpf.map_by_id(outer.id, like=outer)
        outer.freeze()
        further = {
            "inner_update": lambda: scene.inner.update(1, 1),
            "update_by_older_fd": lambda: before.update(1, scene.inner),
            "update_reopened": lambda: scene.bpf.map_by_id(outer.id, like=outer).update(1, scene.inner),
        }
        return errno_of({**commands_on(outer, scene.inner, contract.id), **further}[contract.case])

    return answer


@FROZEN.of("freeze.further_fields")
def freezing_takes_nothing_but_the_map(scene: Scene) -> Answers:
    return lambda _: name_of(
        scene.bpf.commands.attempt("MAP_FREEZE", {"map_fd": scene.empty()}, tail=b"\1\0\0\0").errno
    )


UNPRIVILEGED = "/proc/sys/kernel/unprivileged_bpf_disabled"


def as_another_user(allowed: bool, command: str, fields: dict[str, Any]) -> int:
    """Issue a command as a user without capabilities, whom the system allows that or not; return the errno."""
    setting = Path(UNPRIVILEGED)
    before = setting.read_text().strip()
    if (before == "0") != allowed:
        try:
            setting.write_text("0" if allowed else "2")
        except OSError:
            setting.write_text("1")  # there was no 2 yet, and no way back
    child = os.fork()
    if child == 0:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        os._exit(raw.attempt(command, fields)[0])
    errno = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        setting.write_text(before)
    return errno


def freeze_as_another_user(outer_type: str, allowed: bool) -> int:
    """Freeze a map that root has created and handed over; return the errno."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    return as_another_user(allowed, "MAP_FREEZE", {"map_fd": outer})


@FROZEN.of("freeze.without_capabilities")
def freezing_without_capabilities(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type
    return lambda contract: name_of(
        guest.call(freeze_as_another_user, outer_type, contract.case == "allowed", closes=False)
    )


@pytest.mark.contract(*FROZEN.names, together=True)
@pytest.mark.usefixtures("unpinned")
def test_frozen_outer_maps(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(FROZEN.on(scene))


# What is told of a map.


TOLD = Questions()


@TOLD.of("info")
def what_the_kernel_tells_of_an_outer_map(scene: Scene) -> Answers:
    info = scene.empty().info()
    return lambda contract: info[contract.case]


def ask_info(outer_type: str, size: int, offset: int) -> tuple[int, int]:
    """Ask for information of a size, with one bit set in what is handed in; return errno and the size told."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    data = bytearray(size)
    if offset >= 0:
        data[offset] = 1
    fields: dict[str, Any] = {"bpf_fd": outer, "info_len": size, "info": bytes(data)}
    errno, _, numbers, _ = raw.attempt("OBJ_GET_INFO_BY_FD", fields)
    return errno, numbers.get("info_len", size)


@TOLD.of("info.hash_asked", "info.unknown_field_asked", "info.too_long")
def information_that_is_asked_for_in_a_wrong_way(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type
    asked = {"info.hash_asked": (1024, 96), "info.unknown_field_asked": (1024, 1000), "info.too_long": (4097, -1)}
    return lambda contract: name_of(guest.call(ask_info, outer_type, *asked[contract.name], closes=False)[0])


@TOLD.of("info.short")
def information_may_be_cut_short(scene: Scene) -> Answers:
    return lambda _: scene.guest.call(ask_info, scene.type, 8, -1, closes=False)[1]


OF_EVERY_FILE = {"pos", "flags", "mnt_id", "ino"}


@TOLD.of("fdinfo.lines", "fdinfo.value_size", "fdinfo.memlock")
def fdinfo(scene: Scene) -> Answers:
    outer = scene.empty(max_entries=64, map_flags=uapi.NO_PREALLOC if scene.type == "hash_of_maps" else 0)
    before = outer.fdinfo()
    for key in range(16):
        outer[key] = scene.inner
    answers = {
        "fdinfo.lines": sorted(set(before) - OF_EVERY_FILE),
        "fdinfo.value_size": int(before["value_size"]),
        "fdinfo.memlock": "grows" if int(outer.fdinfo()["memlock"]) > int(before["memlock"]) else "stays",
    }
    return lambda contract: answers[contract.name]


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
        fields: dict[str, Any] = {"map_fd": fds[0], "key": bytes(4), "value": fds[1].to_bytes(4, "little")}
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
    value = os.dup(template).to_bytes(4, "little")
    fields: dict[str, Any] = {"map_fd": outer, "key": bytes(4), "value": value}
    return raw.attempt("MAP_UPDATE_ELEM", fields)[0]


@TOLD.of("fd.close_on_exec")
def descriptors_are_closed_on_exec(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type
    return lambda contract: guest.call(close_on_exec, outer_type, contract.case, closes=False)


@TOLD.of("fd.sent_over_socket", "fd.duplicated", "mmap")
def what_can_be_done_with_descriptors(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type
    functions = {
        "fd.sent_over_socket": send_over_socket,
        "fd.duplicated": duplicate_as_value,
        "mmap": map_into_memory,
    }
    return lambda contract: name_of(guest.call(functions[contract.name], outer_type, closes=False))


@pytest.mark.contract(*TOLD.names, together=True)
def test_what_the_kernel_tells(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(TOLD.on(scene))


# Pinned maps.


PINS = Questions()


@PINS.of("pin.twice", "pin.outside_bpffs", "pin.two_names", "pin.name_with_dot")
def where_a_map_can_be_pinned(scene: Scene) -> Answers:
    outer = scene.empty()
    outer.pin(f"{BPFFS}/there")
    paths = {
        "pin.twice": f"{BPFFS}/there",
        "pin.outside_bpffs": "/tmp/pinned",
        "pin.two_names": f"{BPFFS}/other",
        "pin.name_with_dot": f"{BPFFS}/with.dot",
    }
    return lambda contract: errno_of(outer.pin, paths[contract.name])


@PINS.of("pinned.reopened")
def a_pinned_outer_map_is_reopened(scene: Scene) -> Answers:
    def answer(_: Contract) -> object:
        inner, outer = scene.bpf.map("hash", max_entries=8), scene.empty()
        inner[1] = 41
        outer[0] = inner
        outer.pin(f"{BPFFS}/kept")
        outer.close()
        inner.close()
        with scene.bpf.pinned_map(f"{BPFFS}/kept", like=outer) as again:
            return scene.bpf.map_by_id(again.lookup(0), like=inner).lookup(1)

    return answer


@PINS.of("pinned")
def a_pinned_outer_map_is_opened_for_less(scene: Scene) -> Answers:
    scene.holding().pin(f"{BPFFS}/pinned")
    like = scene.empty()

    def answer(contract: Contract) -> str:
        mode, _, command = contract.case.partition("_")
        again = scene.bpf.pinned_map(f"{BPFFS}/pinned", file_flags=MODES[mode], like=like)
        return errno_of(commands_on(again, scene.inner, contract.id)[command])

    return answer


def open_as_another_user(outer_type: str, mode: int, flags: int) -> int:
    """Open a pinned map, of a mode, as a user that is not its owner; return the errno."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    os.chdir("/sys/fs/bpf")  # folders on the way may be closed to others
    folder = stat.S_IMODE(Path().stat().st_mode)
    Path().chmod(0o755)
    raw.command("OBJ_PIN", pathname="foreign", bpf_fd=outer)
    Path("foreign").chmod(mode)
    errno = as_another_user(True, "OBJ_GET", {"pathname": "foreign", "file_flags": flags})
    Path("foreign").unlink()
    Path().chmod(folder)
    return errno


@PINS.of("pinned.by_another_user")
def the_mode_of_a_pin_says_who_may_open_it(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type

    def answer(contract: Contract) -> str:
        mode, _, how = contract.case.partition("_")
        return name_of(guest.call(open_as_another_user, outer_type, int(mode, 8), MODES.get(how, 0), closes=False))

    return answer


@pytest.mark.contract(*PINS.names, together=True)
@pytest.mark.usefixtures("replaces", "unpinned")
def test_pinned_outer_maps(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(PINS.on(scene))


# Iterators.

TRACE_ITER = uapi.ATTACH_TYPES["trace_iter"]


def number_of_iterator(name: str) -> int:
    """Return the number of an iterator's function in the kernel's BTF, as libbpf finds it."""
    return ctypes.CDLL("libbpf.so.1").libbpf_find_vmlinux_btf_id(name.encode(), TRACE_ITER)  # type: ignore[no-any-return]


@pytest.mark.contract("iter.map_elem", together=True)
@pytest.mark.usefixtures("libbpf")
def test_iterators_over_elements(guest: Guest, bpf: Bpf, kernel: Kernel, observe_each: ObserveEach) -> None:
    function = guest.call(number_of_iterator, "bpf_map_elem")
    program = bpf.prog("tracing", asm.return_(0), expected_attach_type="trace_iter", attach_btf_id=function)

    def answer(contract: Contract) -> str:
        inner = bpf.map("hash", max_entries=8)
        of = inner if contract.case == "inner_map" else Scene(guest, bpf, kernel, contract.case).holding()
        info = of.fd.to_bytes(4, "little")
        return errno_of(bpf.link, program, "trace_iter", iter_info=info, iter_info_len=len(info))

    observe_each(answer)
