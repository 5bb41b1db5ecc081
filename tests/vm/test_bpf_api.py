"""The remote BPF API: each command does in the guest what it says, and errors keep all that the kernel said."""

from __future__ import annotations

import struct
from errno import E2BIG, EACCES, EBADF, EEXIST, EINVAL, ENOENT, EPERM

import pytest

from harness.guest.api.asm import R0, R1, R2, R3, R4, R10
from harness.testing import EXIST, NOEXIST, Bpf, BpfError, Map, asm, raises_errno, uapi

PASS = (asm.mov(R0, -1), asm.exit())


def lookup_inner(outer: Map, *, checked: bool = True) -> list[asm.Instruction | asm.Label]:
    """Look up key 7 in the outer map, then key 1 in what it holds; return the value found, or 0."""
    check = [asm.jump("==", R0, 0, "none")] if checked else []
    return [
        asm.st("W", R10, -4, 7),
        *asm.lookup(outer, -4),
        *check,
        asm.mov(R1, R0),
        asm.st("W", R10, -8, 1),
        asm.mov(R2, R10),
        asm.add(R2, -8),
        asm.call("map_lookup_elem"),
        asm.jump("==", R0, 0, "none"),
        asm.ldx("W", R0, R0),
        asm.exit(),
        asm.label("none"),
        *asm.return_(0),
    ]


@pytest.fixture
def table(bpf: Bpf) -> Map:
    return bpf.map("hash", max_entries=16)


def test_elements_are_written_read_walked_and_deleted(table: Map) -> None:
    table[1] = 41
    table.update(2, 42, NOEXIST)
    with raises_errno(EEXIST):
        table.update(2, 43, NOEXIST)
    with raises_errno(ENOENT):
        table.update(3, 43, EXIST)
    assert table[1] == 41
    assert 2 in table
    assert 3 not in table
    assert {int.from_bytes(key, table.commands.byte_order) for key in table} == {1, 2}
    assert table.next_key() == next(iter(table))
    del table[1]
    assert [table.lookup(key) for key in table] == [42]


@pytest.mark.requires("queue")
def test_a_queue_is_popped(bpf: Bpf) -> None:
    with bpf.map("queue", key_size=0, max_entries=4) as queue:
        queue.update(b"", 11)
        queue.update(b"", 12)
        assert [queue.lookup_and_delete(b"")[0], queue.lookup_and_delete(b"")[0]] == [11, 12]
        with raises_errno(ENOENT):
            queue.lookup_and_delete(b"")


def test_a_per_cpu_element_has_a_value_for_every_cpu(bpf: Bpf) -> None:
    counters = bpf.map("percpu_array", value_size=4, max_entries=2)
    counters[1] = 5
    values = counters.lookup_percpu(1)
    assert values == [5] * bpf.commands.cpus()


@pytest.mark.requires("batch_ops")
def test_batches_write_read_and_delete(table: Map) -> None:
    assert table.update_batch({key: key * 10 for key in range(1, 11)}) == 10
    seen: dict[bytes, bytes] = {}
    token, done = None, False
    while not done:
        batch = table.lookup_batch(8, token)
        seen.update(zip(batch.keys, batch.values, strict=True))
        token, done = batch.token, batch.done
    order = table.commands.byte_order
    assert {int.from_bytes(k, order): int.from_bytes(v, order) for k, v in seen.items()} == {
        key: key * 10 for key in range(1, 11)
    }
    assert table.delete_batch([1, 2, 3]) == 3
    gone = table.lookup_and_delete_batch(16)
    assert len(gone.keys) == 7
    assert gone.done
    assert table.keys() == []


@pytest.mark.requires("batch_ops")
def test_a_failed_batch_reports_its_count(table: Map) -> None:
    table[1] = 1
    with pytest.raises(BpfError) as caught:
        table.delete_batch([1, 2, 3])
    assert caught.value.name == "ENOENT"
    assert caught.value.numbers["count"] == 1


@pytest.mark.requires("freeze")
def test_a_frozen_map_is_read_only_for_user_space(table: Map) -> None:
    table[1] = 41
    table.freeze()
    assert table[1] == 41
    with raises_errno(EPERM):
        table[1] = 42
    assert table.fdinfo()["frozen"] == "1"


@pytest.mark.kernel(">=4.15")
def test_a_pinned_map_is_opened_again(bpf: Bpf, table: Map) -> None:
    table[1] = 41
    table.pin("/sys/fs/bpf/table")
    with bpf.pinned_map("/sys/fs/bpf/table") as again:
        assert (again.type, again.key_size, again.value_size) == ("hash", 4, 4)
        assert again.id == table.id
        assert again[1] == 41
    with bpf.pinned_map("/sys/fs/bpf/table", file_flags=uapi.RDONLY) as reader, raises_errno(EPERM):
        reader[1] = 42
    with raises_errno(EEXIST):
        table.pin("/sys/fs/bpf/table")
    bpf.unpin("/sys/fs/bpf/table")
    with raises_errno(ENOENT):
        bpf.pinned_map("/sys/fs/bpf/table")


