"""union bpf_attr as the raw loader knows it, compared with offsets read from include/uapi/linux/bpf.h."""

from __future__ import annotations

import sys

import pytest

from harness.guest.api import bpf, layouts, libbpf_commands


@pytest.mark.parametrize(
    ("command", "field", "offset"),
    [
        ("MAP_CREATE", "map_name", 28),
        ("MAP_CREATE", "map_ifindex", 44),
        ("MAP_CREATE", "map_extra", 64),
        ("MAP_CREATE", "excl_prog_hash", 80),
        ("MAP_LOOKUP_ELEM", "key", 8),
        ("MAP_LOOKUP_ELEM", "flags", 24),
        ("MAP_UPDATE_BATCH", "count", 32),
        ("MAP_UPDATE_BATCH", "elem_flags", 40),
        ("PROG_LOAD", "log_buf", 32),
        ("PROG_LOAD", "prog_name", 48),
        ("PROG_LOAD", "expected_attach_type", 68),
        ("PROG_LOAD", "func_info", 80),
        ("PROG_LOAD", "line_info", 96),
        ("PROG_LOAD", "attach_btf_id", 108),
        ("PROG_LOAD", "attach_prog_fd", 112),
        ("PROG_LOAD", "attach_btf_obj_fd", 112),
        ("PROG_LOAD", "fd_array", 120),
        ("PROG_LOAD", "log_true_size", 140),
        ("PROG_TEST_RUN", "data_in", 16),
        ("PROG_TEST_RUN", "ctx_in", 48),
        ("PROG_TEST_RUN", "batch_size", 72),
        ("PROG_QUERY", "prog_ids", 16),
        ("RAW_TRACEPOINT_OPEN", "prog_fd", 8),
        ("BTF_LOAD", "btf_size", 16),
        ("TASK_FD_QUERY", "probe_addr", 40),
        ("LINK_CREATE", "iter_info", 16),
        ("LINK_CREATE", "iter_info_len", 24),
        ("LINK_CREATE", "target_btf_id", 16),
        ("LINK_CREATE", "multi_symbols", 24),
        ("OBJ_GET", "file_flags", 12),
    ],
)
def test_fields_have_the_kernels_offsets(command: str, field: str, offset: int) -> None:
    assert {name: at for name, _, at in layouts.COMMANDS[command][1]}[field] == offset


@pytest.mark.parametrize(
    ("kind", "field", "offset"),
    [
        ("map", "ifindex", 40),
        ("map", "btf_id", 64),
        ("map", "map_extra", 80),
        ("prog", "load_time", 40),
        ("prog", "nr_map_ids", 52),
        ("prog", "name", 64),
        ("prog", "btf_id", 128),
        ("prog", "run_time_ns", 192),
        ("prog", "verified_insns", 216),
        ("btf", "id", 12),
        ("btf", "kernel_btf", 28),
        ("link", "prog_id", 8),
    ],
)
def test_information_is_read_where_the_kernel_writes_it(kind: str, field: str, offset: int) -> None:
    assert {name: at for name, _, at in layouts.INFO[kind]}[field] == offset


@pytest.mark.parametrize(
    ("options", "field", "offset"),
    [
        (libbpf_commands.LOAD, "expected_attach_type", 12),
        (libbpf_commands.LOAD, "fd_array", 48),
        (libbpf_commands.LOAD, "line_info", 72),
        (libbpf_commands.LOAD, "log_buf", 96),
        (libbpf_commands.RUN, "ctx_in", 32),
        (libbpf_commands.RUN, "batch_size", 76),
        (libbpf_commands.OPEN, "btf_custom_path", 48),
    ],
)
def test_options_have_the_offsets_of_libbpfs_structs(options: layouts.Layout, field: str, offset: int) -> None:
    assert {name: at for name, _, at in options}[field] == offset


def test_pointers_of_four_bytes_move_what_follows_them() -> None:
    found = layouts.layout("P size I flags P info I count Q cookie", pointer=4)
    assert {name: at for name, _, at in found} == {"size": 0, "flags": 4, "info": 8, "count": 12, "cookie": 16}


def test_options_begin_with_their_size() -> None:
    options = libbpf_commands.packed(libbpf_commands.RUN, {"repeat": 3, "data_in": 1 << 40})
    assert options.raw[:16] == (80).to_bytes(8, sys.byteorder) + (1 << 40).to_bytes(8, sys.byteorder)
    assert options.raw[60:64] == (3).to_bytes(4, sys.byteorder)


def test_a_command_or_field_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="MAP_FREEZE"):
        bpf.attempt("MAP_FREZE", {})
    with pytest.raises(ValueError, match="map_id"):
        bpf.attempt("MAP_FREEZE", {"map_id": 1})
    with pytest.raises(ValueError, match="hsah"):
        bpf.attempt("MAP_CREATE", {"map_type": "hsah"})
