"""Several processes at one outer map at once, on a machine with two CPUs."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.scene import Scene
from harness.guest.api import bpf as raw
from harness.testing import Bpf, Guest, errno_name, uapi

pytestmark = pytest.mark.vm(cpus=2, scope="module")


LOOKUPS = 300
"""How often one process looks up what another one replaces meanwhile."""


def together(*bodies: Callable[[], Any]) -> list[Any]:
    """Run functions at once, each in a process of its own; return what they returned."""
    start, go = os.pipe()
    running = []
    for body in bodies:
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(start, 1)  # until the last one is there
            os.write(there, pickle.dumps(body()))
            os._exit(0)
        os.close(there)
        running.append((child, here))
    os.close(go)
    found = []
    for child, here in running:
        with os.fdopen(here, "rb") as file:
            found.append(pickle.load(file))
        os.waitpid(child, 0)
    os.close(start)
    return found


def outer_map(outer_type: str, flags: int = 0, elements: int = 4) -> tuple[int, int]:
    """Create an outer map; return its descriptor, and that of an inner map."""
    template = raw.map_create("hash", 4, 4, 8)
    return raw.map_create(outer_type, 4, 4, elements, inner_map_fd=template, map_flags=flags), template


def replace_at_once(outer_type: str, flags: int, rounds: int) -> int:
    """Replace one element from two processes; return how many of the inner maps are alive at the end."""
    outer, _ = outer_map(outer_type, flags)
    before = set(raw.ids("map"))

    def replace() -> None:
        for _ in range(rounds):
            inner = raw.map_create("hash", 4, 4, 8)
            raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
            os.close(inner)

    together(replace, replace)
    deadline = time.monotonic() + 5
    while len(set(raw.ids("map")) - before) != 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(set(raw.ids("map")) - before)


def insert_once(outer_type: str, rounds: int) -> int:
    """Insert new keys from two processes (BPF_NOEXIST), one after the other; return how often one was inserted."""
    outer, inner = outer_map(outer_type, elements=rounds)
    fields: dict[str, Any] = {"map_fd": outer, "value": inner.to_bytes(4, sys.byteorder), "flags": 1}
    return at_every_key("MAP_UPDATE_ELEM", fields, rounds)


def delete_once(outer_type: str, rounds: int) -> int:
    """Delete keys from two processes, one after the other; return how often one was deleted."""
    outer, inner = outer_map(outer_type, elements=rounds)
    for number in range(rounds):
        raw.map_update(outer, number.to_bytes(4, sys.byteorder), inner.to_bytes(4, sys.byteorder))
    return at_every_key("MAP_DELETE_ELEM", {"map_fd": outer}, rounds)


def at_every_key(command: str, fields: dict[str, Any], keys: int) -> int:
    """Issue a command at each key from two processes that keep step; return how often it succeeded."""
    here, there = os.pipe(), os.pipe()

    def succeed(mine: int, other: int) -> int:
        found = 0
        for number in range(keys):
            os.write(other, b"!")
            os.read(mine, 1)
            found += not raw.attempt(command, {**fields, "key": number.to_bytes(4, sys.byteorder)})[0]
        return found

    return sum(together(lambda: succeed(here[0], there[1]), lambda: succeed(there[0], here[1])))


def change_at_once(outer_type: str, elements: int, rounds: int) -> dict[str, list[int]]:
    """Update, delete, look up and walk four keys from four processes; return the errnos that each has seen."""
    outer, inner = outer_map(outer_type, elements=elements)

    def repeat(command: str, fields: dict[str, Any], outputs: dict[str, int | bytes]) -> list[int]:
        element = {"map_fd": outer, **fields}
        seen = {
            raw.attempt(command, {**element, "key": (number % 4).to_bytes(4, sys.byteorder)}, outputs)[0]
            for number in range(rounds)
        }
        return sorted(seen)

    value = {"value": inner.to_bytes(4, sys.byteorder)}
    updates, deletions, lookups, walks = together(
        lambda: repeat("MAP_UPDATE_ELEM", value, {}),
        lambda: repeat("MAP_DELETE_ELEM", {}, {}),
        lambda: repeat("MAP_LOOKUP_ELEM", {}, {"value": 4}),
        lambda: repeat("MAP_GET_NEXT_KEY", {}, {"next_key": 4}),
    )
    return {"update": updates, "delete": deletions, "lookup": lookups, "next_key": walks}


ROOM = 16
"""Elements of an outer map of which four are used.

