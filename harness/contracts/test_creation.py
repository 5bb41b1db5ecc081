"""Creating outer maps: sizes, flags, what the template may be, BTF and names."""

from __future__ import annotations

import os

import pytest

from harness.contracts.conftest import Observe, OfType
from harness.judge import map_types
from harness.judge.contracts import Contract
from harness.testing import Bpf, Guest, Map, asm, errno_name, errno_of, uapi

NOWHERE = {"minus_one": -1, "never_opened": 9999, "largest": 0x7FFFFFFF}

FLAGS = {
    "no_prealloc": uapi.NO_PREALLOC,
    "no_common_lru": uapi.NO_COMMON_LRU,
    "numa_node": uapi.NUMA_NODE,
    "rdonly": uapi.RDONLY,
    "wronly": uapi.WRONLY,
    "stack_build_id": uapi.STACK_BUILD_ID,
    "zero_seed": uapi.ZERO_SEED,
    "rdonly_prog": uapi.RDONLY_PROG,
    "wronly_prog": uapi.WRONLY_PROG,
    "clone": uapi.CLONE,
    "mmapable": uapi.MMAPABLE,
    "preserve_elems": uapi.PRESERVE_ELEMS,
    "inner_map": uapi.INNER_MAP,
    "link": 1 << 13,
    "path_fd": 1 << 14,
    "vtype_btf_obj_fd": 1 << 15,
    "token_fd": 1 << 16,
    "segv_on_fault": 1 << 17,
    "no_user_conv": 1 << 18,
    "rb_overwrite": 1 << 19,
    "rdonly_and_wronly": uapi.RDONLY | uapi.WRONLY,
    "rdonly_prog_and_wronly_prog": uapi.RDONLY_PROG | uapi.WRONLY_PROG,
    "numa_node_and_rdonly": uapi.NUMA_NODE | uapi.RDONLY,
}


@pytest.fixture
def template(bpf: Bpf) -> Map:
    return bpf.map("hash", key_size=4, value_size=4, max_entries=8)


# Sizes.


@pytest.mark.contract("create.plain")
def test_plain(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, max_entries=4, inner=template))


@pytest.mark.contract("create.value_size")
def test_value_size(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, value_size=int(contract.case), inner=template))


@pytest.mark.contract("create.value_size_reported")
def test_value_size_reported(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(bpf.map(contract.outer, inner=template).info()["value_size"])


@pytest.mark.contract("create.key_size")
def test_key_size(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, key_size=int(contract.case), inner=template))


@pytest.mark.contract("create.max_entries")
def test_max_entries(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, max_entries=int(contract.case), inner=template))


@pytest.mark.contract("create.max_entries_reported")
def test_max_entries_reported(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(bpf.map(contract.outer, max_entries=5, inner=template).info()["max_entries"])


# Flags and other attributes.


@pytest.mark.contract("create.flag")
def test_flag(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, map_flags=FLAGS[contract.case], inner=template))


@pytest.mark.contract("create.flags_of_no_meaning")
def test_flags_of_no_meaning(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    known = max(FLAGS.values()).bit_length()
    bits = range(known, 32)
    observe([bit for bit in bits if errno_of(bpf.map, contract.outer, map_flags=1 << bit, inner=template) == "ok"])


@pytest.mark.contract("create.flags_reported")
def test_flags_reported(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    outer = bpf.map(contract.outer, map_flags=uapi.RDONLY | uapi.NUMA_NODE, inner=template)
    observe(outer.info()["map_flags"])


@pytest.mark.contract("create.numa_node")
def test_numa_node(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    flags = 0 if contract.case == "ignored_without_flag" else uapi.NUMA_NODE
    observe(errno_of(bpf.map, contract.outer, map_flags=flags, numa_node=4096, inner=template))


@pytest.mark.contract("create.attribute")
def test_attribute(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=template, **{contract.case: 1}))


@pytest.mark.contract("create.unknown_attribute")
def test_unknown_attribute(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    fields = {"map_type": contract.outer, "key_size": 4, "value_size": 4, "max_entries": 1, "inner_map_fd": template}
    answer = bpf.commands.attempt("MAP_CREATE", fields, tail=bytes(200) + b"\x01")
    observe(errno_name(answer.errno) if answer.errno else "ok")


@pytest.mark.contract("create.name")
def test_name(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    name = {"letters": "outer_1", "dot": "an.outer", "space": "an outer", "sixteen_letters": "x" * 16}[contract.case]
    observe(errno_of(bpf.map, contract.outer, inner=template, name=name))


# The descriptor of the template.


@pytest.mark.contract("create.template_fd")
def test_template_fd(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner_map_fd=other_fd(bpf, contract.case)))


def other_fd(bpf: Bpf, kind: str) -> int:
    """Return a descriptor of the guest process that is no map's."""
    if kind in NOWHERE:
        return NOWHERE[kind]
    if kind == "closed":
        gone = bpf.map("hash")
        gone.close()
        return gone.fd
    if kind == "program":
        return bpf.prog("socket_filter", asm.return_(0)).fd
    if kind == "btf":
        return bpf.btf(map_types.INTEGERS).fd
    if kind == "link":
        program = bpf.prog("cgroup_skb", asm.return_(1), expected_attach_type=0)
        return bpf.link(program, "cgroup_inet_ingress", bpf.cgroup("linked")).fd
    if kind == "raw_tracepoint_link":
        return bpf.raw_tracepoint(bpf.prog("raw_tracepoint", asm.return_(0)), "sys_enter").fd
    if kind == "perf_event":
        return bpf.tracepoint(bpf.prog("tracepoint", asm.return_(0)), "raw_syscalls", "sys_enter").fd
    if kind == "socket":
        return bpf.socket_filter(bpf.prog("socket_filter", asm.return_(0))).fd
    path, flags = {
        "file": ("/proc/self/status", os.O_RDONLY),
        "folder": ("/", os.O_RDONLY),
        "device": ("/dev/null", os.O_RDWR),
        "o_path": ("/", os.O_PATH),
        "cgroup": ("/sys/fs/cgroup", os.O_RDONLY),
        "namespace": ("/proc/self/ns/mnt", os.O_RDONLY),
        "bpf_filesystem": ("/sys/fs/bpf", os.O_RDONLY),
    }[kind]
    return bpf.open(path, flags).fd


@pytest.mark.contract("create.template_fd_left_out")
def test_template_fd_left_out(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    if contract.case == "stdin_closed":
        bpf.close(0)
    elif contract.case == "stdin_a_map":
        bpf.close(0)
        assert bpf.map("hash").fd == 0
    observe(errno_of(bpf.map, contract.outer))


@pytest.mark.contract("create.bad_value_size_and_fd")
def test_bad_value_size_and_fd(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, value_size=8, inner_map_fd=-1))


@pytest.mark.contract("create.no_descriptor_left")
def test_no_descriptor_left(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    before = bpf.commands.process.call("hooks.descriptors")
    errno_of(bpf.map, contract.outer, value_size=8, inner=template)
    errno_of(bpf.map, contract.outer, inner_map_fd=0)
    observe(len(bpf.commands.process.call("hooks.descriptors")) - len(before))


# The template itself.


@pytest.mark.contract("template.outer")
def test_template_is_an_outer_map(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=bpf.map(contract.case, inner=template)))


@pytest.mark.contract("template.type")
def test_template_type(bpf: Bpf, contract: Contract, of_type: OfType, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=of_type(contract.case)))


@pytest.mark.contract("template.special_value")
def test_template_with_a_special_value(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=map_types.with_struct(bpf, contract.case)))


@pytest.mark.contract("template.integer_btf")
def test_template_with_integer_btf(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=with_integers(bpf, "hash")))


