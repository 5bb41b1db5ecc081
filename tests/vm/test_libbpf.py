"""Compiled objects opened, loaded and attached by libbpf in the guest."""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import EACCES, EINVAL
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.remote.sysctl import JIT, sysctl
from harness.testing import Bpf, BpfError, Guest, Libbpf, Map

Build = Callable[..., Path]

# The objects here use what came up to that version: names and ids of maps, raw tracepoints, batches, read-only data.
pytestmark = pytest.mark.kernel(">=5.10")

NO_NULL_CHECK = """
#include "harness.h"
struct inner { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); };
struct {
    __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 4); __type(key, __u32); __array(values, struct inner);
} outer SEC(".maps");
SEC("socket") int forgets_the_check(void *ctx)
{
    __u32 key = 0;
    return bpf_map_lookup_elem(bpf_map_lookup_elem(&outer, &key), &key) != 0;
}
SEC("socket") int fine(void *ctx) { return 1; }
char LICENSE[] SEC("license") = "Dual MIT/GPL";
"""


@pytest.mark.parametrize("outer_type", ["HASH_OF_MAPS", "ARRAY_OF_MAPS"])
def test_programs_of_every_kind_use_an_inner_map(bpf: Bpf, libbpf: Libbpf, bpf_object: Build, outer_type: str) -> None:
    with libbpf.open(bpf_object("programs", f"OUTER_TYPE=BPF_MAP_TYPE_{outer_type}")) as obj:
        assert obj.definitions.maps["outer"].type == outer_type.lower()
        assert obj.definitions.maps["outer"].inner is not None
        assert obj.map_flags("outer") == obj.definitions.maps["outer"].map_flags
        obj.load()
        inner = bpf.map("hash", value_size=8, max_entries=16)
        inner.update_batch({1: 10, 3: 30})
        names = ("use_in_socket_filter", "use_in_tc", "use_in_xdp")
        assert [obj.prog(name).run().retval for name in names] == [0, 0, 0]
        obj.map("outer")[7] = inner
        assert [obj.prog(name).run().retval for name in names] == [11, 12, 13]
        assert inner[2] == 20
        assert 3 not in inner
        with obj.attach("use_in_raw_tracepoint"):
            assert inner[1] > 13
        after = inner[1]
        assert inner[1] == after


@pytest.mark.requires("syscall_programs")
def test_a_syscall_program_uses_an_inner_map(bpf: Bpf, libbpf: Libbpf, bpf_object: Build) -> None:
    with libbpf.open(bpf_object("programs")) as obj:
        obj.autoload("use_in_syscall")
        obj.load()
        inner = bpf.map("hash", value_size=8, max_entries=16)
        inner[1] = 40
        obj.map("outer")[7] = inner
        assert obj.prog("use_in_syscall").run(context=bytes(4)).context == (41).to_bytes(4, bpf.byte_order)


@pytest.mark.requires("for_each_map_elem", "jit_switch")
def test_a_program_walks_over_an_inner_map(bpf: Bpf, libbpf: Libbpf, bpf_object: Build) -> None:
    # Without a JIT, no program may have a callback. Some architectures leave it off until root switches it on.
    with sysctl(bpf.commands, JIT, "1"), libbpf.open(bpf_object("iterate")) as obj:
        obj.load()
        inner = bpf.map("hash", value_size=8, max_entries=16)
        inner.update_batch({key: key for key in range(1, 6)})
        obj.map("outer")[7] = inner
        assert obj.prog("total_of_inner").run().retval == 15


@pytest.mark.parametrize(
    ("outer", "slots"), [("array_outer", {1: "first", 3: "second"}), ("hash_outer", {0: "second", 2: "first"})]
)
def test_static_slots_are_filled_as_the_source_says(
    libbpf: Libbpf, bpf_object: Build, outer: str, slots: dict[int, str]
) -> None:
    with libbpf.open(bpf_object("static")) as obj:
        obj.load()
        assert {slot: obj.map(outer)[slot] for slot in slots} == {
            slot: obj.map(name).id for slot, name in slots.items()
        }
        assert [slot for slot in range(4) if slot in obj.map(outer)] == sorted(slots)
        obj.map("first")[0] = 30
        obj.map("second")[0] = 12
        assert obj.prog("sum").run().retval == 42


