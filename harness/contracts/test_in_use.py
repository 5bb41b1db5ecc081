"""Inner maps that somebody uses when they go: a running program, or user space by another descriptor."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import NotAsked
from harness.contracts.scene import Scene, jit
from harness.features import map_types
from harness.guest.api import asm
from harness.guest.api import bpf as raw
from harness.guest.threads import second_thread
from harness.testing import Bpf, BpfError, Map, btf, errno_name, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")

# What a running program holds.

STARTED, GO_ON, ENDED = 0, 4, 8
"""Where in the shared element the program says that it has the inner map, is asked to end, and says that it does."""

ENDED_EARLY = "the program ended before it was asked to"

ROUNDS = 1 << 13
"""Its square is how often the program asks whether it is to end: more than anybody waits for."""

LARGE = 100_000
"""Elements of arrays that the kernel lists one by one, because they are of many pages."""

GONE_WITHIN = 20.0
"""Seconds in which an inner map that nobody uses is freed, on a busy machine."""

Code = list[asm.Instruction | asm.Label]
FUNCTIONS = ("main", "each", "again")
TYPES = (btf.integer("int", 4), btf.prototype(1), *(btf.function(name, 2) for name in FUNCTIONS))


def using(outer: int, shared: int, rounds: int) -> tuple[bytes, bytes]:
    """Return a program that finds an inner map and keeps it until it is asked to end, and where its functions begin."""
    key: Code = [asm.mov(asm.R2, asm.R10), asm.add(asm.R2, -4)]
    main: Code = [
        *(asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), asm.jump("==", asm.R0, 0, "none")),
        *(asm.mov(asm.R6, asm.R0), asm.ld_map_value(asm.R1, shared), asm.st("W", asm.R1, STARTED, 1)),
        *repeat(rounds, "each"),
        *(asm.ld_map_value(asm.R1, shared), asm.st("W", asm.R1, ENDED, 1)),
        *(asm.mov(asm.R1, asm.R6), *key, asm.call("map_lookup_elem")),
        *(asm.label("none"), *asm.return_(0)),
    ]
    each: Code = [asm.label("each"), *repeat(rounds, "again"), *unless_stopped(shared, "go on")]
    again: Code = [asm.label("again"), asm.call("ktime_get_ns"), *unless_stopped(shared, "once more")]
    starts = [0, slots(main), slots([*main, *each])]
    known = b"".join(struct.pack("=II", start, 3 + number) for number, start in enumerate(starts))
    return asm.assemble(*main, *each, *again), known


def repeat(rounds: int, function: str) -> Code:
    """Call a function of the program for every element of a map, until it returns 1."""
    arguments = (asm.mov(asm.R3, 0), asm.mov(asm.R4, 0))
    return [asm.ld_map(asm.R1, rounds), asm.ld_function(asm.R2, function), *arguments, asm.call("for_each_map_elem")]


def unless_stopped(shared: int, label: str) -> Code:
    """Return 0, or 1 when the program is to end."""
    return [
        *(asm.ld_map_value(asm.R1, shared), asm.ldx("W", asm.R0, asm.R1, GO_ON)),
        *(asm.jump("==", asm.R0, 0, label), *asm.return_(1), asm.label(label), *asm.return_(0)),
    ]


def slots(code: Code) -> int:
    """Return how many instructions there are, those of two slots counted twice."""
    return sum(one.slots for one in code if isinstance(one, asm.Instruction))


def freed_when(outer_type: str, removal: str, sleepable: int) -> str:
    """Take an inner map out of its outer map while a program uses it; return when its memory was freed.

    Returns:
        "while the program runs", "afterwards" or "never"; ENDED_EARLY, which says nothing.
    """
    template, other = (raw.map_create("array", 4, 4, LARGE) for _ in range(2))
    outer = raw.map_create(outer_type, 4, 4, 1, inner_map_fd=template)
    shared, rounds = raw.map_create("array", 4, 12, 1), raw.map_create("array", 4, 4, ROUNDS)
    inner, area = large_array()
    # Of no outer map: what frees it is queued after what frees the inner map, unless that is put off.
    later, area_of_later = large_array()
    number = raw.info(inner, "map")["id"]
    raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
    os.close(inner)
    program = load(outer, shared, rounds, sleepable)
    packet: dict[str, Any] = {} if sleepable else {"data_in": bytes(64), "data_size_in": 64}
    runner = apart(0, later, lambda: raw.command("PROG_TEST_RUN", prog_fd=program, **packet))
    early = False
    try:
        await_word(shared, STARTED)
        remover = apart(1, later, lambda: take_out(outer, removal, other))
        await_end_of(lambda: number in raw.ids("map"))
        os.close(later)
        if not await_end_of(lambda: area_of_later in large_areas()):
            raise AssertionError("memory that nobody uses is not freed: when other memory is shows nothing")
        early = area not in large_areas()
        if word(shared, ENDED):
            return ENDED_EARLY
    finally:
        raw.map_update(shared, bytes(4), struct.pack("=III", 1, 1, 0))
    for child in (runner, remover):
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"the process that {'runs' if child == runner else 'removes'} ended with {status}")
    if not await_end_of(lambda: area in large_areas()):
        return "never"
    return "while the program runs" if early else "afterwards"


def large_array() -> tuple[int, str]:
    """Create a large array; return its descriptor, and where the kernel has its memory."""
    before = large_areas()
    array = raw.map_create("array", 4, 4, LARGE)
    (area,) = large_areas() - before
    return array, area


def await_end_of(holds: Callable[[], bool]) -> bool:
    """Wait until something does not hold any more; return whether that came to pass in time."""
    end = time.monotonic() + GONE_WITHIN
    while holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def load(outer: int, shared: int, rounds: int, sleepable: int) -> int:
    """Load the program that uses an inner map."""
    code, known = using(outer, shared, rounds)
    types = btf.encode(*TYPES)
    return raw.command(
        "PROG_LOAD",
        prog_type="syscall" if sleepable else "sched_cls",
        prog_flags=sleepable,
        license="GPL",
        insns=code,
        insn_cnt=len(code) // 8,
        prog_btf_fd=raw.command("BTF_LOAD", btf=types, btf_size=len(types)),
        func_info=known,
        func_info_rec_size=8,
        func_info_cnt=len(FUNCTIONS),
    )


def take_out(outer: int, removal: str, other: int) -> None:
    """Delete or replace the element that the program has found."""
    if removal == "replace":
        raw.map_update(outer, bytes(4), other.to_bytes(4, sys.byteorder))
    else:
        raw.map_delete(outer, bytes(4))


def large_areas() -> set[str]:
    """Return where the kernel has memory of as many pages as a large array."""
    lines = [line.split() for line in Path("/proc/vmallocinfo").read_text().splitlines()]
    return {line[0] for line in lines if int(line[1]) > 8 * LARGE and "unpurged" not in line}


def word(shared: int, offset: int) -> int:
    """Read what the program says."""
    return int.from_bytes(raw.map_lookup(shared, bytes(4), 12)[offset : offset + 4], sys.byteorder)


def await_word(shared: int, offset: int) -> None:
    """Wait for the program to say something."""
    if not await_end_of(lambda: not word(shared, offset)):
        raise AssertionError("the program does not run")


def apart(cpu: int, without: int, body: Callable[[], object]) -> int:
    """Run a function in a process of its own, on one CPU and without one of the descriptors; return the process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(without)
            os.sched_setaffinity(0, [cpu])
            body()
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.mark.vm(cpus=2)
@pytest.mark.contract("use.freed")
def test_a_running_program_keeps_the_memory_of_an_inner_map(scene: Scene, case: str, observe: Observe) -> None:
    removal, _, sleepable = case.partition("-")
    flags = uapi.SLEEPABLE if sleepable else 0
    with jit(scene.bpf, b"1"):  # a callback has an address only when compiled
        found = scene.guest.call(freed_when, scene.type, removal, flags, closes=False)
    # Seen on 6.12: what waits for the softirqs of the program's processor waits for the program.
    if found == ENDED_EARLY and (scene.kernel.settings or {}).get("PREEMPT_RT") == "y":
        raise NotAsked(f"{found}, which happens with CONFIG_PREEMPT_RT")
    if found == ENDED_EARLY:
        raise AssertionError(found)
    observe(found)


