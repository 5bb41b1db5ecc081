"""Sequences of operations on one outer map and its inner maps: runs each step and records its answer.

This module does not judge answers; :mod:`harness.contracts.sequences.model` predicts them. A step is a name from
harness.guest.steps.OPERATIONS and numbers. Maps are numbered in the order of their creation; 0 is the template.

Runs in the guest.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import time

from harness.guest.api import asm, bpf
from harness.guest.steps import COUNTED, KINDS, OPERATIONS, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATIENCE = 2.0
_ENOENT = 2


def run(outer_type: str, flags: int, max_entries: int, steps: list[tuple[str, tuple[int, ...], list[int]]]) -> Any:
    """Run a sequence.

    Args:
        outer_type: Type of the outer map.
        flags: Its map_flags.
        max_entries: Its elements.
        steps: Name, numbers, and the maps that should be gone after it: for a release in a kernel worker, the step
            waits at most two seconds.

    Returns:
        For each step the answer, and the state of all maps after it.
    """
    player = Player(outer_type, flags, max_entries)
    seen = []
    try:
        for name, arguments, gone in steps:
            try:
                answer = STEPS[name](player, *arguments)
            except IndexError:
                answer = "nothing open"  # planned for a kernel on which the open succeeded
            if gone:
                player.wait_for(gone)
            seen.append({"answer": answer, **player.state()})
    finally:
        player.close()
    return seen


class Player:
    """The maps of one sequence; each method with a step's name is an operation."""

    def __init__(self, outer_type: str, flags: int, max_entries: int) -> None:
        self.kinds: list[int] = []
        self.fds: list[list[int]] = []
        self.ids: list[int | None] = []
        self.program = -1
        self.step_create(0)
        outer = bpf.map_create(outer_type, 4, 4, max_entries, map_flags=flags, inner_map_fd=self.fds[0][0])
        self.outer = [outer]
        self.outer_id = _id_of(outer)

    def close(self) -> None:
        """Close all descriptors."""
        for fd in (*itertools.chain(*self.fds), *self.outer, self.program):
            if fd >= 0:
                os.close(fd)

    # Operations. Each returns "ok", an error number, or the value that it found.

    def step_create(self, kind: int) -> Any:
        """Create an inner map of a kind."""
        type_, value_size, max_entries = KINDS[kind]
        fd = bpf.map_create(type_, 4, value_size, max_entries)
        self.kinds.append(kind)
        self.fds.append([fd])
        self.ids.append(_id_of(fd))
        return 0

    def step_close(self, number: int) -> Any:
        """Close the most recent descriptor of an inner map."""
        os.close(self.fds[number].pop())
        return 0

    def step_reopen(self, number: int) -> Any:
        """Open an inner map by its id."""
        return self._open(self.ids[number], self.fds[number])

    def step_close_outer(self) -> Any:
        """Close the most recent descriptor of the outer map."""
        os.close(self.outer.pop())
        return 0

    def step_reopen_outer(self) -> Any:
        """Open the outer map by its id."""
        return self._open(self.outer_id, self.outer)

    def step_insert(self, key: int, number: int, flags: int) -> Any:
        """Put an inner map into the outer map."""
        value = _word(self.fds[number][-1])
        return bpf.attempt("MAP_UPDATE_ELEM", {**self._at(key), "value": value, "flags": flags})[0]

    def step_delete(self, key: int) -> Any:
        """Delete an element of the outer map."""
        return bpf.attempt("MAP_DELETE_ELEM", self._at(key))[0]

    def step_lookup(self, key: int) -> Any:
        """Look up in the outer map."""
        error, _, _, found = bpf.attempt("MAP_LOOKUP_ELEM", self._at(key), {"value": 4})
        return error or ["found", self._number(found["value"])]

    def step_keys(self) -> Any:
        """Walk over the keys of the outer map."""
        return ["keys", sorted(_number_of(key) for key in bpf.map_keys(self.outer[-1], 4))]

    def step_batch_insert(self, *pairs: int) -> Any:
        """Put inner maps into the outer map with one command: key, map, key, map ..."""
        fields: dict[str, Any] = {
            "map_fd": self.outer[-1],
            "keys": b"".join(_word(key) for key in pairs[::2]),
            "values": b"".join(_word(self.fds[number][-1]) for number in pairs[1::2]),
            "count": len(pairs) // 2,
        }
        return _counted(bpf.attempt("MAP_UPDATE_BATCH", fields), len(pairs) // 2)

    def step_batch_delete(self, *keys: int) -> Any:
        """Delete elements of the outer map with one command."""
        fields: dict[str, Any] = {
            "map_fd": self.outer[-1],
            "keys": b"".join(_word(key) for key in keys),
            "count": len(keys),
        }
        return _counted(bpf.attempt("MAP_DELETE_BATCH", fields), len(keys))

    def step_batch_read(self) -> Any:
        """Read the complete outer map with one command."""
        return self._read("MAP_LOOKUP_BATCH")

    def step_batch_take(self) -> Any:
        """Read and delete the complete outer map with one command."""
        return self._read("MAP_LOOKUP_AND_DELETE_BATCH")

    def step_write(self, number: int, key: int, value: int) -> Any:
        """Write an element of an inner map."""
        fields: dict[str, Any] = {"map_fd": self.fds[number][-1], "key": _word(key), "value": _word(value)}
        return bpf.attempt("MAP_UPDATE_ELEM", fields)[0]

    def step_read(self, number: int, key: int) -> Any:
        """Read an element of an inner map."""
        fields: dict[str, Any] = {"map_fd": self.fds[number][-1], "key": _word(key)}
        error, _, _, found = bpf.attempt("MAP_LOOKUP_ELEM", fields, {"value": 4})
        return error or ["value", _number_of(found["value"])]

    def step_erase(self, number: int, key: int) -> Any:
        """Delete an element of an inner map."""
        return bpf.attempt("MAP_DELETE_ELEM", {"map_fd": self.fds[number][-1], "key": _word(key)})[0]

    def step_freeze_outer(self) -> Any:
        """Freeze the outer map."""
        return bpf.attempt("MAP_FREEZE", {"map_fd": self.outer[-1]})[0]

    def step_freeze(self, number: int) -> Any:
        """Freeze an inner map."""
        return bpf.attempt("MAP_FREEZE", {"map_fd": self.fds[number][-1]})[0]

    def step_load(self) -> Any:
        """Load a program that looks up in the outer map."""
        code = asm.assemble(*reader(self.outer[-1]))
        fields: dict[str, Any] = {"prog_type": "xdp", "insns": code, "insn_cnt": len(code) // 8, "license": "GPL"}
        error, self.program, _ = bpf.load(fields, 0)
        return error

    def step_unload(self) -> Any:
        """Close the program."""
        os.close(self.program)
        self.program = -1
        return 0

    def step_run(self, key: int) -> Any:
        """Run the program: it looks up a key."""
        packet = bytes(2) + _word(key) + bytes(58)
        fields: dict[str, Any] = {"prog_fd": self.program, "data_in": packet, "data_size_in": 64, "data_size_out": 256}
        error, _, numbers, _ = bpf.attempt("PROG_TEST_RUN", fields, {"data_out": 256})
        return error or ["returned", numbers.get("retval", 0)]

    # The state after each step.

    def state(self) -> dict[str, Any]:
        """Return the existing maps, the content of the outer map, and the elements of the open inner maps."""
        outer = None
        if self.outer:
            keys = [_number_of(key) for key in bpf.map_keys(self.outer[-1], 4)]
            outer = {key: answer for key in keys if (answer := self.step_lookup(key)) != _ENOENT}
        inners = {
            number: {_number_of(key): _number_of(bpf.map_lookup(fds[-1], key, 4)) for key in bpf.map_keys(fds[-1], 4)}
            for number, fds in enumerate(self.fds)
            if fds and self.kinds[number] in COUNTED
        }
        return {"outer": outer, "inners": inners, "alive": self._alive()}

    def wait_for(self, gone: list[int]) -> None:
        """Wait until these maps are gone, with a limit."""
        until = time.monotonic() + _PATIENCE
        while set(gone) & set(self._alive() or ()) and time.monotonic() < until:
            time.sleep(0.002)

    def _alive(self) -> list[int] | None:
        if self.ids[0] is None:
            return None  # this kernel has no ids
        there = set(bpf.ids("map"))
        return [number for number, id_ in enumerate(self.ids) if id_ in there]

    def _at(self, key: int) -> dict[str, Any]:
        return {"map_fd": self.outer[-1], "key": _word(key)}

    def _number(self, value: bytes) -> int:
        """Return the number of the map with this id, or the negative id of a map from outside the sequence."""
        id_ = _number_of(value)
        return self.ids.index(id_) if id_ in self.ids else -id_

    def _open(self, id_: int | None, fds: list[int]) -> Any:
        error, fd, _, _ = bpf.attempt("MAP_GET_FD_BY_ID", {"id": id_ or 0})
        if not error:
            fds.append(fd)
        return error

    def _read(self, command: str) -> Any:
        room = 16
        fields: dict[str, Any] = {"map_fd": self.outer[-1], "count": room}
        error, _, numbers, found = bpf.attempt(command, fields, {"out_batch": 8, "keys": 4 * room, "values": 4 * room})
        if error != _ENOENT:
            return error
        keys, values = (struct.unpack(f"={room}I", found[name]) for name in ("keys", "values"))
        count = numbers.get("count", room)
        return [
            "batch",
            {key: self._number(_word(value)) for key, value in zip(keys[:count], values[:count], strict=True)},
        ]


STEPS = {name: getattr(Player, f"step_{name}") for name in OPERATIONS}


def _counted(answer: tuple[int, int, dict[str, int], dict[str, bytes]], count: int) -> Any:
    error, _, numbers, _ = answer
    return [error, numbers.get("count", count)]


def _id_of(fd: int) -> int | None:
    try:
        return int(bpf.map_info(fd)["id"])
    except OSError:
        return None


def _word(number: int) -> bytes:
    return struct.pack("=I", number)


def _number_of(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)
