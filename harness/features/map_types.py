"""Map types: the version that introduced each, and the attributes to create a small map.

This module has the data and the creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.guest.api import btf, uapi
from harness.remote.bpf import Bpf
from harness.remote.map import Map

KEY_TYPE, VALUE_TYPE = 1, 2
"""Numbers of the two types of :data:`INTEGERS`."""

INTEGERS = (btf.integer("int", 4, btf.SIGNED), btf.integer("long", 8))
"""The types of an integer key of four bytes and of an integer value of eight."""

STRUCT_TYPE, STRUCT_SIZE = 4, 24
"""Number and size in bytes of the value's type in :func:`struct_types`."""

SPECIAL = {"plain": 8, "bpf_spin_lock": 4, "bpf_res_spin_lock": 4, "bpf_timer": 16, "bpf_wq": 16, "bpf_task_work": 8}
"""Structs that a value may begin with, and their sizes in bytes. All but the first are special to the kernel."""


@dataclass(frozen=True)
class MapType:
    """A type of map.

    Attributes:
        since: The first mainline version that has it.
        origin: The kernel commit that introduced it.
        fields: Attributes of BPF_MAP_CREATE other than four bytes of key, four of value and one element.
        config: The configuration symbols that it needs, on some releases at least; "" for none.
        btf: Whether it must be created with BTF, such as :data:`INTEGERS`.
        by_architecture: Whether kernels of some architectures refuse it.
    """

    since: str
    origin: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    btf: bool = False
    by_architecture: bool = False

    @property
    def max_entries(self) -> int:
        """Elements of a small map; a larger map has twice as many."""
        return int(self.fields.get("max_entries", 1))


RING_SIZE = 1 << 16
"""Bytes of a small ring buffer: a multiple of the kernel's page size, whatever that is."""

_KEYLESS = {"key_size": 0}
_PAGES = {"key_size": 0, "value_size": 0, "max_entries": RING_SIZE}
_STORAGE = {"value_size": 8, "max_entries": 0, "map_flags": uapi.NO_PREALLOC}
_CGROUP = {"key_size": 16, "value_size": 8, "max_entries": 0}
_SOCKETS = "INET BPF_STREAM_PARSER"  # in bpf_types.h of v5.15 the first alone

