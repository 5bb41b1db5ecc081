"""The first contracts of map-in-map: what HASH_OF_MAPS and ARRAY_OF_MAPS promise on every kernel since v4.12."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT
from pathlib import Path

import pytest

from harness.guest import bpf as raw
from harness.testing import ENOTSUPP, Bpf, Guest, Map, raises_errno

OUTERS = ("hash_of_maps", "array_of_maps")

ROUNDS = 1000

# Linux kernel commit bd5f5f4ecb78 ("bpf: Add BPF_MAP_GET_FD_BY_ID") and its neighbours (in v4.13), with which a lookup
# in an outer map came to answer with the inner map's id.
needs_ids = pytest.mark.kernel(">=4.13")


@pytest.fixture(params=OUTERS)
def outer_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def template(bpf: Bpf) -> Map:
    return bpf.map("hash", key_size=4, value_size=4, max_entries=8)


@pytest.fixture
def outer(bpf: Bpf, outer_kind: str, template: Map) -> Map:
    return bpf.map(outer_kind, max_entries=16, inner=template)


def test_value_size_is_four(bpf: Bpf, outer_kind: str, template: Map) -> None:
    outer = bpf.map(outer_kind, value_size=4, inner=template)
    outer[0] = template


@needs_ids
def test_the_kernel_reports_a_value_size_of_four(bpf: Bpf, outer: Map) -> None:
    assert outer.info()["value_size"] == 4


@pytest.mark.parametrize("value_size", [0, 2, 8])
def test_any_other_value_size_is_refused(bpf: Bpf, outer_kind: str, template: Map, value_size: int) -> None:
    with raises_errno(EINVAL):
        bpf.map(outer_kind, value_size=value_size, inner=template)


@needs_ids
def test_update_takes_an_fd_and_lookup_returns_the_id(bpf: Bpf, outer: Map) -> None:
    inner = bpf.map("hash", key_size=4, value_size=4, max_entries=8)
    outer[7] = inner
    assert outer.lookup(7) == inner.id
    assert inner.id != inner.fd


@pytest.mark.kernel("<4.13")
def test_before_there_were_ids_an_outer_map_cannot_be_looked_up(bpf: Bpf, outer: Map) -> None:
    outer[7] = bpf.map("hash", key_size=4, value_size=4, max_entries=8)
    with raises_errno(ENOTSUPP):
        outer.lookup(7)


@pytest.mark.parametrize(
    "mismatch",
    [
        pytest.param({"type": "array"}, id="type"),
        pytest.param({"key_size": 8}, id="key_size"),
        pytest.param({"value_size": 8}, id="value_size"),
        pytest.param({"map_flags": 1}, id="map_flags"),
    ],
)
def test_an_inner_map_unlike_the_template_is_refused(bpf: Bpf, outer: Map, mismatch: dict[str, object]) -> None:
    like: dict[str, object] = {"type": "hash", "key_size": 4, "value_size": 4, "max_entries": 8}
    inner = bpf.map(**{**like, **mismatch})  # type: ignore[arg-type]
    with raises_errno(EINVAL):
        outer[7] = inner
    # The slot is as empty as it was; a lookup would need ids.
    with raises_errno(ENOENT):
        outer.delete(7)


def test_an_outer_map_is_no_inner_map(bpf: Bpf, outer: Map, outer_kind: str) -> None:
    with raises_errno(EINVAL):
        bpf.map(outer_kind, inner=outer)


@needs_ids
def test_an_inner_map_lives_while_the_outer_map_holds_it(bpf: Bpf, outer: Map) -> None:
    inner = bpf.map("hash", key_size=4, value_size=4, max_entries=8)
    inner[1] = 41
    outer[7] = inner
    inner_id = inner.id
    inner.close()
    with bpf.map_by_id(outer.lookup(7), like=inner) as reopened:
        assert reopened.lookup(1) == 41
    outer.delete(7)
    with raises_errno(ENOENT):
        bpf.map_by_id(inner_id, like=inner)


def churn(outer_kind: str, rounds: int, with_ids: bool) -> dict[str, list[list[int]]]:
    """Insert and delete fresh inner maps; return the live map ids and the open fds before and after."""
    # Updates and deletes wait for an RCU grace period from 4.19 on; how long it takes is not what is asserted.
    Path("/sys/kernel/rcu_expedited").write_text("1")
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create(outer_kind, 4, 4, 16, inner_map_fd=template)
    os.close(template)
    observed: dict[str, list[list[int]]] = {"ids": [], "fds": []}
    for last in (False, True):
        if with_ids:
            observed["ids"].append(raw.ids("map"))
        observed["fds"].append(sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()))
        if last:
            os.close(outer)
            return observed
        for number in range(rounds):
            key = (number % 16).to_bytes(4, "little")
            inner = raw.map_create("hash", 4, 4, 8)
            raw.map_update(outer, key, inner.to_bytes(4, "little"))
            os.close(inner)
            raw.map_delete(outer, key)
    return observed


def test_a_thousand_rounds_leave_no_fd_behind(guest: Guest, outer_kind: str) -> None:
    before, after = guest.call(churn, outer_kind, ROUNDS, with_ids=False, timeout=120)["fds"]
    assert after == before


@needs_ids
def test_a_thousand_rounds_leave_no_map_id_behind(guest: Guest, outer_kind: str) -> None:
    before, after = guest.call(churn, outer_kind, ROUNDS, with_ids=True, timeout=120)["ids"]
    assert after == before
