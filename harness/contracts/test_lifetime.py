"""How long maps live, what updates wait for, and what several processes see at once."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import contracts
from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.scene import Scene
from harness.guest.api import bpf as raw
from harness.guest.api import hooks
from harness.testing import Bpf, BpfError, Guest, Map, asm, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")

GONE_WITHIN = 5.0
"""Seconds in which what is released in the background has to be gone."""


def is_alive(bpf: Bpf, map_id: int, like: Map) -> bool:
    try:
        bpf.map_by_id(map_id, like=like).close()  # what stays open would keep it alive
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def state(bpf: Bpf, map_id: int, like: Map) -> str:
    """Say whether a map is alive, without waiting for anything."""
    return "alive" if is_alive(bpf, map_id, like) else "gone"


def last_state(bpf: Bpf, map_id: int, like: Map) -> str:
    """Say whether a map is alive when it has had time to go."""
    deadline = time.monotonic() + GONE_WITHIN
    while is_alive(bpf, map_id, like):
        if time.monotonic() > deadline:
            return "alive"
        time.sleep(0.02)
    return "gone"


@pytest.fixture
def inner(scene: Scene) -> Map:
    """A map that no other test uses; its id is known."""
    inner = scene.like_template()
    assert inner.id
    return inner


def remove(scene: Scene, outer: Map, how: str) -> None:
    """Remove the element 0."""
    if how == "delete":
        outer.delete(0)
    if how == "replace":
        outer[0] = scene.template


@pytest.mark.contract("lifetime.template_closed")
def test_an_outer_map_works_when_its_template_is_gone(scene: Scene, inner: Map, observe: Observe) -> None:
    template = scene.like_template()
    template_id = template.id
    outer = scene.empty(inner=template)
    template.close()
    gone = state(scene.bpf, template_id, template)
    observe(gone if errno_of(outer.update, 0, inner) == "ok" else "of no use")


@pytest.mark.contract("lifetime.refused_inner")
def test_a_refused_map_goes_when_it_is_closed(scene: Scene, observe: Observe) -> None:
    unlike = scene.like_template(key_size=8)
    unlike_id = unlike.id
    assert errno_of(scene.empty().update, 0, unlike) != "ok"
    unlike.close()
    observe(state(scene.bpf, unlike_id, unlike))


@pytest.mark.contract("lifetime.inserted_and_closed", "lifetime.last_reference")
@pytest.mark.usefixtures("replaces")
def test_an_element_keeps_its_inner_map(scene: Scene, inner: Map, case: str, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    inner.close()
    remove(scene, outer, case)
    observe(state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.in_two_slots")
@pytest.mark.usefixtures("replaces")
def test_each_of_two_elements_keeps_the_inner_map(scene: Scene, inner: Map, case: str, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = outer[1] = inner
    inner.close()
    remove(scene, outer, case)
    observe(state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.in_two_outer_maps")
@pytest.mark.usefixtures("replaces")
def test_each_of_two_outer_maps_keeps_the_inner_map(scene: Scene, inner: Map, case: str, observe: Observe) -> None:
    outer, other = scene.empty(), scene.empty()
    outer[0] = inner
    other[0] = inner
    inner.close()
    remove(scene, outer, case)
    observe(state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.held_by_fd")
@pytest.mark.usefixtures("replaces")
def test_a_descriptor_keeps_an_inner_map_that_is_removed(scene: Scene, inner: Map, case: str, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    remove(scene, outer, case)
    observe(state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.outer_closed")
def test_an_outer_map_goes_when_it_is_closed(scene: Scene, inner: Map, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    inner.close()
    outer_id = outer.id
    outer.close()
    observe(state(scene.bpf, outer_id, outer))


@pytest.mark.contract("lifetime.inner_of_closed_outer")
def test_an_inner_map_goes_with_its_outer_map(scene: Scene, inner: Map, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    inner.close()
    outer.close()
    observe(last_state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.inner_of_closed_outer_held_by_fd")
def test_a_descriptor_keeps_an_inner_map_whose_outer_map_goes(scene: Scene, inner: Map, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    outer.close()
    time.sleep(0.2)
    observe(state(scene.bpf, inner.id, inner))


@pytest.mark.contract("lifetime.batch_deleted", "lifetime.batch_replaced", "lifetime.batch_read_and_deleted")
@pytest.mark.usefixtures("replaces")
def test_batches_release_at_once(scene: Scene, contract: Contract, observe: Observe) -> None:
    outer = scene.empty()
    inners = [scene.like_template() for _ in range(3)]
    ids = [inner.id for inner in inners]
    outer.update_batch(dict(enumerate(inners)))
    for inner in inners:
        inner.close()
    commands: dict[str, Callable[[], object]] = {
        "lifetime.batch_deleted": lambda: outer.delete_batch(range(3)),
        "lifetime.batch_replaced": lambda: outer.update_batch(dict.fromkeys(range(3), scene.template)),
        "lifetime.batch_read_and_deleted": lambda: outer.lookup_and_delete_batch(8),
    }
    commands[contract.name]()
    observe(", ".join(sorted({state(scene.bpf, number, scene.inner) for number in ids})))


@pytest.mark.contract("lifetime.held_by_program", "lifetime.inner_held_by_program", "lifetime.program_closed")
def test_a_program_keeps_its_maps(scene: Scene, inner: Map, contract: Contract, observe: Observe) -> None:
    outer = scene.empty()
    outer[0] = inner
    outer_id = outer.id
    code = (asm.st("W", asm.R10, -4, 0), *asm.lookup(outer, -4), *asm.return_(0))
    program = scene.bpf.prog("socket_filter", code)
    outer.close()
    inner.close()
    if contract.name == "lifetime.program_closed":
        program.close()
        observe(f"{last_state(scene.bpf, outer_id, outer)}, {last_state(scene.bpf, inner.id, inner)}")
        return
    time.sleep(0.1)
    held = (outer_id, outer) if contract.name == "lifetime.held_by_program" else (inner.id, inner)
    observe(state(scene.bpf, *held))


@pytest.mark.contract("lifetime.ids_grow")
def test_ids_are_not_given_out_again_soon(scene: Scene, observe: Observe) -> None:
    ids = []
    for _ in range(5):
        with scene.empty() as outer:
            ids.append(outer.id)
    observe("ever larger" if ids == sorted(set(ids)) else "used again")


# Many rounds: what else a machine's maps and memory do would be counted too.


def live_after_replacements(outer_type: str, flags: int, rounds: int) -> int:
    """Replace one element again and again; return how many of the inner maps are alive."""
    hooks.expedite()
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template, map_flags=flags)
    before = set(raw.ids("map"))
    for _ in range(rounds):
        inner = raw.map_create("hash", 4, 4, 8)
        raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
        os.close(inner)
    return len(set(raw.ids("map")) - before)


@pytest.mark.vm(scope="function")
@pytest.mark.leaks("old kernels do leak here")
@pytest.mark.contract("lifetime.replaced_twenty_times")
def test_replacing_releases_each_time(scene: Scene, case: str, observe: Observe) -> None:
    flags = uapi.NO_PREALLOC if case == "no_prealloc" else 0
    observe(scene.guest.call(live_after_replacements, scene.type, flags, 20, closes=False))


def churn(outer_type: str, rounds: int, of: str) -> int:
    """Insert and delete fresh inner maps; return how many ids, or descriptors, there are more than before."""
    hooks.expedite()
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 16, inner_map_fd=template)
    counts = []
    for last in (False, True):
        counts.append(len(raw.ids("map") if of == "ids" else list(Path("/proc/self/fd").iterdir())))
        for number in range(0 if last else rounds):
            inner = raw.map_create("hash", 4, 4, 8)
            key = (number % 16).to_bytes(4, sys.byteorder)
            raw.map_update(outer, key, inner.to_bytes(4, sys.byteorder))
            os.close(inner)
            raw.map_delete(outer, key)
    return counts[1] - counts[0]


@pytest.mark.vm(scope="function")
@pytest.mark.contract("lifetime.thousand_rounds", "lifetime.hundred_rounds")
def test_many_rounds_leave_nothing_behind(scene: Scene, contract: Contract, observe: Observe) -> None:
    rounds = {"lifetime.thousand_rounds": 1000, "lifetime.hundred_rounds": 100}[contract.name]
    observe(scene.guest.call(churn, scene.type, rounds, contract.case, timeout=120, closes=False))


def locked_pages() -> int:
    """Return the pages that count against RLIMIT_MEMLOCK: what a limit has to be for one more map, less that map."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (middle * resource.getpagesize(), resource.RLIM_INFINITY))
        try:
            os.close(raw.map_create("array", 4, 4, 1))
        except OSError:
            low = middle + 1
        else:
            high = middle
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return low - 1


