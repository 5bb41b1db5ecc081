"""The remote BPF API: maps in the guest as objects on the host, through the raw loader.

Nothing is checked before the kernel has seen it, and nothing is retried: a refused command raises
:class:`BpfError` with the kernel's errno.

Imports the guest process below it, :mod:`harness.errnos`, :mod:`harness.errors`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from harness.errnos import errno_name
from harness.errors import GuestCallError, GuestError
from harness.vm.machine import GuestProcess

ANY, NOEXIST, EXIST, LOCK = 0, 1, 2, 4

OUTER_KINDS = ("hash_of_maps", "array_of_maps")


class BpfError(GuestError):
    """A bpf(2) command failed in the guest.

    Attributes:
        errno: The kernel's error number.
        command: The command, as "MAP_UPDATE_ELEM".
        attributes: What it was given.
    """

    def __init__(self, errno: int, command: str, attributes: dict[str, Any]) -> None:
        given = ", ".join(f"{name}={value!r}" for name, value in attributes.items())
        super().__init__(f"{command}({given}) failed with {errno_name(errno)} ({errno})")
        self.errno = errno
        self.command = command
        self.attributes = attributes

    @property
    def name(self) -> str:
        """The kernel's name of the error number."""
        return errno_name(self.errno)


class Bpf:
    """bpf(2) in one guest process."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process

    def command(self, function: str, shown: str, **attributes: Any) -> Any:
        """Call a function of the guest's raw loader.

        Args:
            function: Its name in harness.guest.bpf.
            shown: The bpf(2) command, for the message of an error.
            **attributes: Its arguments.

        Raises:
            BpfError: The kernel refused the command.
        """
        try:
            return self._process.call(f"bpf.{function}", **attributes)
        except GuestCallError as error:
            if error.errno:
                raise BpfError(error.errno, shown, attributes) from None
            raise

    def map(
        self,
        kind: str,
        *,
        key_size: int = 4,
        value_size: int = 4,
        max_entries: int = 1,
        inner: Map | None = None,
        **attributes: Any,
    ) -> Map:
        """Create a map.

        Args:
            kind: "hash", "array", "hash_of_maps", "array_of_maps", ... as harness.guest.bpf.MAP_TYPES has them.
            key_size: Bytes.
            value_size: Bytes.
            max_entries: Elements.
            inner: The template of an outer map.
            **attributes: Further fields of union bpf_attr, such as map_flags.

        Raises:
            BpfError: The kernel refused it.
        """
        if inner is not None:
            attributes["inner_map_fd"] = inner.fd
        fd = self.command(
            "map_create",
            "MAP_CREATE",
            map_type=kind,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            **attributes,
        )
        return Map(self, fd, kind, key_size, value_size)

    def map_by_id(self, map_id: int, *, like: Map) -> Map:
        """Open the map with this id; `like` tells its kind and sizes."""
        fd = self.command("map_fd_by_id", "MAP_GET_FD_BY_ID", map_id=map_id)
        return Map(self, fd, like.kind, like.key_size, like.value_size)

    def map_ids(self) -> list[int]:
        """Return the ids of all live maps of the guest (4.13 and later)."""
        found: list[int] = self.command("ids", "MAP_GET_NEXT_ID", kind="map")
        return found

    def close(self, fd: int) -> None:
        """Close a file descriptor of the guest process."""
        self._process.call("close", fd)


class Map:
    """One map, held by a file descriptor in the guest process.

    Keys and values are bytes, or integers that are packed in the guest's (little-endian) order to the map's own sizes;
    a value may be a map, which stands for its file descriptor.
    """

    def __init__(self, bpf: Bpf, fd: int, kind: str, key_size: int, value_size: int) -> None:
        self._bpf = bpf
        self.fd = fd
        self.kind = kind
        self.key_size = key_size
        self.value_size = value_size
        self._id: int | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} map, fd {self.fd}>"

    def __enter__(self) -> Map:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> int:
        """The map's id in the kernel (4.13 and later)."""
        if self._id is None:
            self._id = int(self.info()["id"])
        return self._id

    def info(self) -> dict[str, Any]:
        """Return struct bpf_map_info as this kernel fills it (4.13 and later)."""
        found: dict[str, Any] = self._bpf.command("map_info", "OBJ_GET_INFO_BY_FD", fd=self.fd)
        return found

    def update(self, key: int | bytes, value: int | bytes | Map, flags: int = ANY) -> None:
        """Write one element."""
        self._bpf.command(
            "map_update", "MAP_UPDATE_ELEM", fd=self.fd, key=self._key(key), value=self._value(value), flags=flags
        )

    def __setitem__(self, key: int | bytes, value: int | bytes | Map) -> None:
        self.update(key, value)

    def lookup(self, key: int | bytes) -> int:
        """Read one element as an integer; in an outer map it is the inner map's id."""
        return int.from_bytes(self.lookup_bytes(key), "little")

    def lookup_bytes(self, key: int | bytes) -> bytes:
        """Read one element as bytes."""
        found: bytes = self._bpf.command(
            "map_lookup", "MAP_LOOKUP_ELEM", fd=self.fd, key=self._key(key), value_size=self.value_size
        )
        return found

    def delete(self, key: int | bytes) -> None:
        """Delete one element."""
        self._bpf.command("map_delete", "MAP_DELETE_ELEM", fd=self.fd, key=self._key(key))

    def close(self) -> None:
        """Close the file descriptor; the map lives on while something else holds it."""
        self._bpf.close(self.fd)

    def _key(self, key: int | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.to_bytes(self.key_size, "little")

    def _value(self, value: int | bytes | Map) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, Map):
            return value.fd.to_bytes(4, "little")
        return value.to_bytes(self.value_size, "little", signed=value < 0)


@contextlib.contextmanager
def raises_errno(*expected: int) -> Iterator[None]:
    """Assert that the body's bpf(2) command fails with one of these error numbers.

    Raises:
        AssertionError: It succeeded, or failed with another one.
    """
    names = " or ".join(errno_name(number) for number in expected)
    try:
        yield
    except BpfError as error:
        if error.errno not in expected:
            raise AssertionError(f"expected {names}; {error}") from error
    else:
        raise AssertionError(f"expected {names}; the kernel accepted it")
