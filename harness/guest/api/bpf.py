"""The raw loader: bpf(2) through ctypes, one function per command, directly to the kernel.

There are two interfaces. :func:`attempt` issues any command of :mod:`harness.guest.api.layouts` and returns the
kernel's answer, including errors; the host's API uses it. The functions named after commands (map_create, map_update,
...) are for code that runs in the guest; they raise OSError with the kernel's errno, unchanged (ENOTSUPP, 524, has no
libc name). Nothing is retried or probed first, except that a refused program is loaded again for a verifier log. For
every created object, harness.guest.leaks.provenance then asks the kernel for its id, for the leak check.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import time

from harness.guest.api import syscalls
from harness.guest.api.layouts import COMMANDS, INFO, size_of
from harness.guest.api.uapi import ATTACH_TYPES, MAP_TYPES, PROG_TYPES
from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Field = int | str | bytes | bytearray | mmap.mmap | None
    Attempt = tuple[int, int, dict[str, int], dict[str, bytes]]

_NAMED = {
    "map_type": MAP_TYPES,
    "prog_type": PROG_TYPES,
    "attach_type": ATTACH_TYPES,
    "expected_attach_type": ATTACH_TYPES,
}


Ready = tuple[str, struct.Struct, int, int]

_READY: dict[str, tuple[int, int, dict[str, Ready]]] = {
    name: (
        code,
        max(offset + size_of(form) for _, form, offset in layout),
        {
            field: (form, struct.Struct("=" + form.replace("P", "Q")), offset, (1 << 8 * size_of(form)) - 1)
            for field, form, offset in layout
        },
    )
    for name, (code, layout) in COMMANDS.items()
}
"""The data to issue a command: its number, the size of its part of union bpf_attr, and for each field format, packer,
offset and bit mask."""

OPENS: dict[str, str | None] = {
    "MAP_CREATE": "map",
    "PROG_LOAD": "prog",
    "BTF_LOAD": "btf",
    "LINK_CREATE": "link",
    "RAW_TRACEPOINT_OPEN": "link",
    "OBJ_GET": None,
    "ITER_CREATE": None,
    "TOKEN_CREATE": None,
    **{f"{kind}_GET_FD_BY_ID": None for kind in ("MAP", "PROG", "BTF", "LINK")},
}
"""The commands that return a descriptor, and the kind of object that each creates, if any."""

_INFO_ROOM = 256
_PROG_MAP_IDS = 56
_PROG_XLATED_LEN, _PROG_XLATED = 20, 32


class CannotExpress(Exception):
    """A loader's library cannot issue this command, or pass this field."""


# The largest log size that every kernel accepts (before 5.2: UINT_MAX >> 8), and how much of a log is returned.
_LOG_ROOM = (1 << 24) - 1
_LOG_KEPT = 1 << 20


def attempt(
    name: str, fields: dict[str, Field], outputs: dict[str, int | bytes] | None = None, tail: bytes = b""
) -> Attempt:
    """Issue one bpf(2) command and return the kernel's answer.

    Args:
        name: Its name without the BPF_ prefix.
        fields: Fields of union bpf_attr; others are zero. None means a null pointer. Types of maps, programs and
            attachments may be names.
        outputs: Pointer fields for output: the size of the buffer, or its initial content.
        tail: Bytes after the last known field of the command, to test the kernel's reaction.

    Returns:
        The error number (0 for none), the return value of the system call, the numbers in union bpf_attr that it
        changed, and the content of the outputs.

    Raises:
        ValueError: No such command, field or type.
    """
    buffers = {field: bytearray(given) for field, given in (outputs or {}).items()}
    error, result, attr, sent = _issue(name, {**fields, **buffers}, tail)
    changed = {}
    if attr != sent:
        for field, (form, packed, offset, _) in _READY[name][2].items():
            if form in "IQ" and packed.unpack_from(attr, offset) != packed.unpack_from(sent, offset):
                (changed[field],) = packed.unpack_from(attr, offset)
    return error, result, changed, {field: bytes(buffer) for field, buffer in buffers.items()}