def pages_after_replacements(outer_type: str, flags: int, rounds: int) -> int:
    """Replace one element again and again; return how many more pages are locked afterwards."""
    hooks.expedite()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template, map_flags=flags)
    before = locked_pages()
    for _ in range(rounds):
        inner = raw.map_create("hash", 4, 4, 8)
        raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
        os.close(inner)
    for _ in range(50):  # maps are freed in the background
        more = locked_pages() - before
        if more < rounds // 2:
            break
        time.sleep(0.05)
    return more


@pytest.mark.vm(scope="function")
@pytest.mark.leaks("old kernels do leak here")
@pytest.mark.contract("lifetime.memory_after_replacements")
def test_replacing_gives_memory_back(scene: Scene, case: str, observe: Observe) -> None:
    flags, rounds = uapi.NO_PREALLOC if case == "no_prealloc" else 0, 100
    more = scene.guest.call(pages_after_replacements, scene.type, flags, rounds, closes=False)
    observe("kept" if more >= rounds else "given back")


# What an operation waits for.

# Programs may still use an inner map that was replaced. Counted are this process's calls of what waits for them to end,
# while it issues one command: no clock is asked.
WAITS = (
    "synchronize_rcu",
    "synchronize_sched",  # what synchronize_rcu() is, inlined, on old kernels that are not preemptible
    "synchronize_rcu_expedited",
)


