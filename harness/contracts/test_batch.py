"""Batch commands on outer maps: what they take and give, where they stop, and what they say of how far they came."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.scene import Scene, by_errno, name_of
from harness.guest.api import bpf as raw
from harness.guest.api import hooks
from harness.testing import Map, errno_name, errno_of

pytestmark = pytest.mark.vm(scope="module")


def attempt(of: Map, command: str, count: int, **fields: Any) -> dict[str, Any]:
    """Issue a batch command; return its errno and how many elements it says it is about.

    Args:
        of: The map.
        command: "lookup", "update", "delete" or "lookup_and_delete".
        count: Elements that it is asked about.
        **fields: Further fields; None makes a null pointer of one that would be written through, a tuple of numbers
            goes in the guest's byte order.
    """
    fields = {name: packed(of, *value) if isinstance(value, tuple) else value for name, value in fields.items()}
    outputs: dict[str, int | bytes] = {}
    if command.startswith("lookup"):
        rooms = {"out_batch": 8, "keys": 4 * max(count, 1), "values": 4 * max(count, 1)}
        outputs = {name: room for name, room in rooms.items() if name not in fields}
    answer = of.commands.attempt(f"MAP_{command.upper()}_BATCH", {"map_fd": of.fd, "count": count, **fields}, outputs)
    return {"errno": name_of(answer.errno), "count": answer.numbers.get("count", count)}


def packed(of: Map, *numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, of.commands.byte_order, signed=number < 0) for number in numbers)


@pytest.mark.contract("batch.command")
def test_which_batch_commands_there_are(scene: Scene, case: str, observe: Observe) -> None:
    outer = scene.holding(0, 1, 2, 3)
    commands = {
        "lookup": lambda: outer.lookup_batch(4),
        "update": lambda: outer.update_batch({1: scene.inner}),
        "delete": lambda: outer.delete_batch([0]),
        "lookup_and_delete": lambda: outer.lookup_and_delete_batch(4),
    }
    observe(errno_of(commands[case]))


@pytest.mark.contract("batch.count_when_unsupported")
def test_a_command_that_is_not_supported_leaves_the_count(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(), "delete", 3, keys=(0, 1, 2))["count"])


# Reading.


@pytest.mark.contract("batch.lookup_values")
def test_a_batch_reads_ids(scene: Scene, observe: Observe) -> None:
    values = scene.holding(0, 1, 2, 3).lookup_batch(4).values
    observe("ids" if values == [packed(scene.inner, scene.inner.id)] * 4 else "something else")


@pytest.mark.contract("batch.lookup_with_room")
def test_a_batch_has_room_for_more_than_there_is(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 1, 2, 3), "lookup", 5))


@pytest.mark.contract("batch.lookup_without_room_left")
def test_a_batch_has_room_for_just_what_there_is(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 1, 2, 3), "lookup", 4))


@pytest.mark.contract("batch.lookup_nothing_there")
def test_a_batch_reads_an_empty_map(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.empty(), "lookup", 4))


@pytest.mark.contract("batch.lookup_over_empty_slot")
def test_a_batch_reads_over_empty_slots(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 2), "lookup", 4))


@pytest.mark.contract("batch.count_zero")
def test_a_batch_of_no_elements(scene: Scene, case: str, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 1, 2, 3), case, 0, keys=bytes(4), values=bytes(4)))


def walk_in_steps(outer_type: str, step: int, elements: int) -> dict[str, Any]:
    """Read a map of 64 elements in steps; return the errno that ended it and how many different keys came."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, elements, inner_map_fd=template)
    for number in range(elements):
        raw.map_update(outer, number.to_bytes(4, sys.byteorder), template.to_bytes(4, sys.byteorder))
    keys: set[bytes] = set()
    fields: dict[str, Any] = {"map_fd": outer, "count": step}
    while True:
        outputs: dict[str, int | bytes] = {"keys": 4 * step, "values": 4 * step, "out_batch": 8}
        errno, _, numbers, buffers = raw.attempt("MAP_LOOKUP_BATCH", fields, outputs)
        got = numbers.get("count", step)
        if errno in (0, 2):
            keys |= {buffers["keys"][4 * at : 4 * at + 4] for at in range(got)}
        if errno:
            return {"errno": errno, "keys": len(keys)}
        fields["in_batch"] = buffers["out_batch"]


@pytest.mark.contract("batch.walk")
def test_a_walk_in_batches_comes_to_every_element(scene: Scene, observe: Observe) -> None:
    found = scene.guest.call(walk_in_steps, scene.type, 16, 64, closes=False)
    observe({"errno": errno_name(found["errno"]), "keys": found["keys"]})


@pytest.mark.contract("batch.walk_one_by_one")
def test_a_walk_in_batches_of_one_element(scene: Scene, observe: Observe) -> None:
    found = scene.guest.call(walk_in_steps, scene.type, 1, 64, closes=False)
    observe(errno_name(found["errno"]))