@pytest.mark.kernel(">=4.15")
def test_information_and_ids(bpf: Bpf, table: Map) -> None:
    with bpf.map("hash", max_entries=3, name="known_as") as named:
        info = named.info()
        assert (info["name"], info["max_entries"], info["value_size"]) == ("known_as", 3, 4)
    assert table.id in bpf.ids("map")
    assert bpf.next_id("map", table.id - 1) == table.id
    with raises_errno(ENOENT):
        bpf.next_id("map", 0x7FFFFFF0)
    with bpf.map_by_id(table.id) as first, bpf.map_by_id(table.id) as second:
        assert len({table.fd, first.fd, second.fd}) == 3
        assert first.type == "hash"


def test_closing_twice_closes_once(bpf: Bpf) -> None:
    first = bpf.map("array")
    first.close()
    second = bpf.map("array")
    assert second.fd == first.fd
    first.close()
    second[0] = 7
    assert second[0] == 7
    with raises_errno(EBADF):
        bpf.command("MAP_LOOKUP_ELEM", {"value": 4}, map_fd=9999, key=bytes(4))


@pytest.mark.kernel(">=4.15")
def test_a_program_runs_over_an_outer_map(bpf: Bpf, table: Map) -> None:
    outer = bpf.map("hash_of_maps", max_entries=8, inner=table)
    with bpf.prog("socket_filter", lookup_inner(outer), name="lookup_inner") as prog:
        assert prog.run().retval == 0
        outer[7] = table
        assert prog.run().retval == 0
        table[1] = 1234
        assert prog.run().retval == 1234
        info = prog.info()
        assert info["map_ids"] == [outer.id]
        assert info["name"] == "lookup_inner"
        with bpf.prog_by_id(prog.id) as again:
            assert again.type == "socket_filter"
            assert again.run().retval == 1234
        prog.pin("/sys/fs/bpf/prog")
    with bpf.pinned_prog("/sys/fs/bpf/prog") as pinned:
        bpf.unpin("/sys/fs/bpf/prog")
        assert pinned.run().retval == 1234


def test_a_refused_program_brings_the_verifiers_log(bpf: Bpf, table: Map) -> None:
    outer = bpf.map("hash_of_maps", max_entries=8, inner=table)
    with pytest.raises(BpfError) as caught:
        bpf.prog("socket_filter", lookup_inner(outer, checked=False))
    error = caught.value
    assert (error.errno, error.command) == (EACCES, "PROG_LOAD")
    assert "R1 type=" in error.log
    assert "expected=map_ptr" in error.log
    assert "R1 type=" in str(error)
    with pytest.raises(BpfError) as silent:
        bpf.prog("socket_filter", lookup_inner(outer, checked=False), log_level=0)
    assert silent.value.log == ""


def test_the_log_of_an_accepted_program_comes_when_asked_for(bpf: Bpf) -> None:
    assert bpf.prog("socket_filter", PASS).log == ""
    assert "processed 2 insns" in bpf.prog("socket_filter", PASS, log_level=1).log


def test_a_packet_comes_back_as_the_program_left_it(bpf: Bpf) -> None:
    shorten = (
        asm.ldx("W", R2, R1, 0),  # xdp_md.data
        asm.ldx("W", R3, R1, 4),  # xdp_md.data_end
        asm.mov(R4, R2),
        asm.add(R4, 1),
        asm.jump(">", R4, R3, "out"),
        asm.st("B", R2, 0, 0x5A),
        asm.label("out"),
        *asm.return_(2),
    )
    run = bpf.prog("xdp", shorten).run(bytes(range(64)), repeat=3)
    assert run.retval == 2
    assert run.data == b"\x5a" + bytes(range(1, 64))


def test_a_socket_filter_drops_and_passes(bpf: Bpf) -> None:
    with bpf.socket_filter(bpf.prog("socket_filter", PASS)) as pair:
        assert pair.send(b"hello") == b"hello"
    with bpf.socket_filter(bpf.prog("socket_filter", asm.return_(0))) as pair:
        assert pair.send(b"hello") is None


def count_in(table: Map) -> list[asm.Instruction | asm.Label]:
    """Count runs in element 0 of an array of 64-bit numbers."""
    return [
        asm.st("W", R10, -4, 0),
        *asm.lookup(table, -4),
        asm.jump("==", R0, 0, "out"),
        asm.mov(R1, 1),
        asm.atomic_add("DW", R0, 0, R1),
        asm.label("out"),
        *asm.return_(0),
    ]


@pytest.fixture
def counter(bpf: Bpf) -> Map:
    return bpf.map("array", value_size=8)


@pytest.mark.requires("raw_tracepoint")
def test_a_raw_tracepoint_counts_system_calls_until_it_is_closed(bpf: Bpf, counter: Map) -> None:
    prog = bpf.prog("raw_tracepoint", count_in(counter))
    with bpf.raw_tracepoint(prog, "sys_enter"):
        assert counter[0] > 0
    after = counter[0]
    bpf.ids("map")
    assert counter[0] == after


