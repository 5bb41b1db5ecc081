"""Map-in-map under load: whatever is done a thousand times over, broken off or refused, everything is given back.

The leak check looks at every test when it is over. `--stress=N` says how many rounds a test makes.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import struct
import time
from errno import E2BIG, EMFILE, ENOENT, ENOMEM, EPERM
from pathlib import Path

import pytest

from harness.guest.api import bpf as raw
from harness.guest.api.hooks import expedite
from harness.testing import Guest, Stress
from tests.stress.loops import in_processes, in_threads, insert_and_delete, lookup_inner, with_map

OUTERS = [
    pytest.param("hash_of_maps", 0, id="hash_of_maps"),
    pytest.param("hash_of_maps", 1, id="hash_of_maps-no_prealloc"),
    pytest.param("array_of_maps", 0, id="array_of_maps"),
]
CPUS = 2
KEYS = 64
THREADS = KEYS // CPUS
ROUNDS_OF_A_THREAD = 50
BATCH = 500
WORKERS = 4

pytestmark = [pytest.mark.stress, pytest.mark.vm(cpus=CPUS)]


def make_outer(kind: str, flags: int, entries: int) -> int:
    """Return an outer map of arrays with one element."""
    template = raw.map_create("array", 4, 4, 1)
    outer = raw.map_create(kind, 4, 4, entries, inner_map_fd=template, map_flags=flags)
    os.close(template)
    return outer


def rounds_in_processes(kind: str, flags: int, rounds: int, replace: bool) -> float:
    """Insert and delete, or replace, in several processes at once; return the seconds that it took."""
    expedite()
    outer = make_outer(kind, flags, KEYS)
    began = time.monotonic()
    # A thread that waits for a grace period lets another one run: one period serves all that wait for it.
    threads = max(1, min(THREADS, rounds // (CPUS * ROUNDS_OF_A_THREAD)))
    share = -(-rounds // (CPUS * threads))

    def work(number: int) -> None:
        keys = range(number * threads, (number + 1) * threads)
        in_threads(keys, lambda key: insert_and_delete(outer, key, share, replace))

    in_processes(CPUS, work)
    took = time.monotonic() - began
    os.close(outer)
    return took


@pytest.mark.parametrize(("kind", "flags"), OUTERS)
def test_insert_and_delete(guest: Guest, stress: Stress, kind: str, flags: int) -> None:
    stress.run(guest, rounds_in_processes, kind, flags, replace=False)


# A preallocated hash of maps lost every inner map that was replaced, until Linux kernel commit 1d4e1eab456e ("bpf: Fix
# map leak in HASH_OF_MAPS map") (in v5.8).
@pytest.mark.parametrize(("kind", "flags"), OUTERS)
def test_replace(guest: Guest, stress: Stress, kind: str, flags: int) -> None:
    stress.run(guest, rounds_in_processes, kind, flags, replace=True)


def rounds_in_batches(rounds: int) -> float:
    """Insert and delete in two processes at once, many elements with one command; return the seconds that it took."""
    expedite()
    outer = make_outer("hash_of_maps", 0, CPUS * BATCH)
    began = time.monotonic()

    def work(number: int) -> None:
        inners = [raw.map_create("array", 4, 4, 1) for _ in range(2)]
        ids = [struct.pack("=I", raw.map_info(inner)["id"]) for inner in inners]
        keys = [struct.pack("=I", number * BATCH + at) for at in range(BATCH)]
        left = rounds // CPUS + (number < rounds % CPUS)
        batch = 0
        while left:
            count = min(BATCH, left)
            left -= count
            batch += 1
            some = b"".join(keys[:count])
            # Each key gets the other inner map than in the batch before.
            values = b"".join(struct.pack("=i", inners[(at + batch) % 2]) for at in range(count))
            raw.command("MAP_UPDATE_BATCH", map_fd=outer, keys=some, values=values, count=count)
            for at in {0, count - 1, batch % count}:
                assert raw.map_lookup(outer, keys[at], 4) == ids[(at + batch) % 2]
            raw.command("MAP_DELETE_BATCH", map_fd=outer, keys=some, count=count)
            for at in {0, count - 1, batch % count}:
                assert raw.attempt("MAP_LOOKUP_ELEM", {"map_fd": outer, "key": keys[at]}, {"value": 4})[0] == ENOENT
        for inner in inners:
            os.close(inner)

    in_processes(CPUS, work)
    took = time.monotonic() - began
    os.close(outer)
    return took


@pytest.mark.requires("outer_batch_ops")
def test_insert_and_delete_in_batches(guest: Guest, stress: Stress) -> None:
    stress.run(guest, rounds_in_batches)


def many_outers(rounds: int) -> float:
    """Have many outer maps hold the same inner map, then close all."""
    expedite()
    resource.setrlimit(resource.RLIMIT_NOFILE, (rounds + 64, rounds + 64))
    began = time.monotonic()
    inner = raw.map_create("array", 4, 4, 1)
    outers = []
    for _ in range(rounds):
        outers.append(raw.map_create("hash_of_maps", 4, 4, 4, inner_map_fd=inner, map_flags=1))
        for key in range(4):
            raw.map_update(outers[-1], struct.pack("=I", key), struct.pack("=i", inner))
    for fd in [inner, *outers]:
        os.close(fd)
    return time.monotonic() - began


def test_many_outer_maps_hold_one_inner_map(guest: Guest, stress: Stress) -> None:
    stress.run(guest, many_outers, rounds=min(stress.rounds, 5000))


def fill(kind: str, flags: int, rounds: int) -> float:
    """Fill an outer map to its last element, be refused one more, replace and delete all."""
    expedite()
    began = time.monotonic()
    outer = make_outer(kind, flags, rounds)
    inner = raw.map_create("array", 4, 4, 1)
    value = struct.pack("=i", inner)
    keys = [struct.pack("=I", number) for number in range(rounds + 1)]
    for key in keys[:-1]:
        raw.map_update(outer, key, value)
    for _ in range(10):
        try:
            raw.map_update(outer, keys[-1], value)
        except OSError as error:
            if error.errno != E2BIG:
                raise
        else:
            raise RuntimeError("a full map took one more")
    for key in keys[:-1]:
        raw.map_update(outer, key, value)
    for key in keys[:-1:2]:
        raw.map_delete(outer, key)
    os.close(inner)
    os.close(outer)
    return time.monotonic() - began


@pytest.mark.parametrize(("kind", "flags"), OUTERS)
def test_a_full_map(guest: Guest, stress: Stress, kind: str, flags: int) -> None:
    stress.run(guest, fill, kind, flags, rounds=min(stress.rounds, 10_000))


def write_against_lookups(kind: str, code: bytes, rounds: int) -> float:
    """Replace an inner map in two processes while programs in two others look it up; return the seconds."""
    expedite()
    outer = make_outer(kind, 0, 4)
    code = with_map(code, outer)
    program = raw.command("PROG_LOAD", prog_type="socket_filter", insns=code, insn_cnt=len(code) // 8, license="GPL")
    first = raw.map_create("array", 4, 4, 1)
    raw.map_update(outer, bytes(4), struct.pack("=i", first))
    os.close(first)
    began = time.monotonic()

    def work(number: int) -> None:
        if number < 2:
            for _ in range(-(-rounds // 2)):
                inner = raw.map_create("array", 4, 4, 1)
                raw.map_update(outer, bytes(4), struct.pack("=i", inner))
                os.close(inner)
            return
        for _ in range(max(rounds // 20, 1)):
            packet = bytes(64)
            _, _, numbers, _ = raw.attempt(
                "PROG_TEST_RUN",
                {"prog_fd": program, "data_in": packet, "data_size_in": len(packet), "repeat": 1000},
            )
            # An array's elements begin as 0, and the slot is never empty: before 6.15 a lookup may miss all the same.
            if numbers.get("retval", 0) not in (0, 1):
                raise RuntimeError(f"a program read {numbers}")

    in_processes(4, work)
    took = time.monotonic() - began
    os.close(program)
    os.close(outer)
    return took


@pytest.mark.parametrize("kind", ["hash_of_maps", "array_of_maps"])
def test_writers_against_lookups_from_programs(guest: Guest, stress: Stress, kind: str) -> None:
    stress.run(guest, write_against_lookups, kind, lookup_inner(0, guest.byte_order), rounds=min(stress.rounds, 20_000))


def storm(code: bytes, rounds: int) -> float:
    """Make and close a template, an outer and an inner map and a program that uses them; return the seconds."""
    expedite()

    def work(_: int) -> None:
        for _ in range(-(-rounds // WORKERS)):
            outer = make_outer("hash_of_maps", 0, 8)
            inner = raw.map_create("array", 4, 4, 1)
            raw.map_update(outer, bytes(4), struct.pack("=i", inner))
            insns = with_map(code, outer)
            program = raw.command(
                "PROG_LOAD", prog_type="socket_filter", insns=insns, insn_cnt=len(insns) // 8, license="GPL"
            )
            for fd in (outer, inner, program):
                os.close(fd)

    began = time.monotonic()
    in_processes(WORKERS, work)
    return time.monotonic() - began


def test_a_storm_of_creation_and_destruction(guest: Guest, stress: Stress) -> None:
    stress.run(guest, storm, lookup_inner(0, guest.byte_order), rounds=min(stress.rounds, 20_000))


def exhaust_descriptors(rounds: int) -> float:
    """Make maps until there is no descriptor left, and refuse to be surprised; return the seconds."""
    began = time.monotonic()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    for _ in range(max(rounds // 64, 2)):
        outer = make_outer("hash_of_maps", 0, 8)
        opened = [outer]
        refused = 0
        while refused < 8:
            try:
                if refused % 2:
                    opened.append(raw.map_create("hash_of_maps", 4, 4, 8, inner_map_fd=opened[-1]))
                else:
                    opened.append(raw.map_create("array", 4, 4, 1))
            except OSError as error:
                if error.errno != EMFILE and not refused % 2:
                    raise
                refused += 1
        if len(opened) < 40:
            raise RuntimeError(f"refused after {len(opened)} descriptors")
        for fd in opened:
            os.close(fd)
    return time.monotonic() - began


def test_no_descriptor_is_left(guest: Guest, stress: Stress) -> None:
    stress.run(guest, exhaust_descriptors, rounds=min(stress.rounds, 10_000))


def exhaust_locked_memory(rounds: int) -> float:
    """Make outer and inner maps until RLIMIT_MEMLOCK refuses; return the seconds."""
    expedite()
    began = time.monotonic()
    for _ in range(max(rounds // 64, 2)):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 18, resource.RLIM_INFINITY))
        outer = make_outer("hash_of_maps", 1, 1024)
        opened = [outer]
        refused = 0
        while refused < 4 and len(opened) < 1000:
            try:
                opened.append(raw.map_create("hash", 4, 64, 64))
                raw.map_create("hash_of_maps", 4, 4, 1 << 16, inner_map_fd=opened[-1])
                raise RuntimeError("a map of many pages was let through")
            except OSError as error:
                if error.errno != EPERM:
                    raise
                refused += 1
        for fd in opened:
            os.close(fd)
    return time.monotonic() - began


# Since Linux kernel commit 80ee81e0403c ("bpf: Eliminate rlimit-based memory accounting infra for bpf maps") (in v5.11)
# memory is charged to the cgroup instead.
@pytest.mark.kernel("<5.11")
def test_no_locked_memory_is_left(guest: Guest, stress: Stress) -> None:
    stress.run(guest, exhaust_locked_memory, rounds=min(stress.rounds, 10_000))


def exhaust_cgroup(rounds: int) -> float:
    """Make maps in a cgroup until its memory is used up; return the seconds, or -1 where there is no such limit."""
    expedite()
    root = Path("/sys/fs/cgroup")
    if "memory" not in (root / "cgroup.controllers").read_text().split():
        return -1.0
    began = time.monotonic()
    (root / "cgroup.subtree_control").write_text("+memory")
    group = root / "stress"
    group.mkdir()
    try:
        for _ in range(max(rounds // 64, 2)):
            (group / "memory.max").write_text("max")
            in_processes(1, lambda _: fill_cgroup(str(group)))
    finally:
        group.rmdir()
        (root / "cgroup.subtree_control").write_text("-memory")
    return time.monotonic() - began


def fill_cgroup(group: str) -> None:
    """Go into a cgroup, and make maps until it refuses."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    outer = make_outer("hash_of_maps", 0, 64)
    used = int(Path(group, "memory.current").read_text())
    Path(group, "memory.max").write_text(str(used + (8 << 20)))
    opened = []
    refused = 0
    while refused < 4:
        try:
            opened.append(raw.map_create("hash", 4, 4096, 256))
            raw.map_update(outer, struct.pack("=I", len(opened) % 64), struct.pack("=i", opened[-1]))
        except OSError as error:
            if error.errno not in (ENOMEM, 22):
                raise
            refused += error.errno == ENOMEM
            if len(opened) > 1000:
                raise RuntimeError("the limit of the cgroup refuses nothing") from None
    # Moved back: a cgroup with processes in it cannot be removed.
    Path("/sys/fs/cgroup/cgroup.procs").write_text(str(os.getpid()))
    for fd in [outer, *opened]:
        os.close(fd)