def grace_periods(outer_type: str, commands: list[str], count: int) -> dict[str, dict[str, int] | str]:
    """Issue commands; return of each how often it waited for a grace period, by function of the kernel.

    The trace is on while a command runs and at no other time: to empty it and to read it, this process waits for
    grace periods too. The events stay: 5.4 warns of each that is switched off, as disable_trace_kprobe() returns 1
    there (from v5.4.183 on).

    Args:
        outer_type: The outer map's type.
        commands: Commands on elements, issued for each of them, or on a batch, issued once; each on a map of its own.
        count: Elements.

    Returns:
        For a command that was answered otherwise than it should be, what is wrong.
    """
    with contextlib.suppress(FileNotFoundError):  # a kernel for one CPU has no such setting
        # Other tests turn it on, and may have had this machine before.
        Path("/sys/kernel/rcu_expedited").write_text("0")
    template = raw.map_create("hash", 4, 4, 8)
    keys = [number.to_bytes(4, sys.byteorder) for number in range(count)]
    outers = {command: raw.map_create(outer_type, 4, 4, count, inner_map_fd=template) for command in commands}
    for command, outer in outers.items():
        for key in [] if command in ("update", "update_batch") else keys:
            raw.map_update(outer, key, template.to_bytes(4, sys.byteorder))
    tracing = Path(hooks.tracing())
    probes = tracing / "events/waits"
    (tracing / "tracing_on").write_text("0")
    for name in WAITS:
        with contextlib.suppress(OSError):  # not every kernel has each of them; and they may be there already
            append(tracing / "kprobe_events", f"p:waits/{name} {name}\n")
    for probe in probes.glob("synchronize_*"):
        (probe / "filter").write_text(f"common_pid == {os.getpid()}")
        (probe / "enable").write_text("1")
    found: dict[str, dict[str, int] | str] = {}
    for command, outer in outers.items():
        (tracing / "trace").write_text("")
        (tracing / "tracing_on").write_text("1")
        try:
            for one in [keys] if command.endswith("batch") else [[key] for key in keys]:
                issue(command, outer, one, template)
        except ValueError as error:
            found[command] = str(error)
            continue
        finally:
            (tracing / "tracing_on").write_text("0")
        lines = [line for line in (tracing / "trace").read_text().splitlines() if not line.startswith("#")]
        found[command] = {name: sum(f" {name}:" in line for line in lines) for name in WAITS}
    return found


def append(path: Path, text: str) -> None:
    """Write to the end of a file that cannot be sought in."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def issue(command: str, outer: int, keys: list[bytes], inner: int) -> None:
    """Issue a command that succeeds, or one that is refused as its name says.

    Raises:
        ValueError: It was answered otherwise.
    """
    refused = command.startswith("refused_")
    kind = command.removeprefix("refused_").replace("replace", "update")
    value = (9999 if refused else inner).to_bytes(4, sys.byteorder)
    if kind.endswith("batch"):
        fields: dict[str, Any] = {"map_fd": outer, "keys": b"".join(keys), "values": value * len(keys)}
        outputs: dict[str, int | bytes] = {}
        fields["count"] = len(keys)
        if kind.startswith("lookup"):
            fields, outputs = {"map_fd": outer, "count": 16}, {"keys": 64, "values": 64, "out_batch": 8}
    else:
        missing = kind == "delete" and refused
        fields = {"map_fd": outer, "key": (99).to_bytes(4, sys.byteorder) if missing else keys[0]}
        outputs = {"value": 4} if kind == "lookup" else {}
        if kind == "update":
            fields["value"] = value
    name = f"MAP_{kind.upper()}" if kind.endswith("batch") else f"MAP_{kind.upper()}_ELEM"
    found = raw.attempt(name, fields, outputs)[0]
    ended = kind.startswith("lookup") and kind.endswith("batch") and found == errno.ENOENT
    if bool(found) != refused and not ended:
        raise ValueError(f"{command}: errno {found}")


def all_waits(_: Bpf, guest: Guest, outer_type: str) -> dict[str, dict[str, int] | str]:
    """Return what each command waits for, asked in one go: it takes long to put probes in place."""
    names = ("waits", "waits_batch")
    commands = [one.case for one in contracts().values() if one.outer == outer_type and one.name in names]
    return guest.call(grace_periods, outer_type, commands, 3, closes=False)


@pytest.mark.vm(group="waits")
@pytest.mark.contract("waits", "waits_batch")
@pytest.mark.usefixtures("replaces")
def test_what_waits_for_running_programs(scene: Scene, case: str, observe: Observe) -> None:
    found = scene.once(all_waits, scene.guest, scene.type)[case]
    assert isinstance(found, dict), found
    # Where all grace periods are expedited, synchronize_rcu() calls the other; where a command calls it, it is alone.
    ordinary = found["synchronize_rcu"] + found["synchronize_sched"]
    number = ordinary or found["synchronize_rcu_expedited"]
    times = {0: "returns at once", 1: "waits once"}.get(number, f"waits {number} times")
    observe(f"{times}, expedited" if number and not ordinary else times)
