"""The two documented examples, end to end: the tracer by user, and the walk through an array of maps."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from errno import EEXIST, ENOENT
from pathlib import Path

import pytest

from harness.guest import calls
from harness.testing import NOEXIST, Bpf, Guest, Libbpf, Map, raises_errno

# Numbers of x86-64 system calls.
BIND, CHDIR, CHMOD, OPENAT = 49, 80, 90, 257

TRACED = {1000: (OPENAT, CHDIR), 0: (CHMOD, BIND)}
TRACE = "/sys/kernel/tracing/trace"


def call_as(uid: int) -> int:
    """Become a user; then open a file twice, change folder, change a mode, bind a socket, and more."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if uid:
        os.setresuid(uid, uid, uid)
    for _ in range(2):
        os.close(os.open("/tmp", os.O_RDONLY))
    os.chdir(folder)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o755)
    with contextlib.suppress(PermissionError):
        server.bind("socket")
    os.getppid()
    os.umask(0o22)
    return os.getpid()


# libbpf makes a read-only map of the message, as kernels from 5.10 on have been seen to allow it.
@pytest.mark.kernel(">=5.10")
def test_the_tracer_reports_what_each_user_is_traced_for(
    bpf: Bpf, guest: Guest, libbpf: Libbpf, bpf_object: Callable[..., Path]
) -> None:
    with libbpf.open(bpf_object("tracer")) as obj:
        with bpf.map("hash", max_entries=16) as template:
            obj.set_inner_map("traced", template)
            obj.load()
            template_id = template.id
        assert template_id not in bpf.ids("map")
        traced = obj.map("traced")
        inner_ids = {}
        for uid, calls in TRACED.items():
            with bpf.map("hash", max_entries=16) as inner:
                for number in calls:
                    inner[number] = 1
                traced.update(uid, inner, NOEXIST)
                with raises_errno(EEXIST):
                    traced.update(uid, inner, NOEXIST)
                inner_ids[uid] = inner.id
        assert {uid: traced[uid] for uid in TRACED} == inner_ids

        with obj.attach("trace_sys_enter"):
            # closes=False: looking for descriptors left open opens a folder, as the user whom the process has become.
            pids = {uid: guest.call(call_as, uid, closes=False) for uid in (1000, 0, 1001)}
        said = re.findall(r"-(\d+)\s.*: syscall (\d+) called by uid (\d+)$", guest.read(TRACE).decode(), re.MULTILINE)
        found = Counter((int(pid), int(number), int(uid)) for pid, number, uid in said)

    made = {(1000, OPENAT): 2, (1000, CHDIR): 1, (0, BIND): 1}
    expected = {(pids[uid], number, uid): count for (uid, number), count in made.items()}
    # Every process was root until it became somebody else, and changed the mode of its folder.
    expected |= {(pids[1000], CHMOD, 0): 1, (pids[1001], CHMOD, 0): 1, (pids[0], CHMOD, 0): 2}
    assert {line: count for line, count in found.items() if line[0] in pids.values()} == expected
    # Whoever else ran meanwhile was root, and is told of for root's calls alone.
    assert {(number, uid) for _, number, uid in found} <= {(number, uid) for uid in TRACED for number in TRACED[uid]}

    made_before = guest.read(TRACE)
    guest.call(call_as, 0x7FFF)
    assert guest.read(TRACE) == made_before
    with raises_errno(ENOENT):
        bpf.map_by_id(inner_ids[1000])


@pytest.mark.requires("ids", "outer_lookup")
def test_a_walk_through_an_array_of_maps(bpf: Bpf) -> None:
    before = bpf.ids("map")
    descriptors = bpf.commands.ask("readdir", calls.Descriptors.descriptors)
    with bpf.map("array", max_entries=4) as template:
        outer = bpf.map("array_of_maps", max_entries=2, inner=template)
    with raises_errno(ENOENT):
        outer.lookup(0)

    inner = bpf.map("array", max_entries=4)
    inner[3] = 1234
    outer[0] = inner
    inner_id, inner_fd = outer.lookup(0), inner.fd
    assert inner_id == inner.id
    inner.close()

    again: list[Map] = [bpf.map_by_id(inner_id) for _ in range(3)]
    assert len({one.fd for one in again}) == 3
    assert [one.id for one in again] == [inner_id] * 3
    assert [one[3] for one in again] == [1234] * 3
    assert inner_fd in {one.fd for one in again}, "the lowest free descriptor is used again: an fd is not an identity"

    for one in again:
        one.close()
    outer.delete(0)
    with raises_errno(ENOENT):
        outer.lookup(0)
    with raises_errno(ENOENT):
        bpf.map_by_id(inner_id)
    outer.close()
    assert bpf.ids("map") == before
    assert bpf.commands.ask("readdir", calls.Descriptors.descriptors) == descriptors
