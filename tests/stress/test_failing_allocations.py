"""What the kernel does when memory runs out in the middle of a command on maps: allocations fail at each step.

A single allocation that fails shows little: most have a second way, and only when that fails too are error paths
gone. So one fails by itself, and then that one and all after it; `--stress=N` says at how many places.

Takes a kernel with fault injection, which the flavour debug has. The leak check looks at every test when it is
over; with `--kmemleak` the kernel looks for memory that an error path forgot.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC
from itertools import chain
from pathlib import Path

import pytest

from harness.guest.api import bpf as raw
from harness.guest.api import btf, syscalls
from harness.guest.api.hooks import expedite
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from harness.testing import Guest, Stress
from tests.stress.loops import lookup_inner, with_map

pytestmark = [pytest.mark.stress]

FAIL_NTH = "/proc/thread-self/fail-nth"
SLAB, PAGES = "/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc"
STEPS = 200
"""Allocations of one call that are made to fail, one after the other; none makes as many."""
SMALLEST, PLENTY = 8, 1 << 24
"""Bytes: no allocation is smaller, and no call takes more in all."""
ENOTSUPP = 524
SLOTS = 4
PIN, OTHER_PIN = "/sys/fs/bpf/pinned", "/sys/fs/bpf/failed"

HASH, NO_PREALLOC, ARRAY = ("hash_of_maps", 0), ("hash_of_maps", 1), ("array_of_maps", 0)
OUTERS = {"hash": HASH, "no_prealloc": NO_PREALLOC, "array": ARRAY}
FILLED = ("replace", "lookup", "next-key", "delete", "lookup-batch", "delete-batch")
"""What is done to an outer map whose slots hold an inner map already; all else begins with empty ones."""
ALIKE = ("by-id", "get", "pin", "load", "inner-hash", "inner-array")
"""What has nothing to do with the kind of the outer map."""

ALSO = {
    # Linux kernel/bpf/inode.c, bpf_get_inode(): what is missing may be an inode, which is one more of a file system.
    "pin": {ENOSPC},
    # Linux kernel/bpf/verifier.c, check_cond_jmp_op(): no memory for the state of a second branch was told as EFAULT.
    # Linux kernel/bpf/core.c, bpf_prog_select_runtime(): no memory for the machine code is told as ENOTSUPP.
    "load": {EFAULT, ENOTSUPP},
}
"""The error numbers beside ENOMEM that kernels answer with when there is no memory."""


def has_fault_injection() -> bool:
    """Whether this kernel can make the allocations of a thread fail; it gets ready for that."""
    if not Path(FAIL_NTH).exists() or not Path(SLAB).exists():
        return False
    settings = {
        "ignore-gfp-wait": "N",
        "ignore-gfp-highmem": "N",
        "min-order": "0",
        "verbose": "0",
        "times": "1000000000",
    }
    for folder in (SLAB, PAGES):
        for name, value in settings.items():
            setting = Path(folder, name)
            if setting.exists():
                setting.write_text(value)
    Path(SLAB, "task-filter").write_text("Y")
    return True


def failing_once(call: Callable[[], int]) -> Iterator[int]:
    """Make calls, of whose allocations the first, the second, the third ... fails, until none is left to."""
    with open(FAIL_NTH, "r+b", buffering=0) as nth:  # noqa: PTH123
        for step in range(1, STEPS):
            os.pwrite(nth.fileno(), b"%d" % step, 0)
            result = call()
            left = int(os.pread(nth.fileno(), 16, 0))
            os.pwrite(nth.fileno(), b"0", 0)
            yield result
            if left:  # fewer allocations were made: each of them has failed once
                return
    raise RuntimeError(f"{STEPS} steps, and still an allocation to fail")


def failing_from_then_on(call: Callable[[], int], steps: int) -> Iterator[int]:
    """Make calls, of whose allocations all fail once so many bytes were given; there is no second way then."""

    def with_room_for(size: int) -> int:
        space.write_text(str(size))
        os.pwrite(mine.fileno(), b"1", 0)
        try:
            return call()
        finally:
            os.pwrite(mine.fileno(), b"0", 0)

    space, chance = Path(SLAB, "space"), Path(SLAB, "probability")
    chance.write_text("100")
    try:
        with open("/proc/thread-self/make-it-fail", "r+b", buffering=0) as mine:  # noqa: PTH123
            yield with_room_for(PLENTY)
            used = PLENTY - int(space.read_text())
            for size in range(0, used + 1, max(SMALLEST, used // steps)):
                yield with_room_for(size)
            yield with_room_for(PLENTY)
    finally:
        chance.write_text("0")


def held_by(outer: int) -> list[int]:
    """Return the id of the inner map in each slot of an outer map; 0 where there is none."""
    held = []
    for key in range(SLOTS):
        try:
            held.append(struct.unpack("=I", raw.map_lookup(outer, struct.pack("=I", key), 4))[0])
        except OSError as error:
            if error.errno != ENOENT:
                raise
            held.append(0)
    return held


def put_back(outer: int, before: list[int], after: list[int], inner: int) -> None:
    """Have the slots hold what they held, which is one inner map or none."""
    for key in range(SLOTS):
        if before[key] == after[key]:
            continue
        if before[key]:
            raw.map_update(outer, struct.pack("=I", key), struct.pack("=i", inner))
        else:
            raw.map_delete(outer, struct.pack("=I", key))


def fail_each_step(how: str, action: str, kind: str, flags: int, code: bytes, steps: int) -> list[int]:
    """Make one system call again and again, allocations at each of its steps failing.

    Args:
        how: "once" or "from-then-on".
        action: What is done.
        kind: Type of the outer map.
        flags: Its flags.
        code: A program that looks up in it.
        steps: At how many steps all fail from then on, at most.

    Returns:
        The error numbers in order, 0 for success: what the kernel answered to each failure, and to none at the end.

    Raises:
        RuntimeError: A command that was refused has changed the outer map, or one that was not has not.
    """
    expedite()
    inner, other = (raw.map_create("array", 4, 4, 1) for _ in range(2))
    outer = raw.map_create(kind, 4, 4, SLOTS, inner_map_fd=inner, map_flags=flags)
    if action in FILLED:
        for slot in range(SLOTS):
            raw.map_update(outer, struct.pack("=I", slot), struct.pack("=i", inner))
    raw.obj_pin(inner, PIN)
    new = raw.map_info(other)["id"]

    insns = with_map(code, outer)
    key, value, out = (ctypes.create_string_buffer(data, 4) for data in (bytes(4), struct.pack("=i", other), b""))
    keys = ctypes.create_string_buffer(struct.pack(f"={SLOTS}I", *range(SLOTS)))
    values = ctypes.create_string_buffer(struct.pack(f"={SLOTS}i", *(other for _ in range(SLOTS))))
    pin, other_pin, held, licence = (
        ctypes.create_string_buffer(data) for data in (PIN.encode(), OTHER_PIN.encode(), insns, b"GPL")
    )
    at = ctypes.addressof
    number, attr = {
        "create": (0, struct.pack("=IIIIII", 13 if kind == "hash_of_maps" else 12, 4, 4, 64, flags, inner)),
        "inner-hash": (0, struct.pack("=IIIII", 1, 4, 4, 64, 0)),
        "inner-array": (0, struct.pack("=IIIII", 2, 4, 4, 64, 0)),
        "lookup": (1, struct.pack("=IxxxxQQQ", outer, at(key), at(out), 0)),
        "update": (2, struct.pack("=IxxxxQQQ", outer, at(key), at(value), 0)),
        "replace": (2, struct.pack("=IxxxxQQQ", outer, at(key), at(value), 0)),
        "delete": (3, struct.pack("=IxxxxQ", outer, at(key))),
        "next-key": (4, struct.pack("=IxxxxQQ", outer, at(key), at(out))),
        "load": (5, struct.pack("=IIQQ", 1, len(insns) // 8, at(held), at(licence))),
        "pin": (6, struct.pack("=QI", at(other_pin), outer)),
        "get": (7, struct.pack("=QII", at(pin), 0, 0)),
        "by-id": (14, struct.pack("=III", new, 0, 0)),
        "lookup-batch": (24, struct.pack("=QQQQIIQQ", 0, at(out), at(keys), at(values), SLOTS, outer, 0, 0)),
        "update-batch": (26, struct.pack("=QQQQIIQQ", 0, 0, at(keys), at(values), SLOTS, outer, 0, 0)),
        "delete-batch": (27, struct.pack("=QQQQIIQQ", 0, 0, at(keys), 0, SLOTS, outer, 0, 0)),
    }[action]
    before = held_by(outer)
    done = {
        "update": [new, *before[1:]],
        "replace": [new, *before[1:]],
        "delete": [0, *before[1:]],
        "update-batch": [new] * SLOTS,
        "delete-batch": [0] * SLOTS,
    }.get(action, before)
    # A batch may end in the middle of its elements.
    between = [done[:n] + before[n:] for n in range(SLOTS + 1)] if action.endswith("batch") else [before]
    given = ctypes.create_string_buffer(len(attr))

    def call() -> int:
        result = syscalls.bpf(number, at(given), len(attr))
        return -ctypes.get_errno() if result < 0 else int(result)

    answers: list[int] = []
    # The first call, with nothing that fails, has this process have all memory of its own that it needs for a call.
    given.raw = attr
    for result in chain([call()], failing_once(call) if how == "once" else failing_from_then_on(call, steps)):
        error = max(-result, 0)
        if error == ENOENT and action in ("next-key", "lookup-batch"):
            error = 0  # there is no more: all was looked up, or the key is the last one of its hash map
        if result > 0:
            os.close(result)
        said = f"step {len(answers)}: answered {error}"
        if action == "pin":
            if os.path.exists(OTHER_PIN) == bool(error):  # noqa: PTH110
                raise RuntimeError(f"{said}, and a pin is {'there' if error else 'not there'}")
            if not error:
                os.unlink(OTHER_PIN)  # noqa: PTH108
        after = held_by(outer)
        if after not in (between if error else [done]):
            raise RuntimeError(f"{said}; the outer map held {before}, now {after}")
        put_back(outer, before, after, inner)
        given.raw = attr
        answers.append(error)
    os.unlink(PIN)  # noqa: PTH108
    for fd in (inner, other, outer):
        os.close(fd)
    return answers


CASES = [
    *(pytest.param(action, *HASH, id=action) for action in ALIKE),
    *(
        pytest.param(action, *outer, id=f"{action}-{name}")
        for name, outer in OUTERS.items()
        for action in (
            *("create", "update", "replace", "lookup", "delete", "next-key"),
            *("lookup-batch", "update-batch", "delete-batch"),
        )
        if (action, name) != ("delete-batch", "array")  # which no kernel has
    ),
]


@pytest.mark.parametrize("how", ["once", "from-then-on"])
@pytest.mark.parametrize(("action", "kind", "flags"), CASES)
def test_allocations_fail(guest: Guest, stress: Stress, how: str, action: str, kind: str, flags: int) -> None:
    if not guest.call(has_fault_injection):
        pytest.skip("this kernel has no fault injection: CONFIG_FAULT_INJECTION, CONFIG_FAILSLAB")
    answers = guest.call(
        fail_each_step, how, action, kind, flags, lookup_inner(0, guest.byte_order), stress.rounds, timeout=600
    )
    assert answers[0] == answers[-1] == 0
    # What fails for want of memory says so; an allocation that has a second way does not show.
    assert set(answers) <= {0, ENOMEM} | ALSO.get(action, set())
    assert ENOMEM in answers


def template_with_kptr() -> int:
    """Return an array whose values hold a pointer to an object of the kernel."""
    types = btf.encode(
        btf.integer("int", 4),
        btf.struct_of("task_struct", 4, ("any", 1, 0)),  # of what it points to only the name counts
        btf.type_tag("kptr", 2),
        btf.pointer(3),
        btf.struct_of("value", 8, ("task", 4, 0)),
    )
    described = raw.command("BTF_LOAD", btf=types, btf_size=len(types))
    template = raw.map_create("array", 4, 8, 1, btf_fd=described, btf_key_type_id=1, btf_value_type_id=5)
    os.close(described)
    return template


def copy_at_each_step(how: str, kind: str, steps: int) -> list[list[int]]:
    """Create outer maps, allocations failing; return what was answered, and what the template's insertion into each."""
    expedite()
    template = template_with_kptr()
    attr = struct.pack("=IIIIII", 13 if kind == "hash_of_maps" else 12, 4, 4, 4, 0, template)
    given = ctypes.create_string_buffer(attr, len(attr))

    def call() -> int:
        result = syscalls.bpf(0, ctypes.addressof(given), len(attr))
        return -ctypes.get_errno() if result < 0 else int(result)

    seen: list[list[int]] = []
    for result in chain([call()], failing_once(call) if how == "once" else failing_from_then_on(call, steps)):
        if result < 0:
            seen.append([-result, 0])
            continue
        insertion, _, _, _ = raw.attempt(
            "MAP_UPDATE_ELEM", {"map_fd": result, "key": bytes(4), "value": struct.pack("=i", template)}
        )
        seen.append([0, insertion])
        os.close(result)
    os.close(template)
    return seen


# Before v6.2 bpf_map_meta_alloc() took a list of kernel pointers that there was no memory to copy for none: the outer
# map came to be, and then refused the map that it was made after. What btf_record_dup() returns is looked at.
@pytest.mark.kernel(">=5.19")
@pytest.mark.parametrize("how", ["once", "from-then-on"])
@pytest.mark.parametrize("kind", ["hash_of_maps", "array_of_maps"])
def test_an_outer_map_takes_its_template(guest: Guest, stress: Stress, kernel: Kernel, how: str, kind: str) -> None:
    if not guest.call(has_fault_injection):
        pytest.skip("this kernel has no fault injection: CONFIG_FAULT_INJECTION, CONFIG_FAILSLAB")
    seen = guest.call(copy_at_each_step, how, kind, stress.rounds, timeout=600)
    assert seen[0] == seen[-1] == [0, 0]
    assert [ENOMEM, 0] in seen
    expected = [[ENOMEM, 0], [0, 0]]
    if kernel.version < KernelVersion.parse("6.2"):
        # With all other allocations failing too, nothing comes of it.
        assert ([0, EINVAL] in seen) == (how == "once")
        expected.append([0, EINVAL])
    assert all(one in expected for one in seen)