MAP_TYPES: dict[str, MapType] = {
    "hash": MapType("3.19", "commit 0f8e4bd8a1fc"),
    "array": MapType("3.19", "commit 28fbcfa08d8e"),
    "prog_array": MapType("4.2", "commit 04fd61ab36ec"),
    "perf_event_array": MapType("4.3", "commit ea317b267e9d"),
    "percpu_hash": MapType("4.6", "commit 824bd0ce6c7c"),
    "percpu_array": MapType("4.6", "commit a10423b87a7e"),
    "stack_trace": MapType("4.6", "commit d5a3b1f69186", {"value_size": 64}, "PERF_EVENTS"),
    "cgroup_array": MapType("4.8", "commit 4ed8ec521ed5", config="CGROUPS"),
    "lru_hash": MapType("4.10", "commit 29ba732acbee"),
    "lru_percpu_hash": MapType("4.10", "commit 8f8449384ec3"),
    "lpm_trie": MapType("4.11", "commit b95a5c4db09b", {"key_size": 8, "map_flags": uapi.NO_PREALLOC}),
    "devmap": MapType("4.14", "commit 546ac1ffb70d", config="NET"),
    "sockmap": MapType("4.14", "commit 174a79ff9515", config=_SOCKETS),
    "cpumap": MapType("4.15", "commit 6710e1126934", config="NET"),
    "xskmap": MapType("4.18", "commit fbfc504a24f5", config="XDP_SOCKETS"),
    "sockhash": MapType("4.18", "commit 81110384441a", config=_SOCKETS),
    "cgroup_storage": MapType("4.19", "commit de9cbbaadba5", _CGROUP, "CGROUP_BPF"),
    "reuseport_sockarray": MapType("4.19", "commit 5dc4c4b7d4e8", {"value_size": 8}, "INET"),
    "percpu_cgroup_storage": MapType("4.20", "commit b741f1630346", _CGROUP, "CGROUP_BPF"),
    "queue": MapType("4.20", "commit f1a2e44a3aec", _KEYLESS),
    "stack": MapType("4.20", "commit f1a2e44a3aec", _KEYLESS),
    "sk_storage": MapType("5.2", "commit 6ac99e8f23d4", _STORAGE, "NET", btf=True),
    "devmap_hash": MapType("5.4", "commit 6f9d451ab1a3", config="NET"),
    "ringbuf": MapType("5.8", "commit 457f44363a88", _PAGES),
    "inode_storage": MapType("5.10", "commit 8ea636848aca", _STORAGE, "BPF_LSM", btf=True),
    "task_storage": MapType("5.11", "commit 4cf1bc1f1045", _STORAGE, "BPF_LSM", btf=True),  # none in v5.15
    "bloom_filter": MapType("5.16", "commit 9330986c0300", _KEYLESS),
    "user_ringbuf": MapType("6.1", "commit 583c1f420173", _PAGES),
    "cgrp_storage": MapType("6.2", "commit c4bcfb38a95e", _STORAGE, "CGROUPS", btf=True),
    "arena": MapType(
        "6.9",
        "commit 317460317a02",
        {"key_size": 0, "value_size": 0, "map_flags": uapi.MMAPABLE},
        "BPF_JIT",
        by_architecture=True,  # bpf_jit_supports_arena() in arena_map_alloc(); not yet there in v6.12
    ),
    "insn_array": MapType("6.19", "commit b4ce5923e780", {"value_size": 16}),
    "rhash": MapType("7.2", "BPF_MAP_TYPE_RHASH in include/linux/bpf_types.h", {"map_flags": uapi.NO_PREALLOC}),
}
"""Every type that can be created alone: no outer maps, which need a template, and no struct_ops, which need a type of
the kernel."""


def struct_types(special: str) -> tuple[btf.Type, ...]:
    """Return the types of an integer key and of a struct value that begins with one of :data:`SPECIAL`."""
    size = SPECIAL[special]
    parts = [(f"part_{at}", VALUE_TYPE, at) for at in range(0, size, 8)] if size >= 8 else [("part", KEY_TYPE, 0)]
    return (
        btf.integer("int", 4, btf.SIGNED),
        btf.integer("long", 8),
        btf.struct_of(special, size, *parts),
        btf.struct_of("value", STRUCT_SIZE, ("special", 3, 0), ("last", VALUE_TYPE, STRUCT_SIZE - 8)),
    )


def with_struct(bpf: Bpf, special: str, type_: str = "hash", **changes: Any) -> Map:
    """Create a map whose value is a struct that begins with one of :data:`SPECIAL`, or has no BTF for "".

    Raises:
        BpfError: The kernel refused it.
    """
    fields: dict[str, Any] = {"value_size": STRUCT_SIZE, **changes}
    if special:
        fields |= {"btf_fd": bpf.btf(struct_types(special))}
        fields |= {"btf_key_type_id": KEY_TYPE, "btf_value_type_id": STRUCT_TYPE}
    return bpf.map(type_, **fields)


def create(bpf: Bpf, type_: str, **changes: Any) -> Map:
    """Create a small map of a type.

    Args:
        bpf: The guest process that creates it.
        type_: A name of :data:`MAP_TYPES`.
        **changes: Attributes with other values.

    Raises:
        BpfError: The kernel refused it.
    """
    wanted = MAP_TYPES[type_]
    fields: dict[str, Any] = {**wanted.fields, **changes}
    if wanted.btf:
        ids = {"btf_key_type_id": KEY_TYPE, "btf_value_type_id": VALUE_TYPE}
        fields = {"btf_fd": bpf.btf(INTEGERS), **ids, **fields}
    return bpf.map(type_, **fields)