# Linux kernel commit 48edc1f78aab ("bpf: Prepare for memcg-based memory accounting for bpf maps") (in v5.11).
@pytest.mark.kernel(">=5.11")
def test_no_memory_of_the_cgroup_is_left(guest: Guest, stress: Stress) -> None:
    seconds = guest.call(exhaust_cgroup, min(stress.rounds, 1000), timeout=300)
    if seconds < 0:
        pytest.skip("this kernel has no memory controller")


def interrupt(kind: str, rounds: int) -> float:
    """Insert and delete while a signal comes every millisecond; return the seconds."""
    expedite()
    came = []
    signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    outer = make_outer(kind, 0, KEYS)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        insert_and_delete(outer, 0, rounds, replace=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.monotonic() - began
    os.close(outer)
    if not came:
        raise RuntimeError("no signal came")
    return took


@pytest.mark.parametrize("kind", ["hash_of_maps", "array_of_maps"])
def test_signals_in_the_middle(guest: Guest, stress: Stress, kind: str) -> None:
    stress.run(guest, interrupt, kind, rounds=stress.rounds)


def pass_descriptors(rounds: int) -> float:
    """Send descriptors of maps from process to process, some of them never received; return the seconds."""
    expedite()
    outer = make_outer("hash_of_maps", 0, 8)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    began = time.monotonic()

    def work(number: int) -> None:
        if number:
            ours.close()
            while True:
                data, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(8))
                if not data:
                    return
                for _, _, packed in ancillary:
                    for inner in struct.unpack(f"={len(packed) // 4}i", packed):
                        raw.map_update(outer, bytes(4), struct.pack("=i", inner))
                        os.close(inner)
        theirs.close()
        for _ in range(rounds):
            sent = [raw.map_create("array", 4, 4, 1) for _ in range(2)]
            socket.send_fds(ours, [b"x"], sent)
            for fd in sent:
                os.close(fd)

    # Both ends go with the processes, so that the receiver sees an end.
    children = os.fork()
    if children == 0:
        status = 1
        try:
            pid = os.fork()
            work(0 if pid else 1)
            status = 0
            if pid:
                ours.close()
                status = int(os.waitpid(pid, 0)[1] != 0)
        finally:
            os._exit(status)
    ours.close()
    theirs.close()
    status = os.waitpid(children, 0)[1]
    # What is on its way when both ends are closed is the kernel's to give back.
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    lost = raw.map_create("array", 4, 4, 1)
    socket.send_fds(left, [b"x"], [lost, outer])
    os.close(lost)
    left.close()
    right.close()
    os.close(outer)
    if status:
        raise RuntimeError(f"processes ended with {status}")
    return time.monotonic() - began


def test_descriptors_passed_between_processes(guest: Guest, stress: Stress) -> None:
    stress.run(guest, pass_descriptors, rounds=min(stress.rounds, 20_000))


def kill_in_the_middle(kind: str, seed: int, rounds: int) -> float:
    """Kill processes that insert and delete, each at another moment; return the seconds."""
    expedite()
    chance = random.Random(seed)
    outer = make_outer(kind, 0, KEYS)
    began = time.monotonic()
    for _ in range(rounds):
        pids = []
        for number in range(WORKERS):
            pid = os.fork()
            if pid == 0:
                try:
                    insert_and_delete(outer, number, 1 << 30, replace=number % 2 == 0)
                finally:
                    os._exit(1)
            pids.append(pid)
        time.sleep(chance.uniform(0, 0.03))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
                raise RuntimeError("a process ended by itself")
    took = time.monotonic() - began
    os.close(outer)
    return took


@pytest.mark.parametrize("kind", ["hash_of_maps", "array_of_maps"])
def test_processes_killed_in_the_middle(guest: Guest, stress: Stress, kind: str) -> None:
    stress.run(guest, kill_in_the_middle, kind, 7, rounds=min(max(stress.rounds // 20, 3), 2000))
