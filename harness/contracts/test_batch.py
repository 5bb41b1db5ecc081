"""Batch commands on outer maps: what they take and give, where they stop, and what they say of how far they came."""

from __future__ import annotations

import os
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.contracts.scene import Answers, Questions, Scene, by_errno, name_of
from harness.guest.api import bpf as raw
from harness.guest.api import hooks
from harness.testing import Guest, Map, errno_name, errno_of


def attempt(of: Map, command: str, count: int, **fields: Any) -> dict[str, Any]:
    """Issue a batch command; return its errno and how many elements it says it is about.

    Args:
        of: The map.
        command: "lookup", "update", "delete" or "lookup_and_delete".
        count: Elements that it is asked about.
        **fields: Further fields; None makes a null pointer of one that would be written through.
    """
    outputs: dict[str, int | bytes] = {}
    if command.startswith("lookup"):
        rooms = {"out_batch": 8, "keys": 4 * max(count, 1), "values": 4 * max(count, 1)}
        outputs = {name: room for name, room in rooms.items() if name not in fields}
    answer = of.commands.attempt(f"MAP_{command.upper()}_BATCH", {"map_fd": of.fd, "count": count, **fields}, outputs)
    return {"errno": name_of(answer.errno), "count": answer.numbers.get("count", count)}


def packed(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=number < 0) for number in numbers)


BATCHES = Questions()


@BATCHES.of("batch.command")
def which_batch_commands_there_are(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        outer = scene.holding(0, 1, 2, 3)
        commands = {
            "lookup": lambda: outer.lookup_batch(4),
            "update": lambda: outer.update_batch({1: scene.inner}),
            "delete": lambda: outer.delete_batch([0]),
            "lookup_and_delete": lambda: outer.lookup_and_delete_batch(4),
        }
        return errno_of(commands[contract.case])

    return answer


@BATCHES.of("batch.count_when_unsupported")
def a_batch_command_that_is_not_supported_touches_nothing(scene: Scene) -> Answers:
    def answer(_: Contract) -> object:
        outer = scene.holding()
        return attempt(outer, "delete", 3, keys=packed(0, 1, 2))["count"]

    return answer


@BATCHES.of(
    "batch.lookup_values",
    "batch.lookup_with_room",
    "batch.lookup_without_room_left",
    "batch.lookup_nothing_there",
    "batch.count_zero",
)
def a_batch_reads(scene: Scene) -> Answers:
    outer, empty = scene.holding(0, 1, 2, 3), scene.empty()

    def answer(contract: Contract) -> object:
        if contract.name == "batch.lookup_values":
            values = outer.lookup_batch(4).values
            return "ids" if values == [packed(scene.inner.id)] * 4 else "something else"
        if contract.name == "batch.count_zero":
            return attempt(outer, contract.case, 0, keys=bytes(4), values=bytes(4))
        if contract.name == "batch.lookup_nothing_there":
            return attempt(empty, "lookup", 4)
        return attempt(outer, "lookup", 5 if contract.name == "batch.lookup_with_room" else 4)

    return answer


@BATCHES.of("batch.lookup_over_empty_slot")
def a_batch_reads_over_empty_slots(scene: Scene) -> Answers:
    return lambda _: attempt(scene.holding(0, 2), "lookup", 4)


def walk_in_steps(outer_type: str, step: int, elements: int) -> dict[str, Any]:
    """Read a map of 64 elements in steps; return the errno that ended it and how many different keys came."""
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, elements, inner_map_fd=template)
    for number in range(elements):
        raw.map_update(outer, number.to_bytes(4, "little"), template.to_bytes(4, "little"))
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


@BATCHES.of("batch.walk", "batch.walk_one_by_one")
def a_walk_in_batches(scene: Scene) -> Answers:
    guest, outer_type = scene.guest, scene.type

    def answer(contract: Contract) -> object:
        step = 1 if contract.name == "batch.walk_one_by_one" else 16
        found = guest.call(walk_in_steps, outer_type, step, 64, closes=False)
        errno = errno_name(found["errno"])
        return errno if contract.name == "batch.walk_one_by_one" else {"errno": errno, "keys": found["keys"]}

    return answer


@BATCHES.of("batch.token_beyond_end", "batch.null_pointer")
def tokens_and_pointers(scene: Scene) -> Answers:
    outer = scene.holding(0, 1, 2, 3)

    def answer(contract: Contract) -> object:
        if contract.name == "batch.token_beyond_end":
            return attempt(outer, "lookup", 4, in_batch=packed(1 << 20, 0))
        pointer, _, command = contract.case.partition("_of_")
        given = {"keys": packed(0), "values": packed(scene.inner.fd)} if command == "update" else {}
        return attempt(outer, command, 1 if command == "update" else 4, **{**given, pointer: None})["errno"]

    return answer


@BATCHES.of(
    "batch.update_bad_fd",
    "batch.update_mismatch",
    "batch.update_too_many",
    "batch.update_same_key_twice",
    "batch.update_replaces",
)
def a_batch_writes(scene: Scene) -> Answers:
    unlike = scene.bpf.map("hash", key_size=8, max_entries=8).fd
    good, other = scene.inner.fd, scene.template.fd

    def answer(contract: Contract) -> object:
        outer = scene.holding()
        keys, fds = {
            "batch.update_bad_fd": ((0, 1, 2), (good, -1, good)),
            "batch.update_mismatch": ((0, 1, 2), (good, unlike, good)),
            "batch.update_too_many": ((0, 1, 2, 3, 4), (good,) * 5),
            "batch.update_same_key_twice": ((1, 1), (good, other)),
            "batch.update_replaces": ((0,), (other,)),
        }[contract.name]
        found = attempt(outer, "update", len(keys), keys=packed(*keys), values=packed(*fds))
        if found["errno"] != "ok":
            return found
        return "the last one" if outer.lookup(keys[-1]) == scene.template.id else "another"

    return answer


@BATCHES.of("batch.delete_missing", "batch.delete_missing_keeps", "batch.lookup_and_delete_leaves")
def a_batch_deletes(scene: Scene) -> Answers:
    def answer(contract: Contract) -> object:
        outer = scene.holding(0, 1)
        if contract.name == "batch.lookup_and_delete_leaves":
            return [len(outer.lookup_and_delete_batch(4).keys), len(outer.keys())]
        found = attempt(outer, "delete", 3, keys=packed(0, 9, 1))
        left = [int.from_bytes(key, "little") for key in outer]
        return found if contract.name == "batch.delete_missing" else left

    return answer


@pytest.mark.contract(*BATCHES.names, together=True)
def test_batches(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(BATCHES.on(scene))


def answers_to_bits_of_batches(outer_type: str, command: str, field: str) -> list[tuple[int, int]]:
    """Issue a batch command once with no bit of a field set, once with each; return the errnos."""
    hooks.expedite()
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_type, 4, 4, 4, inner_map_fd=template)
    value = template.to_bytes(4, "little")
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


@pytest.mark.contract("batch.elem_flag_bits", "batch.flag_bits", together=True)
def test_every_bit_of_a_batchs_flags(guest: Guest, outer_type: str, observe_each: ObserveEach) -> None:
    def answer(contract: Contract) -> object:
        field = "flags" if contract.name == "batch.flag_bits" else "elem_flags"
        command = f"MAP_{contract.case.upper()}_BATCH"
        return by_errno(guest.call(answers_to_bits_of_batches, outer_type, command, field, closes=False))

    observe_each(answer)
