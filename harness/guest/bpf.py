"""The raw loader: bpf(2) through ctypes, one function per command, nothing between the caller and the kernel.

A failed command raises OSError with the kernel's errno, unchanged (ENOTSUPP, 524, has no libc name). Nothing is
retried and nothing is probed first: what the kernel answers is what the caller sees.

Runs in the guest. Imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Field = int | bytes | bytearray | None

SYS_BPF = 321  # x86-64

MAP_TYPES = {
    name: number
    for number, name in enumerate(
        "unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
        "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
        "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
        "task_storage bloom_filter user_ringbuf cgrp_storage arena insn_array rhash".split()
    )
}

BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 0, 1, 2, 4

# Each command: its number, and its part of union bpf_attr as (field, format, offset). Format P is a pointer: the
# caller gives bytes (the kernel reads a copy) or a bytearray (the kernel reads and writes it in place).
_ELEMENT = (("map_fd", "I", 0), ("key", "P", 8), ("value", "P", 16), ("flags", "Q", 24))
_NEXT_ID = (("start_id", "I", 0), ("next_id", "I", 4), ("open_flags", "I", 8))
_BY_ID = (("id", "I", 0), ("next_id", "I", 4), ("open_flags", "I", 8))
_OBJ = (("pathname", "P", 0), ("bpf_fd", "I", 8), ("file_flags", "I", 12))
COMMANDS: dict[str, tuple[int, tuple[tuple[str, str, int], ...]]] = {
    "MAP_CREATE": (
        0,
        (
            ("map_type", "I", 0),
            ("key_size", "I", 4),
            ("value_size", "I", 8),
            ("max_entries", "I", 12),
            ("map_flags", "I", 16),
            ("inner_map_fd", "I", 20),
            ("numa_node", "I", 24),
            ("map_name", "16s", 28),
            ("map_ifindex", "I", 44),
            ("btf_fd", "I", 48),
            ("btf_key_type_id", "I", 52),
            ("btf_value_type_id", "I", 56),
            ("btf_vmlinux_value_type_id", "I", 60),
            ("map_extra", "Q", 64),
            ("value_type_btf_obj_fd", "I", 72),
            ("map_token_fd", "I", 76),
            ("excl_prog_hash", "P", 80),
            ("excl_prog_hash_size", "I", 88),
        ),
    ),
    "MAP_LOOKUP_ELEM": (1, _ELEMENT),
    "MAP_UPDATE_ELEM": (2, _ELEMENT),
    "MAP_DELETE_ELEM": (3, _ELEMENT),
    "MAP_GET_NEXT_KEY": (4, (("map_fd", "I", 0), ("key", "P", 8), ("next_key", "P", 16))),
    "OBJ_PIN": (6, _OBJ),
    "OBJ_GET": (7, _OBJ),
    "PROG_GET_NEXT_ID": (11, _NEXT_ID),
    "MAP_GET_NEXT_ID": (12, _NEXT_ID),
    "PROG_GET_FD_BY_ID": (13, _BY_ID),
    "MAP_GET_FD_BY_ID": (14, _BY_ID),
    "OBJ_GET_INFO_BY_FD": (15, (("bpf_fd", "I", 0), ("info_len", "I", 4), ("info", "P", 8))),
    "MAP_LOOKUP_AND_DELETE_ELEM": (21, _ELEMENT),
    "MAP_FREEZE": (22, (("map_fd", "I", 0),)),
    "BTF_GET_NEXT_ID": (23, _NEXT_ID),
    "LINK_GET_NEXT_ID": (31, _NEXT_ID),
}

# struct bpf_map_info, the fields that exist on every kernel that has the command (4.13) come first; what a kernel
# does not know it leaves out of info_len.
_MAP_INFO = (
    ("type", "I", 0),
    ("id", "I", 4),
    ("key_size", "I", 8),
    ("value_size", "I", 12),
    ("max_entries", "I", 16),
    ("map_flags", "I", 20),
    ("name", "16s", 24),
    ("ifindex", "I", 40),
    ("btf_id", "I", 64),
    ("btf_key_type_id", "I", 68),
    ("btf_value_type_id", "I", 72),
    ("map_extra", "Q", 80),
)

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)


def command(name: str, *, tail: bytes = b"", **fields: Field) -> int:
    """Issue one bpf(2) command.

    Args:
        name: Its name without the BPF_ prefix.
        tail: Bytes that follow the last known field of the command, to test what a kernel does with them.
        **fields: Fields of union bpf_attr; those not named are zero. None stands for a null pointer.

    Returns:
        What the system call returned: 0 or a file descriptor.

    Raises:
        OSError: The command failed; errno is the kernel's.
    """
    return _issue(name, tail, fields)[0]


def _issue(name: str, tail: bytes, fields: dict[str, Field]) -> tuple[int, ctypes.Array[ctypes.c_char]]:
    number, layout = COMMANDS[name]
    _, form, offset = layout[-1]
    size = offset + struct.calcsize("Q" if form == "P" else form)
    attr = ctypes.create_string_buffer(bytes(size) + tail, size + len(tail))
    unknown = set(fields).difference(field for field, _, _ in layout)
    if unknown:
        raise ValueError(
            f"{name} has no field {', '.join(sorted(unknown))}; it has {', '.join(f for f, _, _ in layout)}"
        )
    keep: list[object] = []
    for field, form, offset in layout:
        value = fields.get(field)
        if value is None:
            continue
        if form != "P":
            struct.pack_into(
                "<" + form, attr, offset, value & 0xFFFFFFFF if form == "I" and isinstance(value, int) else value
            )
            continue
        if isinstance(value, int):
            address = value
        elif isinstance(value, bytearray):
            held = (ctypes.c_char * len(value)).from_buffer(value)
            keep.append(held)
            address = ctypes.addressof(held)
        else:
            copy = ctypes.create_string_buffer(value, len(value))
            keep.append(copy)
            address = ctypes.addressof(copy)
        struct.pack_into("<Q", attr, offset, address)
    result = _syscall(SYS_BPF, number, ctypes.addressof(attr), len(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"BPF_{name}: {os.strerror(code)}")
    return result, attr


def map_create(map_type: str | int, key_size: int, value_size: int, max_entries: int, **attributes: Any) -> int:
    """Create a map and return its file descriptor.

    Args:
        map_type: A name of MAP_TYPES, or a number.
        key_size: Bytes.
        value_size: Bytes.
        max_entries: Elements.
        **attributes: Further fields of the MAP_CREATE part of union bpf_attr: map_flags, inner_map_fd, map_name ...

    Raises:
        OSError: The kernel refused; errno is its own.
        ValueError: No such map type or attribute.
    """
    if isinstance(map_type, str):
        if map_type not in MAP_TYPES:
            raise ValueError(f"no map type {map_type!r}; known are {', '.join(MAP_TYPES)}")
        map_type = MAP_TYPES[map_type]
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


def map_freeze(fd: int) -> None:
    """Make the map read-only for user space (5.2 and later)."""
    command("MAP_FREEZE", map_fd=fd)


def map_info(fd: int) -> dict[str, Any]:
    """Return the fields of struct bpf_map_info that this kernel fills (4.13 and later)."""
    info = bytearray(128)
    _, attr = _issue("OBJ_GET_INFO_BY_FD", b"", {"bpf_fd": fd, "info_len": len(info), "info": info})
    (known,) = struct.unpack_from("<I", attr, 4)
    found: dict[str, Any] = {}
    for field, form, offset in _MAP_INFO:
        if offset + struct.calcsize(form) <= known:
            (found[field],) = struct.unpack_from("<" + form, info, offset)
    if "name" in found:
        found["name"] = found["name"].rstrip(b"\0").decode(errors="replace")
    return found


def map_fd_by_id(map_id: int, open_flags: int = 0) -> int:
    """Return a new file descriptor for the map with this id (4.13 and later)."""
    return command("MAP_GET_FD_BY_ID", id=map_id, open_flags=open_flags)


def next_id(kind: str, start: int) -> int:
    """Return the id after `start` of the kind "map", "prog", "btf" or "link"; ENOENT at the end."""
    _, attr = _issue(f"{kind.upper()}_GET_NEXT_ID", b"", {"start_id": start})
    return int(struct.unpack_from("<I", attr, 4)[0])


def ids(kind: str) -> list[int]:
    """Return every live id of the kind "map", "prog", "btf" or "link", in order.

    Raises:
        OSError: EINVAL where the kernel lacks the command (maps and programs before 4.13, BTF before 5.1, links before
            5.8).
    """
    found: list[int] = []
    while True:
        try:
            found.append(next_id(kind, found[-1] if found else 0))
        except OSError as error:
            if error.errno == 2:
                return found
            raise


def obj_pin(fd: int, path: str) -> None:
    """Pin an object below a bpf file system."""
    command("OBJ_PIN", pathname=path.encode() + b"\0", bpf_fd=fd)


def obj_get(path: str, file_flags: int = 0) -> int:
    """Open a pinned object."""
    return command("OBJ_GET", pathname=path.encode() + b"\0", file_flags=file_flags)
