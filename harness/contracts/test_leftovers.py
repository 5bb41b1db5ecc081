"""What commands on outer maps leave behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.scene import Scene
from harness.guest.api import bpf as raw
from harness.guest.leaks import snapshot
from harness.guest.threads import second_thread

ROUNDS = 400
"""Outer maps that are made between two looks at the memory."""

BYTES_EACH = 128
"""More than this for each round is growth: the copy of a template alone takes twice as much on every kernel."""

GONE_WITHIN = 5.0
"""Seconds in which what is released in the background has to be gone."""


def ids_that_stay(before: set[int]) -> int:
    """Return how many maps there are that were not there before, when all had time to go."""
    deadline = time.monotonic() + GONE_WITHIN
    while set(raw.ids("map")) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(set(raw.ids("map")) - before)


def try_everything(outer_type: str) -> None:
    """Issue every command on outer maps that takes a descriptor, with and without success; close all there is."""
    little = (1).to_bytes(4, sys.byteorder)

    def value(fd: int) -> bytes:
        return fd.to_bytes(4, sys.byteorder)

    template = raw.map_create("hash", 4, 4, 8)
    array = raw.map_create("array", 4, 4, 8)
    unlike = raw.map_create("hash", 8, 4, 8)
    programs = raw.map_create("prog_array", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    fds = [template, array, unlike, programs, outer]
    file = os.open("/proc/self/stat", os.O_RDONLY)
    for inner in (array, outer, programs, file, 9999):
        try:
            fds.append(raw.map_create(outer_type, 4, 4, 4, inner_map_fd=inner))
        except OSError:
            continue  # what is refused must be given back as well
    for inner in (template, template, unlike, outer, file, 9999):
        for flags in (0, 1, 2, 64):
            try:
                raw.map_update(outer, little, value(inner), flags)
            except OSError:
                continue
    for command in (
        lambda: raw.map_lookup(outer, little, 4),
        lambda: raw.map_lookup(outer, (3).to_bytes(4, sys.byteorder), 4),
        lambda: raw.map_lookup(outer, little, 4, 64),
        lambda: raw.map_lookup_and_delete(outer, little, 4),
        lambda: raw.map_next_key(outer, None, 4),
        lambda: raw.map_next_key(outer, little, 4),
        lambda: raw.map_delete(outer, little),
        lambda: raw.map_delete(outer, little),
        lambda: raw.map_freeze(outer),
        lambda: raw.map_freeze(outer),
        lambda: raw.map_update(outer, little, value(template)),
        lambda: raw.map_delete(outer, little),
    ):
        try:
            command()
        except OSError:
            continue
    for fd in (*fds, file):
        os.close(fd)


def in_a_process_with_threads(outer_type: str) -> int:
    """Return how many maps stay after every command was tried in a process of two threads."""
    before = set(raw.ids("map"))
    with second_thread():
        try_everything(outer_type)
        return ids_that_stay(before)


@pytest.mark.contract("leftovers.descriptors_in_a_process_with_threads")
@pytest.mark.usefixtures("replaces")
def test_refusals_leave_no_descriptor_in_a_process_with_threads(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(in_a_process_with_threads, scene.type))


def unreclaimable() -> int:
    """Return how many KiB of slabs the kernel cannot give back, when what it frees later had time to go."""
    least = 1 << 62
    for _ in range(4):
        snapshot.wait_for_grace_period()
        text = Path("/proc/meminfo").read_text()
        least = min(least, int(text.split("SUnreclaim:")[1].split()[0]))
        time.sleep(0.01)
    return least


def growth(outer_type: str, is_refused: bool, rounds: int) -> int:
    """Return by how many KiB the kernel's memory grows while outer maps are made and closed."""
    template = raw.map_create("hash", 4, 4, 8)
    seen = []
    # The first time the kernel's caches fill.
    for _ in range(3):
        seen.append(unreclaimable())
        for _ in range(rounds):
            try:
                os.close(raw.map_create(outer_type, 4, 4, 0xFFFFFFFF if is_refused else 4, inner_map_fd=template))
            except OSError:
                if not is_refused:
                    raise
    seen.append(unreclaimable())
    os.close(template)
    return min(seen[2] - seen[1], seen[3] - seen[2])


@pytest.mark.contract("leftovers.memory")
def test_outer_maps_leave_no_memory(scene: Scene, case: str, observe: Observe) -> None:
    grown = scene.guest.call(growth, scene.type, case == "refused", ROUNDS, timeout=300)
    observe("stays" if grown * 1024 < ROUNDS * BYTES_EACH else "grows")


def left_of_full(outer_type: str) -> int:
    """Return how many maps stay after an outer map was closed that held one in each slot."""
    before = set(raw.ids("map"))
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    for slot in range(4):
        inner = raw.map_create("hash", 4, 4, 8)
        raw.map_update(outer, slot.to_bytes(4, sys.byteorder), inner.to_bytes(4, sys.byteorder))
        os.close(inner)
    os.close(template)
    os.close(outer)
    return ids_that_stay(before)


@pytest.mark.contract("leftovers.full_outer_closed")
def test_a_full_outer_map_leaves_nothing(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(left_of_full, scene.type))


def stays_open(outer_type: str) -> bool:
    """Return whether an inner map that is open is still there after the outer map of one slot that held it."""
    template = raw.map_create("hash", 4, 4, 8)
    inner = raw.map_create("hash", 4, 4, 8)
    # A hash of one element has one bucket.
    outer = raw.map_create(outer_type, 4, 4, 1, inner_map_fd=template)
    raw.map_update(outer, bytes(4), inner.to_bytes(4, sys.byteorder))
    kept = {raw.info(fd, "map")["id"] for fd in (template, inner)}
    os.close(outer)
    ids_that_stay(kept)
    time.sleep(0.1)
    stays = kept <= set(raw.ids("map"))
    os.close(inner)
    os.close(template)
    return stays


@pytest.mark.contract("leftovers.inner_that_is_open")
def test_an_inner_map_that_is_open_stays(scene: Scene, observe: Observe) -> None:
    observe(scene.guest.call(stays_open, scene.type))