@pytest.mark.requires("iterators", "btf")
def test_an_iterator_walks_over_every_map(bpf: Bpf, libbpf: Libbpf, bpf_object: Build) -> None:
    with libbpf.open(bpf_object("maps")) as obj:
        obj.load()
        for _ in range(3):
            bpf.map("array")
        with bpf.link(obj.prog("each_map"), "trace_iter") as link:
            written = link.iterate()
            numbers = [int.from_bytes(written[at : at + 8], bpf.byte_order) for at in range(0, len(written), 8)]
            assert numbers == list(range(len(bpf.ids("map"))))


def test_an_outer_map_needs_a_template_which_may_be_closed_after_loading(
    bpf: Bpf, libbpf: Libbpf, bpf_object: Build
) -> None:
    with libbpf.open(bpf_object("tracer")) as obj:
        assert obj.definitions.maps["traced"].inner is None
        with pytest.raises(BpfError) as caught:
            obj.load()
        assert caught.value.command == "bpf_object__load"
        assert caught.value.errno == EINVAL
    template = bpf.map("hash", max_entries=8)
    with libbpf.open(bpf_object("tracer")) as obj:
        obj.set_inner_map("traced", template)
        obj.load()
        template_id = template.id
        template.close()
        assert template_id not in bpf.ids("map")
        obj.map("traced")[0] = bpf.map("hash", max_entries=8)
    with libbpf.open(bpf_object("tracer")) as obj:
        obj.set_inner_map("traced", bpf.map("hash"))
        with pytest.raises(BpfError, match=r"bpf_map__set_inner_map_fd.*EINVAL"):
            obj.set_inner_map("traced", bpf.map("hash"))


def has_the_library() -> bool:
    return "/libbpf.so" in Path("/proc/self/maps").read_text()


def test_a_saved_machine_has_the_library_loaded(guest: Guest) -> None:
    assert guest.call(has_the_library)


def test_a_refused_program_brings_the_verifiers_log(libbpf: Libbpf, bpf_object: Build, tmp_path: Path) -> None:
    source = tmp_path / "refused.bpf.c"
    source.write_text(NO_NULL_CHECK)
    path = bpf_object(source)
    with libbpf.open(path) as obj:
        with pytest.raises(BpfError) as caught:
            obj.load()
        assert caught.value.errno == EACCES
        assert re.search(r"R1 type=\w+_or_null expected=map_ptr", caught.value.log)
        assert "BEGIN PROG LOAD LOG" not in caught.value.log
    with libbpf.open(path) as obj:
        obj.autoload("fine")
        obj.keep_log("fine")
        obj.load()
        assert "processed" in obj.log_of("fine")
        assert list(obj.programs) == ["fine"]


def test_a_file_without_the_named_part_is_a_clear_error(libbpf: Libbpf, bpf_object: Build, tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="bpf_object__open_mem"):
        libbpf.open(b"no ELF file")
    with pytest.raises(UsageError, match="cannot be read"):
        libbpf.open(tmp_path / "missing.bpf.o")
    with libbpf.open(bpf_object("static")) as obj, pytest.raises(UsageError, match="array_outer"):
        obj.set_map("outer", "max_entries", 3)


def test_closing_an_object_releases_everything(bpf: Bpf, libbpf: Libbpf, bpf_object: Build) -> None:
    before = bpf.ids("prog")
    obj = libbpf.open(bpf_object("static"))
    obj.load()
    first: Map = obj.map("first")
    number = first.id
    assert number in bpf.ids("map")
    obj.close()
    obj.close()
    assert first.closed
    assert bpf.ids("prog") == before