def command(name: str, *, tail: bytes = b"", **fields: Field) -> int:
    """Issue one bpf(2) command.

    Args:
        name: Its name without the BPF_ prefix.
        tail: As for :func:`attempt`.
        **fields: As for :func:`attempt`; a bytearray is read and written in place.

    Returns:
        The return value of the system call: 0 or a file descriptor.

    Raises:
        OSError: The command failed; errno is the kernel's.
        ValueError: No such command, field or type.
    """
    return _checked(name, fields, tail)[0]


def _checked(name: str, fields: dict[str, Field], tail: bytes = b"") -> tuple[int, bytes]:
    error, result, attr, _ = _issue(name, fields, tail)
    if error:
        raise OSError(error, f"BPF_{name}: {os.strerror(error)}")
    return result, attr


def _issue(name: str, fields: dict[str, Field], tail: bytes) -> tuple[int, int, bytes, bytes]:
    """Return errno, result, and union bpf_attr after and before the call."""
    if name not in _READY:
        raise ValueError(f"no bpf(2) command {name}; known are {', '.join(COMMANDS)}")
    code, size, known = _READY[name]
    attr = bytearray(size) + tail
    keep: list[object] = []
    for field, value in fields.items():
        if field not in known:
            raise _unknown(name, fields)
        if value is None:
            continue
        form, packed, offset, mask = known[field]
        if form == "P":
            value = address(value, keep)
        elif isinstance(value, str):
            value = number(field, value) if form in "IQ" else value.encode()
        # A negative number, such as the file descriptor -1, is passed as its bits.
        packed.pack_into(attr, offset, value & mask if isinstance(value, int) else value)
    sent = bytes(attr)
    result = syscalls.bpf(code, ctypes.addressof(ctypes.c_char.from_buffer(attr)), len(attr))
    if result < 0:
        return ctypes.get_errno(), result, bytes(attr), sent
    if name in OPENS:
        provenance.note(OPENS[name], result)
    return 0, result, bytes(attr), sent


def _unknown(name: str, fields: dict[str, Field]) -> ValueError:
    known = [field for field, _, _ in COMMANDS[name][1]]
    unknown = sorted(set(fields).difference(known))
    return ValueError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(known)}")


def address(value: int | str | bytes | bytearray | mmap.mmap, keep: list[object]) -> int:
    """Return the address of a pointer's target; `keep` collects objects that must exist during the system call."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = value.encode() + b"\0"
    if isinstance(value, bytes):
        value = bytearray(value)
    # Not an array of its length: ctypes would make a new type each time.
    held = ctypes.c_char.from_buffer(value) if value else (ctypes.c_char * 0).from_buffer(value)
    keep.append(held)
    return ctypes.addressof(held)


def number(field: str, value: str) -> int:
    """Return the number of a name in a field, such as "hash" in map_type.

    Raises:
        ValueError: The field takes no names, or not this one.
    """
    names = _NAMED.get(field)
    if names is None:
        raise ValueError(f"the field {field} takes a number, not {value!r}")
    if value not in names:
        raise ValueError(f"no {field} {value!r}; known are {', '.join(names)}")
    return names[value]


def load(fields: dict[str, Field], log_level: int | None) -> tuple[int, int, bytes]:
    """Load a program.

    Args:
        fields: Fields of PROG_LOAD.
        log_level: The verifier's verbosity; None asks for a log (at level 1) only after a refusal, by loading again.

    Returns:
        The error number (0 for none), the file descriptor, and the verifier's log.
    """
    if not log_level:
        error, result, _, _ = attempt("PROG_LOAD", fields)
        if log_level is not None or not error:
            return error, result, b""
    log = mmap.mmap(-1, _LOG_ROOM)  # only pages that the kernel writes to are touched
    logged = {**fields, "log_level": log_level or 1, "log_size": len(log), "log_buf": log}
    second, again, _, _ = _issue("PROG_LOAD", logged, b"")
    text = log[: max(log.find(b"\0"), 0)]
    if len(text) > _LOG_KEPT:
        half = _LOG_KEPT // 2
        text = text[:half] + b"\n[... %d bytes omitted ...]\n" % (len(text) - _LOG_KEPT) + text[-half:]
    if log_level:
        return second, again, text
    if not second:
        os.close(again)
        text += b"\n[the second attempt, made for the log, succeeded]"
    return error, result, text


def map_create(map_type: str | int, key_size: int, value_size: int, max_entries: int, **attributes: Any) -> int:
    """Create a map and return its file descriptor.

    Args:
        map_type: A name of MAP_TYPES, or a number.
        key_size: Bytes.
        value_size: Bytes.
        max_entries: Elements.
        **attributes: More fields of the MAP_CREATE part of union bpf_attr: map_flags, inner_map_fd, map_name ...

    Raises:
        OSError: The kernel refused; errno is the kernel's.
        ValueError: No such map type or attribute.
    """
    return command(
        "MAP_CREATE",
        map_type=map_type,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        **attributes,
    )


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one element; in an outer map the value is the inner map's fd as four bytes."""
    command("MAP_UPDATE_ELEM", map_fd=fd, key=key, value=value, flags=flags)


