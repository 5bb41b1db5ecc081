"""What libbpf makes of outer maps: it stands between most programs and the kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.scene import Scene
from harness.testing import Bpf, BpfError, BpfObject, Libbpf, errno_of

pytestmark = pytest.mark.vm(scope="module")

Build = Callable[..., Path]

INNER = """
struct inner {
    __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u32);
}"""
OUTER = "__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 4); __type(key, __u32);"
INNERS = f'{INNER} first SEC(".maps"), second SEC(".maps");'
SLOTS = 'outer SEC(".maps") = { .values = { [1] = &first, [3] = &second } };'
SOURCES = {
    "without_values": f'struct {{ {OUTER} __type(value, __u32); }} outer SEC(".maps");',
    "with_values": f'{INNER}; struct {{ {OUTER} __array(values, struct inner); }} outer SEC(".maps");',
    "no_outer": f'{INNER} outer SEC(".maps");',
    "values_in_values": f"{INNER}; struct middle {{ {OUTER} __array(values, struct inner); }};"
    f'struct {{ {OUTER} __array(values, struct middle); }} outer SEC(".maps");',
    "slots": f"{INNERS} struct {{ {OUTER} __array(values, struct inner); }} {SLOTS}",
    "pinned": f"{INNERS} struct {{ {OUTER} __uint(pinning, 1); __array(values, struct inner); }} {SLOTS}",
}


@pytest.fixture
def opened(scene: Scene, bpf_object: Build, tmp_path: Path) -> Callable[[str], BpfObject]:
    """Return a function that compiles one of the sources and opens the object with libbpf."""
    libbpf = Libbpf(scene.bpf.commands)

    def build(name: str) -> BpfObject:
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(f'#include "harness.h"\n{SOURCES[name]}\nchar LICENSE[] SEC("license") = "Dual MIT/GPL";\n')
        return libbpf.open(bpf_object(source))

    return build


@pytest.mark.contract("libbpf.set_inner_map_fd")
def test_libbpf_is_given_a_template(
    scene: Scene, opened: Callable[[str], BpfObject], case: str, observe: Observe
) -> None:
    template = scene.like_template()
    one = opened({"of_no_outer_map": "no_outer"}.get(case, "without_values"))
    if case == "second_call":
        one.set_inner_map("outer", template)
    found = errno_of(one.set_inner_map, "outer", template)
    if case == "closed_after_load":
        one.load()
        template.close()
        found = errno_of(one.map("outer").update, 0, scene.inner)
    observe(found)


@pytest.mark.contract("libbpf.load")
def test_libbpf_loads_outer_maps(opened: Callable[[str], BpfObject], case: str, observe: Observe) -> None:
    try:
        one = opened(case)
    except BpfError as error:
        observe(f"{error.name} when it is opened")
    else:
        observe(errno_of(one.load))


@pytest.mark.contract("libbpf.slots")
def test_libbpf_fills_the_slots(scene: Scene, opened: Callable[[str], BpfObject], case: str, observe: Observe) -> None:
    one = opened("pinned" if case == "reused" else "slots")
    one.load()
    if case == "reused":
        one.map("outer").delete(1)
        one = opened("pinned")
        one.load()
        scene.bpf.unpin("/sys/fs/bpf/outer")
    names = {one.map(name).id: name for name in ("first", "second")}
    outer = one.map("outer")
    observe(
        {
            str(int.from_bytes(key, scene.bpf.byte_order)): names.get(outer.lookup(key), "another")
            for key in sorted(outer)
        }
    )


@pytest.mark.contract("libbpf.map_create")
def test_libbpf_creates_an_outer_map(scene: Scene, case: str, observe: Observe) -> None:
    through = Bpf(scene.bpf.commands.process, "libbpf")
    template = through.map("hash", max_entries=8)
    value_size = 8 if case == "wrong_value_size" else 4
    observe(errno_of(through.map, "hash_of_maps", value_size=value_size, inner=template))
