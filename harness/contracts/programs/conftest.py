"""The maps that programs use."""

from __future__ import annotations

import pytest

from harness.contracts.scene import Scene
from harness.testing import Bpf, Map


@pytest.fixture
def bpf(scene: Scene) -> Bpf:
    """The bpf system call, in the guest process that these tests share."""
    return scene.bpf


@pytest.fixture
def template(bpf: Bpf) -> Map:
    """The outer map's template."""
    return bpf.map("hash", max_entries=8)


@pytest.fixture
def inner(bpf: Bpf) -> Map:
    """The inner map; its element 2 is 41."""
    inner = bpf.map("hash", max_entries=8)
    inner[2] = 41
    return inner


def outer_with(bpf: Bpf, type_: str, template: Map, inner: Map) -> Map:
    """Return a new outer map with the inner map at key 1."""
    outer = bpf.map(type_, max_entries=4, inner=template)
    outer[1] = inner
    return outer


@pytest.fixture
def outer(scene: Scene, bpf: Bpf, template: Map, inner: Map) -> Map:
    """The outer map; the inner map is at key 1."""
    return outer_with(bpf, scene.type, template, inner)


@pytest.fixture
def shared_outer(scene: Scene) -> Map:
    """An outer map with an inner map at key 1, the same for all tests that leave its elements as they are."""
    return scene.once(outer_with, scene.type, scene.template, scene.inner)
