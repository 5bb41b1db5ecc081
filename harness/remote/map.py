"""Maps of the guest as objects on the host: elements, and batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from errno import ENOENT
from typing import Any

from harness.guest import calls
from harness.guest.api.uapi import ANY
from harness.remote.command import BpfError, Commands, HasFd
from harness.remote.objects import KernelObject

PER_CPU = frozenset({"percpu_hash", "lru_percpu_hash", "percpu_array", "percpu_cgroup_storage"})

Key = int | bytes
Value = int | bytes | HasFd


@dataclass(frozen=True)
class Batch:
    """The result of a batch lookup.

    Attributes:
        keys: Keys in the kernel's order.
        values: Their values, as bytes.
        token: The start of the next batch; opaque.
        done: Whether the kernel reported the end (ENOENT).
    """

    keys: list[bytes]
    values: list[bytes]
    token: bytes
    done: bool


class Map(KernelObject):
    """One map.

    Keys and values are bytes, or integers, which are packed in the guest's byte order to the map's sizes. A value
    may be a map or program, which is replaced by its file descriptor.

    Attributes:
        type: "hash", "array_of_maps", ...
        key_size: Bytes of a key.
        value_size: Bytes of a value; in a per-CPU map, of one CPU's value.
    """

    kind = "map"

    def __init__(self, commands: Commands, fd: int, type_: str, key_size: int, value_size: int) -> None:
        super().__init__(commands, fd)
        self.type = type_
        self.key_size = key_size
        self.value_size = value_size

    def __repr__(self) -> str:
        return f"<{self.type} map, fd {self.fd}{', closed' if self.closed else ''}>"

    def update(self, key: Key, value: Value, flags: int = ANY) -> None:
        """Write one element.

        Args:
            key: The key.
            value: The value; an inner map for an outer map. In a per-CPU map, an integer is written for every CPU.
            flags: ANY, NOEXIST, EXIST, LOCK, ...

        Raises:
            BpfError: The kernel refused.
        """
        fields = {"map_fd": self.fd, "key": self._key(key), "value": self._value(value), "flags": flags}
        self.commands.issue("MAP_UPDATE_ELEM", fields)

    def lookup(self, key: Key, flags: int = 0) -> int:
        """Read one element as an integer; in an outer map it is the inner map's id (4.13 and later)."""
        return int.from_bytes(self.lookup_bytes(key, flags), self.commands.byte_order)

    def lookup_bytes(self, key: Key, flags: int = 0) -> bytes:
        """Read one element as bytes; in a per-CPU map the values of all CPUs, each padded to eight bytes."""
        fields = {"map_fd": self.fd, "key": self._key(key), "flags": flags}
        return self.commands.issue("MAP_LOOKUP_ELEM", fields, {"value": self._room()}).buffers["value"]

    def lookup_percpu(self, key: Key) -> list[int]:
        """Read one element of a per-CPU map: an integer for each possible CPU."""
        data = self.lookup_bytes(key)
        starts = range(0, len(data), _aligned(self.value_size))
        return [int.from_bytes(data[at : at + self.value_size], self.commands.byte_order) for at in starts]

    def delete(self, key: Key) -> None:
        """Delete one element."""
        self.commands.issue("MAP_DELETE_ELEM", {"map_fd": self.fd, "key": self._key(key)})

    def lookup_and_delete(self, key: Key, flags: int = 0) -> bytes:
        """Read one element and delete it; the key of a queue or stack is b""."""
        fields = {"map_fd": self.fd, "key": self._key(key), "flags": flags}
        return self.commands.issue("MAP_LOOKUP_AND_DELETE_ELEM", fields, {"value": self._room()}).buffers["value"]

    def next_key(self, key: Key | None = None) -> bytes:
        """Return the key after `key`, the first one for None; ENOENT at the end."""
        fields = {"map_fd": self.fd, "key": None if key is None else self._key(key)}
        return self.commands.issue("MAP_GET_NEXT_KEY", fields, {"next_key": self.key_size}).buffers["next_key"]

    def keys(self) -> list[bytes]:
        """Return the keys in the kernel's order, walked by MAP_GET_NEXT_KEY."""
        return self.commands.ask("MAP_GET_NEXT_KEY", calls.Bpf.map_keys, fd=self.fd, key_size=self.key_size)

    def __setitem__(self, key: Key, value: Value) -> None:
        self.update(key, value)

    def __getitem__(self, key: Key) -> int:
        return self.lookup(key)

    def __delitem__(self, key: Key) -> None:
        self.delete(key)

    def __contains__(self, key: Key) -> bool:
        try:
            self.lookup_bytes(key)
        except BpfError as error:
            if error.errno == ENOENT:
                return False
            raise
        return True

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.keys())

    def freeze(self) -> None:
        """Make the map read-only for user space (5.2 and later)."""
        self.commands.issue("MAP_FREEZE", {"map_fd": self.fd})

    # Batch commands (5.6 and later; outer maps from 5.19).

    def update_batch(self, items: Mapping[Any, Value] | Iterable[tuple[Key, Value]], flags: int = 0) -> int:
        """Write many elements with one command; return the kernel's count of written elements.

        Raises:
            BpfError: The kernel refused; its numbers contain `count`.
        """
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        fields = {
            "map_fd": self.fd,
            "keys": b"".join(self._packed(key) for key, _ in pairs),
            "values": b"".join(self._value(value) for _, value in pairs),
            "count": len(pairs),
            "elem_flags": flags,
        }
        return self.commands.issue("MAP_UPDATE_BATCH", fields).numbers.get("count", len(pairs))

    def delete_batch(self, keys: Iterable[Key], flags: int = 0) -> int:
        """Delete many elements with one command; return the kernel's count of deleted elements."""
        given = [self._packed(key) for key in keys]
        fields = {"map_fd": self.fd, "keys": b"".join(given), "count": len(given), "elem_flags": flags}
        return self.commands.issue("MAP_DELETE_BATCH", fields).numbers.get("count", len(given))

    def lookup_batch(self, count: int, token: bytes | None = None, flags: int = 0) -> Batch:
        """Read up to `count` elements with one command, starting at the `token` of the last batch.

        Raises:
            BpfError: The kernel refused, except with the ENOENT that marks the end.
        """
        return self._read_batch("MAP_LOOKUP_BATCH", count, token, flags)

    def lookup_and_delete_batch(self, count: int, token: bytes | None = None, flags: int = 0) -> Batch:
        """Read and delete up to `count` elements with one command; arguments and errors as for :meth:`lookup_batch`."""
        return self._read_batch("MAP_LOOKUP_AND_DELETE_BATCH", count, token, flags)

    def _read_batch(self, name: str, count: int, token: bytes | None, flags: int) -> Batch:
        room = self._room()
        fields = {"map_fd": self.fd, "in_batch": token, "count": count, "elem_flags": flags}
        # A token is the number of a bucket in a hash table, a key in an array.
        outputs: dict[str, int | bytes] = {
            "out_batch": max(self.key_size, 8),
            "keys": count * self.key_size,
            "values": count * room,
        }
        answer = self.commands.attempt(name, fields, outputs)
        got = answer.numbers.get("count", count)
        # ENOENT marks the end, for a hash table also when the buffer is exactly full; its count of read elements is
        # valid.
        if answer.errno not in (0, ENOENT):
            raise BpfError(answer.errno, name, fields, numbers={"count": got})
        return Batch(
            _cut(answer.buffers["keys"], self.key_size, got),
            _cut(answer.buffers["values"], room, got),
            answer.buffers["out_batch"],
            bool(answer.errno),
        )

    def _room(self) -> int:
        return _aligned(self.value_size) * self.commands.cpus() if self.type in PER_CPU else self.value_size

    def _key(self, key: Key) -> bytes | None:
        # A map without keys (a queue) accepts only a null pointer.
        return self._packed(key) or None

    def _packed(self, key: Key) -> bytes:
        return key if isinstance(key, bytes) else key.to_bytes(self.key_size, self.commands.byte_order, signed=key < 0)

    def _value(self, value: Value) -> bytes:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, int):
            return value.fd.to_bytes(4, self.commands.byte_order, signed=True)
        data = value.to_bytes(self.value_size, self.commands.byte_order, signed=value < 0)
        if self.type in PER_CPU:
            return data.ljust(_aligned(self.value_size), b"\0") * self.commands.cpus()
        return data


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8


def _cut(data: bytes, size: int, count: int) -> list[bytes]:
    return [data[at * size : (at + 1) * size] for at in range(count)]