# What counts as a user.


def initialised(bpf: Bpf, outer: Map) -> str:
    """Initialise the timer that element 0 of the inner map at key 0 begins with; return what the helper says."""
    code: Code = [
        *(asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), asm.jump("==", asm.R0, 0, "none")),
        *(asm.mov(asm.R6, asm.R0), asm.mov(asm.R1, asm.R0), asm.mov(asm.R2, asm.R10), asm.add(asm.R2, -4)),
        *(asm.call("map_lookup_elem"), asm.jump("==", asm.R0, 0, "none")),
        *(asm.mov(asm.R1, asm.R0), asm.mov(asm.R2, asm.R6), asm.mov(asm.R3, 1), asm.call("timer_init"), asm.exit()),
        *(asm.label("none"), *asm.return_(1)),
    ]
    with bpf.prog("sched_cls", code) as program:
        found = program.run().retval
    if found == 1:
        raise AssertionError("the program did not find the inner map's element")
    return errno_name((1 << 32) - found) if found else "ok"


@pytest.mark.contract("use.fd_by_id")
def test_a_descriptor_made_from_an_id_is_a_user(scene: Scene, case: str, observe: Observe) -> None:
    template, inner = (map_types.with_struct(scene.bpf, "bpf_timer", "array") for _ in range(2))
    outer = scene.empty(inner=template)
    outer[0] = inner
    by_id = scene.bpf.map_by_id(outer.lookup(0), like=inner)
    (by_id if case == "the_new_one" else inner).close()
    observe(initialised(scene.bpf, outer))


