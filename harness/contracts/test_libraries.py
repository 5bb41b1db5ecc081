"""What libbpf makes of outer maps: it stands between most programs and the kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.testing import Bpf, BpfError, BpfObject, Guest, Libbpf, errno_of

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
def compiled(bpf_object: Build, tmp_path: Path) -> Callable[[str], Path]:
    def build(name: str) -> Path:
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(f'#include "harness.h"\n{SOURCES[name]}\nchar LICENSE[] SEC("license") = "Dual MIT/GPL";\n')
        return bpf_object(source)

    return build


@pytest.mark.contract("libbpf.set_inner_map_fd", "libbpf.load", "libbpf.slots", "libbpf.map_create", together=True)
def test_libbpf(
    guest: Guest, bpf: Bpf, libbpf: Libbpf, compiled: Callable[[str], Path], observe_each: ObserveEach
) -> None:
    def opened(name: str) -> BpfObject:
        return libbpf.open(compiled(name))

    def set_template(contract: Contract) -> str:
        template = bpf.map("hash", max_entries=8)
        one = opened({"of_no_outer_map": "no_outer"}.get(contract.case, "without_values"))
        if contract.case == "second_call":
            one.set_inner_map("outer", template)
        found = errno_of(one.set_inner_map, "outer", template)
        if contract.case == "closed_after_load":
            one.load()
            template.close()
            found = errno_of(one.map("outer").update, 0, bpf.map("hash", max_entries=8))
        return found

    def load(contract: Contract) -> str:
        try:
            one = opened(contract.case)
        except BpfError as error:
            return f"{error.name} when it is opened"
        return errno_of(one.load)

    def slots(contract: Contract) -> object:
        one = opened("pinned" if contract.case == "reused" else "slots")
        one.load()
        if contract.case == "reused":
            one.map("outer").delete(1)
            one = opened("pinned")
            one.load()
            bpf.unpin("/sys/fs/bpf/outer")
        names = {one.map(name).id: name for name in ("first", "second")}
        outer = one.map("outer")
        return {str(int.from_bytes(key, "little")): names.get(outer.lookup(key), "another") for key in sorted(outer)}

    def create(contract: Contract) -> str:
        through = Bpf(guest.process, "libbpf")
        template = through.map("hash", max_entries=8)
        value_size = 8 if contract.case == "wrong_value_size" else 4
        return errno_of(through.map, "hash_of_maps", value_size=value_size, inner=template)

    answers: dict[str, Callable[[Contract], Any]] = {
        "libbpf.set_inner_map_fd": set_template,
        "libbpf.load": load,
        "libbpf.slots": slots,
        "libbpf.map_create": create,
    }
    observe_each(lambda contract: answers[contract.name](contract))
