"""Programs compiled in the guest by bcc."""

from __future__ import annotations

from errno import EACCES

import pytest

from harness.guest.api import bpf as raw
from harness.testing import Bcc, Bpf, BpfError, Guest
from tests.needs import needs_features

needs_features("bcc")

TEXT = """
BPF_ARRAY(inner, u64, 16);
BPF_HASH_OF_MAPS(outer, int, "inner", 10);

int sum(struct __sk_buff *skb)
{
    int slot = 7, first = 0;
    void *found = outer.lookup(&slot);
    u64 *value;

    if (!found)
        return 0;
    value = bpf_map_lookup_elem(found, &first);
    return value ? *value : 0;
}

int forgets_the_check(struct __sk_buff *skb)
{
    int slot = 7;
    return bpf_map_lookup_elem(outer.lookup(&slot), &slot) != 0;
}
"""


def test_a_program_over_an_outer_map_is_compiled_and_runs(bpf: Bpf, bcc: Bcc) -> None:
    module = bcc.compile(TEXT)
    outer, inner = module.maps["outer"], module.maps["inner"]
    assert (outer.type, inner.type, inner.value_size) == ("hash_of_maps", "array", 8)
    prog = module.prog("sum", "socket_filter")
    assert prog.run().retval == 0
    inner[0] = 41
    outer[7] = inner
    assert outer[7] == inner.id
    assert prog.run().retval == 41
    other = bpf.map("array", value_size=8, max_entries=16)
    other[0] = 42
    outer[7] = other
    assert prog.run().retval == 42
    with pytest.raises(BpfError) as caught:
        module.prog("forgets_the_check", "socket_filter")
    assert caught.value.errno == EACCES
    assert "expected=map_ptr" in caught.value.log


def test_what_does_not_compile_is_said(bcc: Bcc) -> None:
    with pytest.raises(BpfError) as caught:
        bcc.compile("int f(void *ctx) { return missing_name; }")
    assert "missing_name" in caught.value.log


def use_table(text: str) -> dict[str, object]:
    """In the guest: put an inner map into bcc's own table and read it back."""
    from ctypes import c_int

    from bcc import BPF

    module = BPF(text=text)
    outer, inner = module["outer"], module["inner"]
    outer[c_int(7)] = c_int(inner.map_fd)
    found = {"type": type(outer).__name__, "read": outer[c_int(7)].value, "id": raw.info(inner.map_fd, "map")["id"]}
    try:
        outer[c_int(8)]
    except KeyError:
        found["missing"] = "KeyError"
    del outer[c_int(7)]
    found["left"] = len(outer)
    return found


@pytest.mark.usefixtures("bcc")
def test_bccs_own_table_takes_a_descriptor_and_gives_an_id(guest: Guest) -> None:
    found = guest.call(use_table, TEXT, closes=False, timeout=300)
    assert found == {
        "type": "MapInMapHash",
        "read": found["id"],
        "id": found["id"],
        "missing": "KeyError",
        "left": 0,
    }
