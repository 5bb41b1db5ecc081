"""Which maps go into an outer map: what is compared with the template, and what is not."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.contracts.inner import with_type
from harness.contracts.scene import Answers, Questions, Scene
from harness.features import map_types
from harness.testing import BpfError, Map, errno_of, uapi

HASH = {"type": "hash", "key_size": 4, "value_size": 4, "max_entries": 8}

# What the template is, and in what the inner map differs from it.
DIFFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": (HASH, {}),
    "map_type": (HASH, {"type": "array"}),
    "map_type_lru": (HASH, {"type": "lru_hash"}),
    "map_type_percpu": (HASH, {"type": "percpu_hash"}),
    "key_size": (HASH, {"key_size": 8}),
    "value_size": (HASH, {"value_size": 8}),
    "smaller_value": (HASH, {"value_size": 2}),
    "smaller_key": (HASH, {"key_size": 2}),
    "no_prealloc": (HASH, {"map_flags": uapi.NO_PREALLOC}),
    "no_prealloc_in_template": ({**HASH, "map_flags": uapi.NO_PREALLOC}, {"map_flags": 0}),
    "no_common_lru": ({**HASH, "type": "lru_hash"}, {"map_flags": uapi.NO_COMMON_LRU}),
    "numa_node": (HASH, {"map_flags": uapi.NUMA_NODE}),
    "zero_seed": (HASH, {"map_flags": uapi.ZERO_SEED}),
    "rdonly_prog": (HASH, {"map_flags": uapi.RDONLY_PROG}),
    "wronly_prog": (HASH, {"map_flags": uapi.WRONLY_PROG}),
    "mmapable": ({**HASH, "type": "array"}, {"map_flags": uapi.MMAPABLE}),
    "preserve_elems": ({**HASH, "type": "perf_event_array"}, {"map_flags": uapi.PRESERVE_ELEMS}),
    "inner_map": ({**HASH, "type": "array"}, {"map_flags": uapi.INNER_MAP}),
    "inner_map_in_template": ({**HASH, "type": "array", "map_flags": uapi.INNER_MAP}, {"map_flags": 0}),
    "name": (HASH, {"name": "another"}),
    "bloom_hashes": (
        {"type": "bloom_filter", "key_size": 0, "value_size": 4, "max_entries": 8, "map_extra": 2},
        {"map_extra": 5},
    ),
    "fewer_elements": (HASH, {"max_entries": 1}),
    "array_fewer_elements": ({**HASH, "type": "array"}, {"max_entries": 4}),
    "inner_map_more_elements": ({**HASH, "type": "array", "map_flags": uapi.INNER_MAP}, {"max_entries": 64}),
    "inner_map_fewer_elements": ({**HASH, "type": "array", "map_flags": uapi.INNER_MAP}, {"max_entries": 1}),
    "inner_map_value_size": ({**HASH, "type": "array", "map_flags": uapi.INNER_MAP}, {"value_size": 8}),
}


DIFFERENT = Questions()


@DIFFERENT.of("insert.difference")
def difference(scene: Scene) -> Answers:
    @functools.cache
    def made(*attributes: tuple[str, Any]) -> Map:
        return scene.bpf.map(**dict(attributes))

    @functools.cache
    def outer(*template: tuple[str, Any]) -> Map:
        return scene.bpf.map(scene.type, inner=made(*template))

    def answer(contract: Contract) -> str:
        template, changes = DIFFERENCES[contract.case]
        return errno_of(outer(*template.items()).update, 0, made(*{**template, **changes}.items()))

    return answer


@DIFFERENT.of("insert.max_entries")
def more_elements(scene: Scene) -> Answers:
    bpf, kernel = scene.bpf, scene.kernel

    def answer(contract: Contract) -> str:
        more = 2 * map_types.MAP_TYPES[contract.case].max_entries

        def inserted(template: Map) -> str:
            inner = map_types.create(bpf, contract.case, max_entries=more)
            return errno_of(bpf.map(contract.outer, inner=template).update, 0, inner)

        return with_type(bpf, kernel, contract.case, inserted)

    return answer


@DIFFERENT.of("insert.same_type")
def same_type(scene: Scene) -> Answers:
    bpf, kernel = scene.bpf, scene.kernel

    def answer(contract: Contract) -> str:
        def inserted(template: Map) -> str:
            inner = map_types.create(bpf, contract.case)
            return errno_of(bpf.map(contract.outer, inner=template).update, 0, inner)

        return with_type(bpf, kernel, contract.case, inserted)

    return answer


@DIFFERENT.of("insert.other_types")
def other_types(scene: Scene) -> Answers:
    inners = {}
    for name in map_types.MAP_TYPES:
        with contextlib.suppress(BpfError):  # whether the kernel should have this type is asked elsewhere
            inners[name] = map_types.create(scene.bpf, name)

    def answer(contract: Contract) -> object:
        outer = scene.bpf.map(scene.type, inner=inners[contract.case])
        taken = [name for name, inner in inners.items() if errno_of(outer.update, 0, inner) == "ok"]
        assert len(taken) < len(inners), "no map of another type could be created"
        return taken

    return answer


@pytest.mark.contract(*DIFFERENT.names, together=True)
def test_maps_that_differ_from_the_template(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(DIFFERENT.on(scene))


# BTF: what the template's values begin with, and the inner map's.


INSERTED = Questions()


@INSERTED.of("insert.special_value", "insert.integer_btf")
def values_with_btf(scene: Scene) -> Answers:
    bpf = scene.bpf

    def made(value: str, size: int) -> Map:
        if value == "bytes":
            return bpf.map("hash", value_size=size)
        if value != "integer":
            return map_types.with_struct(bpf, value)
        ids: dict[str, Any] = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
        return bpf.map("hash", value_size=size, btf_fd=bpf.btf(map_types.INTEGERS), **ids)

    # Two maps of each, so that the inner map is not the template.
    inner_map = functools.cache(made)
    outer_map = functools.cache(lambda template, size: bpf.map(scene.type, inner=made(template, size)))

    def answer(contract: Contract) -> str:
        inner, _, template = contract.case.partition("_into_")
        size = map_types.STRUCT_SIZE if contract.name == "insert.special_value" else 8
        return errno_of(outer_map(template, size).update, 0, inner_map(inner, size))

    return answer


# The inner map's state, and its descriptor's.


@INSERTED.of("insert.access", "insert.reopened_rdonly", "insert.frozen", "insert.exclusive", "insert.template")
def state(scene: Scene) -> Answers:
    bpf = scene.bpf

    def answer(contract: Contract) -> str:
        template = bpf.map("hash")
        outer = bpf.map(contract.outer, inner=template)
        match contract.name.removeprefix("insert."):
            case "access":
                inner = bpf.map("hash", map_flags={"rdonly": uapi.RDONLY, "wronly": uapi.WRONLY}[contract.case])
            case "reopened_rdonly":
                plain = bpf.map("hash")
                inner = bpf.map_by_id(plain.id, open_flags=uapi.RDONLY, like=plain)
            case "frozen":
                inner = bpf.map("hash")
                inner.freeze()
            case "exclusive":
                inner = bpf.map("hash", excl_prog_hash=bytes(32), excl_prog_hash_size=32)
            case _:
                inner = template
        return errno_of(outer.update, 0, inner)

    return answer


# What a refusal leaves behind.


@INSERTED.of("insert.refused_keeps_element", "insert.refused_takes_no_reference")
def refused(scene: Scene) -> Answers:
    bpf = scene.bpf

    def answer(contract: Contract) -> object:
        outer = bpf.map(contract.outer, inner=bpf.map("hash"))
        kept, other = bpf.map("hash"), bpf.map("hash", key_size=8)
        outer.update(0, kept)
        assert errno_of(outer.update, 0, other) == "EINVAL"
        if contract.name == "insert.refused_keeps_element":
            return outer.lookup(0) == kept.id
        gone = other.id
        other.close()
        return errno_of(bpf.map_by_id, gone, like=other)

    return answer


@INSERTED.of("insert.refused_leaves_slot_empty")
def refused_into_an_empty_slot(scene: Scene) -> Answers:
    bpf = scene.bpf

    def answer(contract: Contract) -> object:
        outer = bpf.map(contract.outer, inner=bpf.map("hash"))
        assert errno_of(outer.update, 0, bpf.map("hash", key_size=8)) == "EINVAL"
        return errno_of(outer.delete, 0)

    return answer


@pytest.mark.contract(*INSERTED.names, together=True)
def test_what_an_insertion_takes(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(INSERTED.on(scene))
