"""Which maps go into an outer map: what is compared with the template, and what is not."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.inner import with_type
from harness.contracts.scene import Scene
from harness.features import map_types
from harness.testing import BpfError, Map, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")


def insert(scene: Scene, inner: Map, template: Map) -> str:
    """Insert a map into an outer map with this template; return "ok" or the errno's name."""
    outer = scene.map_once(scene.type, inner=template)
    answer = errno_of(outer.update, 0, inner)
    if answer == "ok":  # tests share the outer map, and some kernels leak what is replaced
        outer.delete(0)
    return answer


# Attributes.

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


@pytest.mark.contract("insert.difference")
def test_an_inner_map_differs_from_the_template(scene: Scene, case: str, observe: Observe) -> None:
    template, changes = DIFFERENCES[case]
    observe(insert(scene, scene.map_once(**{**template, **changes}), scene.map_once(**template)))


@pytest.mark.contract("insert.max_entries")
def test_an_inner_map_has_more_elements(scene: Scene, case: str, observe: Observe) -> None:
    def inserted(template: Map) -> str:
        more = map_types.create(scene.bpf, case, max_entries=2 * map_types.MAP_TYPES[case].max_entries)
        return insert(scene, more, template)

    observe(with_type(scene.bpf, scene.kernel, case, inserted))


@pytest.mark.contract("insert.same_type")
def test_an_inner_map_is_like_the_template(scene: Scene, case: str, observe: Observe) -> None:
    def inserted(template: Map) -> str:
        return insert(scene, map_types.create(scene.bpf, case), template)

    observe(with_type(scene.bpf, scene.kernel, case, inserted))


@pytest.fixture
def of_every_type(scene: Scene) -> dict[str, Map]:
    """A map of every type that the kernel has."""
    maps = {}
    for name in map_types.MAP_TYPES:
        with contextlib.suppress(BpfError):  # whether the kernel should have this type is asked elsewhere
            maps[name] = scene.once(map_types.create, name)
    return maps


@pytest.mark.contract("insert.other_types")
def test_an_inner_map_is_of_another_type(
    scene: Scene, of_every_type: dict[str, Map], case: str, observe: Observe
) -> None:
    template = of_every_type[case]
    taken = [name for name, inner in of_every_type.items() if insert(scene, inner, template) == "ok"]
    assert len(taken) < len(of_every_type), "no map of another type could be created"
    observe(taken)


# BTF: what the template's values begin with, and the inner map's.


def with_btf(scene: Scene, value: str, size: int) -> Map:
    if value == "bytes":
        return scene.bpf.map("hash", value_size=size)
    if value != "integer":
        return map_types.with_struct(scene.bpf, value)
    ids: dict[str, Any] = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
    return scene.bpf.map("hash", value_size=size, btf_fd=scene.bpf.btf(map_types.INTEGERS), **ids)


def insert_with_btf(scene: Scene, case: str, size: int) -> str:
    value, _, of_template = case.partition("_into_")
    return insert(scene, with_btf(scene, value, size), with_btf(scene, of_template, size))


@pytest.mark.contract("insert.special_value")
def test_the_values_are_structs_that_begin_specially(scene: Scene, case: str, observe: Observe) -> None:
    observe(insert_with_btf(scene, case, map_types.STRUCT_SIZE))


@pytest.mark.contract("insert.integer_btf")
def test_the_values_are_integers(scene: Scene, case: str, observe: Observe) -> None:
    observe(insert_with_btf(scene, case, 8))


# The inner map's state, and its descriptor's.


@pytest.mark.contract("insert.access")
def test_an_inner_map_created_for_reading_or_writing_alone(scene: Scene, case: str, observe: Observe) -> None:
    flags = {"rdonly": uapi.RDONLY, "wronly": uapi.WRONLY}[case]
    observe(insert(scene, scene.like_template(map_flags=flags), scene.template))


@pytest.mark.contract("insert.reopened_rdonly")
def test_an_inner_map_reopened_for_reading(scene: Scene, observe: Observe) -> None:
    again = scene.bpf.map_by_id(scene.inner.id, open_flags=uapi.RDONLY, like=scene.inner)
    observe(insert(scene, again, scene.template))


@pytest.mark.contract("insert.frozen")
def test_a_frozen_inner_map(scene: Scene, observe: Observe) -> None:
    inner = scene.like_template()
    inner.freeze()
    observe(insert(scene, inner, scene.template))


@pytest.mark.contract("insert.exclusive")
def test_an_exclusive_inner_map(scene: Scene, observe: Observe) -> None:
    observe(insert(scene, scene.like_template(excl_prog_hash=bytes(32), excl_prog_hash_size=32), scene.template))


@pytest.mark.contract("insert.template")
def test_a_template_may_be_an_inner_map(scene: Scene, observe: Observe) -> None:
    observe(insert(scene, scene.template, scene.template))


# What a refusal leaves behind.


def refused(scene: Scene) -> tuple[Map, Map]:
    """Return an outer map whose element 0 is :attr:`Scene.inner`, and a map that it has just refused to take."""
    outer, other = scene.holding(), scene.like_template(key_size=8)
    assert errno_of(outer.update, 0, other) == "EINVAL"
    return outer, other


@pytest.mark.contract("insert.refused_keeps_element")
def test_a_refusal_keeps_the_element(scene: Scene, observe: Observe) -> None:
    outer, _ = refused(scene)
    observe(outer.lookup(0) == scene.inner.id)


@pytest.mark.contract("insert.refused_takes_no_reference")
def test_a_refusal_takes_no_reference(scene: Scene, observe: Observe) -> None:
    _, other = refused(scene)
    gone = other.id
    other.close()
    observe(errno_of(scene.bpf.map_by_id, gone, like=other))


@pytest.mark.contract("insert.refused_leaves_slot_empty")
def test_a_refusal_leaves_an_empty_slot_empty(scene: Scene, observe: Observe) -> None:
    outer = scene.empty()
    assert errno_of(outer.update, 0, scene.like_template(key_size=8)) == "EINVAL"
    observe(errno_of(outer.delete, 0))