def with_integers(bpf: Bpf, type_: str, **fields: int | Map) -> Map:
    ids = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
    return bpf.map(type_, value_size=8, btf_fd=bpf.btf(map_types.INTEGERS), **ids, **fields)  # type: ignore[arg-type]


@pytest.mark.contract("template.exclusive")
def test_template_for_one_program(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    template = bpf.map("hash", excl_prog_hash=bytes(32), excl_prog_hash_size=32)
    observe(errno_of(bpf.map, contract.outer, inner=template))


@pytest.mark.contract("template.frozen")
def test_template_frozen(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    template.freeze()
    observe(errno_of(bpf.map, contract.outer, inner=template))


@pytest.mark.contract("template.access")
def test_template_access(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    flag = {"rdonly": uapi.RDONLY, "wronly": uapi.WRONLY}[contract.case]
    observe(errno_of(bpf.map, contract.outer, inner=bpf.map("hash", map_flags=flag)))


@pytest.mark.contract("template.reopened_rdonly")
def test_template_reopened(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    reader = bpf.map_by_id(template.id, open_flags=uapi.RDONLY, like=template)
    observe(errno_of(bpf.map, contract.outer, inner=reader))


@pytest.mark.contract("template.inner_map_flag")
def test_template_with_the_flag_inner_map(bpf: Bpf, contract: Contract, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=bpf.map("array", map_flags=uapi.INNER_MAP)))


@pytest.mark.contract("template.not_kept")
def test_template_is_not_kept(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    bpf.map(contract.outer, inner=template)
    gone = template.id
    template.close()
    observe(errno_of(bpf.map_by_id, gone, like=template))


@pytest.mark.contract("template.not_inserted")
def test_template_is_not_inserted(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    outer = bpf.map(contract.outer, max_entries=2, inner=template)
    observe(errno_of(outer.lookup, 0))


@pytest.mark.contract("template.shared")
def test_template_of_two_outer_maps(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    first = bpf.map(contract.outer, inner=template)
    second = bpf.map(contract.outer, inner=template)
    first.update(0, template)
    observe(errno_of(second.update, 0, template))


# BTF of the outer map.


@pytest.mark.contract("create.btf_ids")
def test_btf_ids(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    blob = bpf.btf(map_types.INTEGERS)
    ids = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.KEY_TYPE}
    observe(errno_of(bpf.map, contract.outer, inner=template, btf_fd=blob, **ids))


@pytest.mark.contract("create.btf_fd_alone")
def test_btf_fd_alone(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, inner=template, btf_fd=bpf.btf(map_types.INTEGERS)))


@pytest.mark.contract("create.btf_key_id_alone")
def test_btf_key_id_alone(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    blob = bpf.btf(map_types.INTEGERS)
    observe(errno_of(bpf.map, contract.outer, inner=template, btf_fd=blob, btf_key_type_id=map_types.KEY_TYPE))


@pytest.mark.contract("create.btf_ids_without_btf")
def test_btf_ids_without_btf(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    ids = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.KEY_TYPE}
    observe(errno_of(bpf.map, contract.outer, inner=template, btf_fd=-1, **ids))


# Memory.


@pytest.mark.contract("create.no_locked_memory")
def test_no_locked_memory(bpf: Bpf, guest: Guest, contract: Contract, template: Map, observe: Observe) -> None:
    guest.process.call("hooks.limit_locked_memory", size=0)
    observe(errno_of(bpf.map, contract.outer, inner=template))


@pytest.mark.contract("create.exclusive")
def test_exclusive_outer(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    fields = {"excl_prog_hash": bytes(32), "excl_prog_hash_size": 32}
    observe(errno_of(bpf.map, contract.outer, inner=template, **fields))