# What is not user space's to write or to read.


@pytest.mark.contract("use.update_keeps_timer")
def test_an_update_keeps_a_timer(scene: Scene, case: str, observe: Observe) -> None:
    flags = uapi.NO_PREALLOC if case == "no_prealloc" else 0
    inner = map_types.with_struct(scene.bpf, "bpf_timer", "hash", map_flags=flags)
    outer = scene.empty(inner=inner)
    outer[0] = inner
    inner[0] = b"\xff" * map_types.STRUCT_SIZE
    observe(initialised(scene.bpf, outer))


@pytest.mark.contract("use.lookup_in_other_fd_arrays")
def test_lookup_in_other_arrays_of_descriptors(scene: Scene, case: str, observe: Observe) -> None:
    observe(errno_of(scene.bpf.map(case).lookup, 0))


# What stays.


def is_there(bpf: Bpf, btf_id: int) -> bool:
    try:
        bpf.btf_by_id(btf_id).close()
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


@pytest.mark.contract("use.template_types")
def test_the_types_of_a_template_go_with_it(scene: Scene, case: str, observe: Observe) -> None:
    bpf = scene.bpf
    types = bpf.btf(map_types.INTEGERS)
    number = types.id
    ids: dict[str, Any] = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
    template = bpf.map("hash", value_size=8, btf_fd=types, **ids)
    if case == "refused":
        assert scene.create(max_entries=0xFFFFFFFF, inner=template) != "ok"
    else:
        scene.empty(inner=template).close()
    template.close()
    types.close()
    observe("gone" if await_end_of(lambda: is_there(bpf, number)) else "stays")


def locked_template(outer_type: str, types: tuple[btf.Type, ...], size: int, key_type: int, value_type: int) -> str:
    """Offer a map with a lock in its values as a template in a process of two threads; say whether it goes."""
    with second_thread():
        data = btf.encode(*types)
        fds = [raw.command("BTF_LOAD", btf=data, btf_size=len(data))]
        described = {"btf_fd": fds[0], "btf_key_type_id": key_type, "btf_value_type_id": value_type}
        fds.append(raw.map_create("hash", 4, size, 1, **described))
        number = raw.map_info(fds[1])["id"]
        with contextlib.suppress(OSError):  # before v6.2 it is refused
            fds.append(raw.map_create(outer_type, 4, 4, 1, inner_map_fd=fds[1]))
        for fd in fds:
            os.close(fd)
        return "gone" if await_end_of(lambda: number in raw.ids("map")) else "stays"


@pytest.mark.contract("use.locked_template")
def test_a_template_with_a_lock_goes(scene: Scene, observe: Observe) -> None:
    types = map_types.struct_types("bpf_spin_lock")
    size, ids = map_types.STRUCT_SIZE, (map_types.KEY_TYPE, map_types.STRUCT_TYPE)
    observe(scene.guest.call(locked_template, scene.type, types, size, *ids))