@pytest.mark.contract("batch.token_beyond_end")
def test_a_walk_goes_on_beyond_the_end(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 1, 2, 3), "lookup", 4, in_batch=(1 << 20, 0)))


@pytest.mark.contract("batch.null_pointer")
def test_a_pointer_is_null(scene: Scene, case: str, observe: Observe) -> None:
    pointer, _, command = case.partition("_of_")
    given = {"keys": (0,), "values": (scene.inner.fd,)} if command == "update" else {}
    outer = scene.holding(0, 1, 2, 3)
    observe(attempt(outer, command, 1 if command == "update" else 4, **{**given, pointer: None})["errno"])


# Writing.


def update(outer: Map, *elements: tuple[int, int]) -> dict[str, Any]:
    """Update elements, which are given as keys and descriptors, in one batch."""
    keys, fds = zip(*elements, strict=True)
    return attempt(outer, "update", len(elements), keys=keys, values=fds)


@pytest.mark.contract("batch.update_bad_fd")
def test_a_batch_stops_at_a_bad_descriptor(scene: Scene, observe: Observe) -> None:
    good = scene.inner.fd
    observe(update(scene.holding(), (0, good), (1, -1), (2, good)))


@pytest.mark.contract("batch.update_mismatch")
def test_a_batch_stops_at_a_map_unlike_the_template(scene: Scene, observe: Observe) -> None:
    good, unlike = scene.inner.fd, scene.map_once("hash", key_size=8, max_entries=8).fd
    observe(update(scene.holding(), (0, good), (1, unlike), (2, good)))


@pytest.mark.contract("batch.update_too_many")
def test_a_batch_stops_at_the_end_of_the_map(scene: Scene, observe: Observe) -> None:
    observe(update(scene.holding(), *((key, scene.inner.fd) for key in range(5))))


@pytest.mark.contract("batch.update_same_key_twice")
def test_a_batch_has_a_key_twice(scene: Scene, observe: Observe) -> None:
    outer = scene.holding()
    found = update(outer, (1, scene.inner.fd), (1, scene.template.fd))
    observe(found if found["errno"] != "ok" else which_is_at(scene, outer, 1))


@pytest.mark.contract("batch.update_replaces")
def test_a_batch_replaces(scene: Scene, observe: Observe) -> None:
    outer = scene.holding()
    found = update(outer, (0, scene.template.fd))
    observe(found if found["errno"] != "ok" else which_is_at(scene, outer, 0))


def which_is_at(scene: Scene, outer: Map, key: int) -> str:
    return "the last one" if outer.lookup(key) == scene.template.id else "another"


# Deleting.


@pytest.mark.contract("batch.delete_missing")
def test_a_batch_stops_at_a_key_that_is_not_there(scene: Scene, observe: Observe) -> None:
    observe(attempt(scene.holding(0, 1), "delete", 3, keys=(0, 9, 1)))


@pytest.mark.contract("batch.delete_missing_keeps")
def test_a_batch_keeps_what_follows_a_missing_key(scene: Scene, observe: Observe) -> None:
    outer = scene.holding(0, 1)
    attempt(outer, "delete", 3, keys=(0, 9, 1))
    observe([int.from_bytes(key, scene.bpf.byte_order) for key in outer])


@pytest.mark.contract("batch.lookup_and_delete_leaves")
def test_what_was_read_and_deleted_is_gone(scene: Scene, observe: Observe) -> None:
    outer = scene.holding(0, 1)
    observe([len(outer.lookup_and_delete_batch(4).keys), len(outer.keys())])


# Flags.


def answers_to_bits_of_batches(outer_type: str, command: str, field: str) -> list[tuple[int, int]]:
    """Issue a batch command once with no bit of a field set, once with each; return the errnos."""
    hooks.expedite()
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    value = template.to_bytes(4, sys.byteorder)
    is_there, found = False, []
    for number in (0, *(1 << bit for bit in range(64))):
        if not is_there:
            raw.map_update(outer, bytes(4), value)
        fields: dict[str, Any] = {"map_fd": outer, "count": 1, field: number}
        outputs: dict[str, int | bytes] = {}
        if command.startswith("MAP_LOOKUP"):
            outputs = {"keys": 4, "values": 4, "out_batch": 8}
        else:
            fields |= {"keys": bytes(4), "values": value}
        errno, _, numbers, _ = raw.attempt(command, fields, outputs)
        ended = errno == 2 and numbers.get("count", 1) == 1
        found.append((number, 0 if ended else errno))
        is_there = errno not in (0, 2) or "DELETE" not in command  # what is refused deletes nothing
    os.close(outer)
    return found


@pytest.mark.contract("batch.elem_flag_bits", "batch.flag_bits")
def test_every_bit_of_a_batchs_flags(scene: Scene, contract: Contract, case: str, observe: Observe) -> None:
    field = contract.name.removeprefix("batch.").removesuffix("_bits") + "s"
    command = f"MAP_{case.upper()}_BATCH"
    observe(by_errno(scene.guest.call(answers_to_bits_of_batches, scene.type, command, field, closes=False)))