def map_lookup(fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes:
    """Read one element; in an outer map the value read is the inner map's id as four bytes."""
    value = bytearray(value_size)
    command("MAP_LOOKUP_ELEM", map_fd=fd, key=key, value=value, flags=flags)
    return bytes(value)


def map_delete(fd: int, key: bytes) -> None:
    """Delete one element."""
    command("MAP_DELETE_ELEM", map_fd=fd, key=key)


def map_lookup_and_delete(fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes:
    """Read one element and delete it."""
    value = bytearray(value_size)
    command("MAP_LOOKUP_AND_DELETE_ELEM", map_fd=fd, key=key, value=value, flags=flags)
    return bytes(value)


def map_next_key(fd: int, key: bytes | None, key_size: int) -> bytes:
    """Return the key after `key`, or the first one for None; ENOENT at the end."""
    following = bytearray(key_size)
    command("MAP_GET_NEXT_KEY", map_fd=fd, key=key, next_key=following)
    return bytes(following)


def map_keys(fd: int, key_size: int) -> list[bytes]:
    """Return the keys in the kernel's order; if a key is deleted during the walk, the walk starts again."""
    found: list[bytes] = []
    while True:
        try:
            found.append(map_next_key(fd, found[-1] if found else None, key_size))
        except OSError as error:
            if error.errno == 2:
                return found
            raise


def map_freeze(fd: int) -> None:
    """Make the map read-only for user space (5.2 and later)."""
    command("MAP_FREEZE", map_fd=fd)


def info(fd: int, kind: str) -> dict[str, Any]:
    """Return the fields of OBJ_GET_INFO_BY_FD (maps and programs from 4.13, BTF from 4.18, links from 5.8).

    Args:
        fd: The object.
        kind: "map", "prog", "btf" or "link".

    Returns:
        The fields that this kernel fills, by name; for a program also map_ids (from 4.15).

    Raises:
        OSError: The kernel refused.
    """
    data = bytearray(_INFO_ROOM)
    _, attr = _checked("OBJ_GET_INFO_BY_FD", {"bpf_fd": fd, "info_len": len(data), "info": data})
    (known,) = struct.unpack_from("=I", attr, 4)
    found: dict[str, Any] = {}
    for field, form, offset in INFO[kind]:
        if offset + size_of(form) <= known:
            (found[field],) = struct.unpack_from("=" + form, data, offset)
    if "name" in found:
        found["name"] = found["name"].rstrip(b"\0").decode(errors="replace")
    if kind == "prog" and "nr_map_ids" in found:
        found["map_ids"] = _prog_map_ids(fd, found["nr_map_ids"])
        # A bit field: the first of the 32 bits is the lowest one in little-endian order, the highest one in big-endian.
        first = 0 if sys.byteorder == "little" else 31
        found["gpl_compatible"] = found.get("gpl_compatible", 0) >> first & 1
    if kind == "link":
        found["detail"] = bytes(data[16:known])
    return found


def _prog_map_ids(fd: int, count: int) -> list[int]:
    ids = bytearray(4 * max(count, 1))
    held = (ctypes.c_char * len(ids)).from_buffer(ids)
    data = bytearray(_INFO_ROOM)
    struct.pack_into("=IQ", data, _PROG_MAP_IDS - 4, count, ctypes.addressof(held))
    _checked("OBJ_GET_INFO_BY_FD", {"bpf_fd": fd, "info_len": len(data), "info": data})
    return list(struct.unpack(f"={count}I", ids[: 4 * count]))


def translated(fd: int) -> bytes:
    """Return a program's instructions after verification (4.13 and later).

    Raises:
        OSError: The kernel refused.
        PermissionError: The kernel shows them only to users who may see its addresses.
    """
    size = info(fd, "prog")["xlated_prog_len"]
    code = bytearray(size)
    held = (ctypes.c_char * size).from_buffer(code)
    data = bytearray(_INFO_ROOM)
    struct.pack_into("=I", data, _PROG_XLATED_LEN, size)
    struct.pack_into("=Q", data, _PROG_XLATED, ctypes.addressof(held))
    _checked("OBJ_GET_INFO_BY_FD", {"bpf_fd": fd, "info_len": len(data), "info": data})
    if not struct.unpack_from("=Q", data, _PROG_XLATED)[0]:
        raise PermissionError(1, "this kernel does not show the instructions of a program to this user")
    del held
    return bytes(code)


def map_info(fd: int) -> dict[str, Any]:
    """Return the fields of struct bpf_map_info that this kernel fills (4.13 and later)."""
    return info(fd, "map")


def map_fd_by_id(map_id: int, open_flags: int = 0) -> int:
    """Return a new file descriptor for the map with this id (4.13 and later)."""
    return command("MAP_GET_FD_BY_ID", id=map_id, open_flags=open_flags)


def next_id(kind: str, start: int) -> int:
    """Return the id after `start` of the kind "map", "prog", "btf" or "link"; ENOENT at the end."""
    _, attr = _checked(f"{kind.upper()}_GET_NEXT_ID", {"start_id": start})
    return int(struct.unpack_from("=I", attr, 4)[0])


def ids(kind: str, after: int = 0) -> list[int]:
    """Return all ids of the kind "map", "prog", "btf" or "link" that are larger than `after`, in order.

    Raises:
        OSError: EINVAL when the kernel lacks the command (maps and programs before 4.13, BTF before 5.4, links before
            5.8).
    """
    command_name = f"{kind.upper()}_GET_NEXT_ID"
    attr = bytearray(after.to_bytes(12, sys.byteorder))
    at = ctypes.addressof(ctypes.c_char.from_buffer(attr))
    found: list[int] = []
    while syscalls.bpf(COMMANDS[command_name][0], at, len(attr)) == 0:
        attr[0:4] = attr[4:8]
        found.append(int.from_bytes(attr[4:8], sys.byteorder))
    error = ctypes.get_errno()
    if error != 2:
        raise OSError(error, f"BPF_{command_name}: {os.strerror(error)}")
    return found


_SETTLED_ROUNDS, _SETTLE_PAUSE, _SETTLE_LONGEST = 20, 0.005, 20.0
_MEMBARRIER_CMD_GLOBAL = 1
_membarrier = syscalls.system_call("membarrier", ctypes.c_int, ctypes.c_uint)


def settle() -> int:
    """Wait until no map, program or link has appeared or gone for a while: the kernel frees them later.

    Returns:
        Milliseconds that it took.

    Raises:
        OSError: ETIMEDOUT when they have not stopped changing for 20 s.
    """
    started = time.monotonic()
    before, quiet = _all_ids(), 0
    while quiet < _SETTLED_ROUNDS:
        if time.monotonic() - started > _SETTLE_LONGEST:
            raise OSError(110, "the kernel's maps, programs and links did not stop changing")
        _membarrier(_MEMBARRIER_CMD_GLOBAL, 0)  # waits for a grace period, where there are several CPUs
        time.sleep(_SETTLE_PAUSE)
        now = _all_ids()
        quiet = quiet + 1 if now == before else 0
        before = now
    return int((time.monotonic() - started) * 1000)


def _all_ids() -> dict[str, list[int]]:
    found = {}
    for kind in ("map", "prog", "link"):
        try:
            found[kind] = ids(kind)
        except OSError:
            continue  # this kernel has no ids for this kind
    return found


def obj_pin(fd: int, path: str) -> None:
    """Pin an object in a bpf file system."""
    command("OBJ_PIN", pathname=path, bpf_fd=fd)


def obj_get(path: str, file_flags: int = 0) -> int:
    """Open a pinned object."""
    return command("OBJ_GET", pathname=path, file_flags=file_flags)