@pytest.mark.requires("ids")
def test_a_tracepoint_counts_system_calls_until_it_is_closed(bpf: Bpf, counter: Map) -> None:
    prog = bpf.prog("tracepoint", count_in(counter))
    with bpf.tracepoint(prog, "raw_syscalls", "sys_enter"):
        assert counter[0] > 0
    after = counter[0]
    bpf.ids("map")
    assert counter[0] == after
    with raises_errno(ENOENT):
        bpf.tracepoint(prog, "raw_syscalls", "no_such_event")


@pytest.mark.kernel(">=4.17")
def test_a_kprobe_counts_calls(bpf: Bpf, counter: Map) -> None:
    with bpf.kprobe(bpf.prog("kprobe", count_in(counter)), "array_map_alloc"):
        for _ in range(3):
            bpf.map("array").close()
    assert counter[0] == 3


@pytest.mark.kernel(">=4.17")
def test_a_cgroup_program_is_attached_and_detached(bpf: Bpf) -> None:
    prog = bpf.prog("cgroup_skb", asm.return_(1), expected_attach_type="cgroup_inet_egress")
    with bpf.cgroup("attached") as cgroup:
        bpf.attach(prog, cgroup, "cgroup_inet_egress")
        found = bpf.command(
            "PROG_QUERY", {"prog_ids": 16}, target_fd=cgroup, attach_type="cgroup_inet_egress", prog_cnt=4
        )
        assert found.buffers["prog_ids"][:4] == prog.id.to_bytes(4, bpf.byte_order)
        bpf.detach(prog, cgroup, "cgroup_inet_egress")
        with raises_errno(ENOENT):
            bpf.detach(prog, cgroup, "cgroup_inet_egress")


@pytest.mark.requires("link_detach")
def test_a_link_is_updated_pinned_and_detached(bpf: Bpf) -> None:
    old, new = (
        bpf.prog("cgroup_skb", asm.return_(value), expected_attach_type="cgroup_inet_egress") for value in (0, 1)
    )
    with bpf.cgroup("linked") as cgroup, bpf.link(old, "cgroup_inet_egress", cgroup) as link:
        assert link.info()["prog_id"] == old.id
        with raises_errno(EPERM):
            link.update(new, old=new)
        link.update(new, old=old)
        assert link.info()["prog_id"] == new.id
        link.pin("/sys/fs/bpf/link")
        with bpf.pinned_link("/sys/fs/bpf/link") as again, bpf.link_by_id(link.id) as third:
            assert again.id == third.id == link.id
        bpf.unpin("/sys/fs/bpf/link")
        link.detach()
        assert link.id in bpf.ids("link")


@pytest.mark.requires("btf_ids")
def test_btf_is_loaded_and_found(bpf: Bpf) -> None:
    # One type: int, 32 bits, signed.
    names = b"\0int\0"
    order = "<" if bpf.byte_order == "little" else ">"
    types = struct.pack(f"{order}IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    header = struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    with bpf.btf(header + types + names) as btf:
        assert btf.id in bpf.ids("btf")
        with bpf.btf_by_id(btf.id) as again:
            assert again.info()["id"] == btf.id
        typed = bpf.map("hash", btf_fd=btf, btf_key_type_id=1, btf_value_type_id=1)
        assert typed.info()["btf_id"] == btf.id
    with raises_errno(EINVAL):
        bpf.btf(b"\x9f\xeb" + bytes(30))


@pytest.mark.kernel(">=5.8")
def test_statistics_count_runs(bpf: Bpf) -> None:
    prog = bpf.prog("socket_filter", PASS)
    with bpf.enable_stats(), bpf.socket_filter(prog) as pair:
        pair.send(b"x")
        pair.send(b"x")
    assert prog.info()["run_cnt"] == 2


def test_an_error_says_what_was_asked_and_what_the_kernel_answered(bpf: Bpf) -> None:
    template = bpf.map("hash")
    with pytest.raises(BpfError) as caught:
        bpf.map("hash_of_maps", value_size=8, inner=template)
    error = caught.value
    assert (error.errno, error.name, error.command) == (EINVAL, "EINVAL", "MAP_CREATE")
    assert error.attributes["value_size"] == 8
    assert "MAP_CREATE(map_type='hash_of_maps', key_size=4, value_size=8" in str(error)
    with pytest.raises(BpfError, match="ENOTSUPP \\(524\\)"):
        bpf.map("hash_of_maps", inner=bpf.map("prog_array"))


def test_bytes_behind_the_known_fields_reach_the_kernel(bpf: Bpf) -> None:
    fields = {"map_type": "array", "key_size": 4, "value_size": 4, "max_entries": 1}
    assert bpf.commands.attempt("MAP_CREATE", fields, tail=bytes(64)).errno == 0
    assert bpf.commands.attempt("MAP_CREATE", fields, tail=b"\1" * 256).errno == E2BIG