In a hash that has no room an update may get E2BIG from a map that is not full: htab_map_delete_elem() lets go of the
bucket before it gives the element back (Linux kernel function free_htab_elem(), in kernel/bpf/hashtab.c).
"""

ALLOWED = {
    "update": {"ok"},
    "delete": {"ok", "ENOENT"},
    "lookup": {"ok", "ENOENT"},
    "next_key": {"ok", "ENOENT"},
}


def lookups_during_replacements(outer_type: str, flags: int, lookups: int) -> dict[str, int]:
    """Look up an element while another process replaces it; return how many lookups found, missed, or did otherwise."""
    outer, first = outer_map(outer_type, flags)
    second = raw.map_create("hash", 4, 4, 8)
    raw.map_update(outer, bytes(4), first.to_bytes(4, sys.byteorder))
    ids = [raw.info(inner, "map")["id"].to_bytes(4, sys.byteorder) for inner in (first, second)]
    begun, ended = 0, 1
    said = mmap.mmap(-1, 2)

    def replace() -> None:
        while not said[ended]:
            for inner in (first, second):
                raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
            said[begun] = 1

    def look_up() -> dict[str, int]:
        fields: dict[str, Any] = {"map_fd": outer, "key": bytes(4)}
        seen = {"found": 0, "missed": 0, "other": 0}
        try:
            while not said[begun]:
                time.sleep(0.001)
            for _ in range(lookups):
                error, _, _, buffers = raw.attempt("MAP_LOOKUP_ELEM", fields, {"value": 4})
                if error == errno.ENOENT:
                    seen["missed"] += 1
                else:
                    seen["found" if not error and buffers["value"] in ids else "other"] += 1
        finally:
            said[ended] = 1
        return seen

    _, seen = together(replace, look_up)
    return dict(seen)


@pytest.mark.contract("concurrent.replacements")
@pytest.mark.usefixtures("replaces")
def test_replacements_at_once_keep_the_last_alone(scene: Scene, observe: Observe) -> None:
    flags = uapi.NO_PREALLOC if scene.type == "hash_of_maps" else 0
    observe(scene.guest.call(replace_at_once, scene.type, flags, 30, closes=False))


@pytest.mark.contract("concurrent.insertions")
def test_one_of_two_insertions_wins(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(insert_once, scene.type, 20, closes=False))


@pytest.mark.contract("concurrent.deletions")
def test_one_of_two_deletions_wins(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(delete_once, scene.type, 20, closes=False))


def errnos_at_once(_: Bpf, guest: Guest, outer_type: str) -> dict[str, list[int]]:
    return guest.call(change_at_once, outer_type, ROOM, 60, closes=False)


@pytest.mark.contract("concurrent.errnos")
@pytest.mark.usefixtures("replaces")
def test_what_commands_are_answered_meanwhile(scene: Scene, case: str, observe: Observe) -> None:
    seen = scene.once(errnos_at_once, scene.guest, scene.type)
    names = {errno_name(errno) if errno else "ok" for errno in seen[case]}
    observe("nothing else" if names <= ALLOWED[case] else ", ".join(sorted(names)))


def lookups_meanwhile(_: Bpf, guest: Guest, outer_type: str, case: str) -> dict[str, int]:
    flags = uapi.NO_PREALLOC if case == "no_prealloc" else 0
    return guest.call(lookups_during_replacements, outer_type, flags, LOOKUPS, closes=False)


@pytest.mark.contract("concurrent.lookup_finds")
@pytest.mark.usefixtures("replaces")
def test_a_lookup_finds_one_of_the_inner_maps(scene: Scene, case: str, observe: Observe) -> None:
    found = scene.once(lookups_meanwhile, scene.guest, scene.type, case)
    observe(f"{found['other']} others" if found["other"] else "nothing else")


@pytest.mark.contract("concurrent.lookup_during_replacement")
@pytest.mark.usefixtures("replaces")
def test_a_lookup_may_miss_an_element_that_is_replaced(scene: Scene, case: str, observe: Observe) -> None:
    found = scene.once(lookups_meanwhile, scene.guest, scene.type, case)
    observe("misses" if found["missed"] else "never misses")
