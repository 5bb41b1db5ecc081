"""Creating outer maps: sizes, flags, what the template may be, BTF and names."""

from __future__ import annotations

import os
from typing import Any

import pytest

from harness.contracts.conftest import ObserveEach
from harness.contracts.contract import Contract
from harness.contracts.inner import with_type
from harness.contracts.scene import Answers, Questions, Scene
from harness.features import map_types
from harness.testing import Bpf, Map, asm, errno_name, errno_of, uapi

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


NAMES = {"letters": "outer_1", "dot": "an.outer", "space": "an outer", "sixteen_letters": "x" * 16}

ACCESS = {"rdonly": uapi.RDONLY, "wronly": uapi.WRONLY}


CREATED = Questions()
TEMPLATES = Questions()


# Sizes, flags and other attributes.


@CREATED.of(
    "create.plain",
    "create.value_size",
    "create.key_size",
    "create.max_entries",
    "create.flag",
    "create.numa_node",
    "create.attribute",
    "create.name",
    "create.exclusive",
)
def attributes(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template

    def answer(contract: Contract) -> str:
        fields: dict[str, Any] = {"inner": template}
        match contract.name.rpartition(".")[2]:
            case "value_size" | "key_size" | "max_entries" as size:
                fields[size] = int(contract.case)
            case "flag":
                fields["map_flags"] = FLAGS[contract.case]
            case "numa_node":
                flags = 0 if contract.case == "ignored_without_flag" else uapi.NUMA_NODE
                fields |= {"map_flags": flags, "numa_node": 4096}
            case "attribute":
                fields[contract.case] = 1
            case "name":
                fields["name"] = NAMES[contract.case]
            case "exclusive":
                fields |= {"excl_prog_hash": bytes(32), "excl_prog_hash_size": 32}
        return errno_of(bpf.map, contract.outer, **fields)

    return answer


@CREATED.of("create.flags_of_no_meaning")
def flags_of_no_meaning(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template

    def answer(contract: Contract) -> object:
        known = max(FLAGS.values()).bit_length()
        bits = range(known, 32)
        return [bit for bit in bits if errno_of(bpf.map, contract.outer, map_flags=1 << bit, inner=template) == "ok"]

    return answer


@CREATED.of("create.unknown_attribute")
def unknown_attribute(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template

    def answer(contract: Contract) -> object:
        fields = {
            "map_type": contract.outer,
            "key_size": 4,
            "value_size": 4,
            "max_entries": 1,
            "inner_map_fd": template,
        }
        answer = bpf.commands.attempt("MAP_CREATE", fields, tail=bytes(200) + b"\x01")
        return errno_name(answer.errno) if answer.errno else "ok"

    return answer


@CREATED.of("create.value_size_reported", "create.max_entries_reported", "create.flags_reported")
def what_the_kernel_says_of_it(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template

    def answer(contract: Contract) -> int:
        flags = uapi.RDONLY | uapi.NUMA_NODE if contract.name == "create.flags_reported" else 0
        info = bpf.map(contract.outer, max_entries=5, map_flags=flags, inner=template).info()
        field = contract.name.rpartition(".")[2].removesuffix("_reported")
        return int(info["map_flags" if field == "flags" else field])

    return answer


# The descriptor of the template.


@TEMPLATES.of("create.template_fd")
def template_fd(scene: Scene) -> Answers:
    bpf = scene.bpf
    return lambda contract: errno_of(bpf.map, contract.outer, inner_map_fd=other_fd(bpf, contract.case))


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


@TEMPLATES.of("create.template_fd_left_out")
def template_fd_left_out(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        bpf = scene.another()  # what descriptor 0 is stays what it is
        if contract.case == "stdin_closed":
            bpf.close(0)
        elif contract.case == "stdin_a_map":
            bpf.close(0)
            assert bpf.map("hash").fd == 0
        return errno_of(bpf.map, contract.outer)

    return answer


@CREATED.of("create.bad_value_size_and_fd", "create.no_descriptor_left")
def refused(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template

    def answer(contract: Contract) -> str | int:
        if contract.name == "create.bad_value_size_and_fd":
            return errno_of(bpf.map, contract.outer, value_size=8, inner_map_fd=-1)
        before = bpf.commands.process.call("hooks.descriptors")
        errno_of(bpf.map, contract.outer, value_size=8, inner=template)
        errno_of(bpf.map, contract.outer, inner_map_fd=0)
        return len(bpf.commands.process.call("hooks.descriptors")) - len(before)

    return answer


# The template itself.


@TEMPLATES.of("template.type")
def template_type(scene: Scene) -> Answers:
    bpf, kernel = scene.bpf, scene.kernel
    return lambda contract: with_type(
        bpf, kernel, contract.case, lambda template: errno_of(bpf.map, contract.outer, inner=template)
    )


@TEMPLATES.of(
    "template.outer",
    "template.special_value",
    "template.integer_btf",
    "template.exclusive",
    "template.frozen",
    "template.access",
    "template.reopened_rdonly",
    "template.inner_map_flag",
)
def template(scene: Scene) -> Answers:
    bpf = scene.bpf

    def made(contract: Contract) -> Map:
        match contract.name.removeprefix("template."):
            case "outer":
                return bpf.map(contract.case, inner=bpf.map("hash"))
            case "special_value":
                return map_types.with_struct(bpf, contract.case)
            case "integer_btf":
                ids: dict[str, Any] = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
                return bpf.map("hash", value_size=8, btf_fd=bpf.btf(map_types.INTEGERS), **ids)
            case "exclusive":
                return bpf.map("hash", excl_prog_hash=bytes(32), excl_prog_hash_size=32)
            case "access":
                return bpf.map("hash", map_flags=ACCESS[contract.case])
            case "inner_map_flag":
                return bpf.map("array", map_flags=uapi.INNER_MAP)
            case "reopened_rdonly":
                plain = bpf.map("hash")
                return bpf.map_by_id(plain.id, open_flags=uapi.RDONLY, like=plain)
        frozen = bpf.map("hash")
        frozen.freeze()
        return frozen

    return lambda contract: errno_of(bpf.map, contract.outer, inner=made(contract))


@TEMPLATES.of("template.not_kept", "template.not_inserted", "template.shared")
def template_afterwards(scene: Scene) -> Answers:
    bpf = scene.bpf

    def answer(contract: Contract) -> str:
        template = bpf.map("hash")
        outer = bpf.map(contract.outer, max_entries=2, inner=template)
        if contract.name == "template.not_inserted":
            return errno_of(outer.lookup, 0)
        if contract.name == "template.shared":
            other = bpf.map(contract.outer, inner=template)
            outer.update(0, template)
            return errno_of(other.update, 0, template)
        gone = template.id
        template.close()
        return errno_of(bpf.map_by_id, gone, like=template)

    return answer


# BTF of the outer map.


@CREATED.of("create.btf_ids", "create.btf_fd_alone", "create.btf_key_id_alone", "create.btf_ids_without_btf")
def btf(scene: Scene) -> Answers:
    bpf, template = scene.bpf, scene.template
    blob = bpf.btf(map_types.INTEGERS)
    both = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.KEY_TYPE}
    fields: dict[str, dict[str, Any]] = {
        "create.btf_ids": {"btf_fd": blob, **both},
        "create.btf_fd_alone": {"btf_fd": blob},
        "create.btf_key_id_alone": {"btf_fd": blob, "btf_key_type_id": map_types.KEY_TYPE},
        "create.btf_ids_without_btf": {"btf_fd": -1, **both},
    }
    return lambda contract: errno_of(bpf.map, contract.outer, inner=template, **fields[contract.name])


# Memory.


@TEMPLATES.of("create.no_locked_memory")
def no_locked_memory(scene: Scene) -> Answers:
    def answer(contract: Contract) -> str:
        bpf = scene.another()  # a limit is a process's
        template = bpf.map("hash", max_entries=8)
        bpf.commands.process.call("hooks.limit_locked_memory", size=0)
        return errno_of(bpf.map, contract.outer, inner=template)

    return answer


@pytest.mark.contract(*CREATED.names, together=True)
def test_outer_maps(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(CREATED.on(scene))


@pytest.mark.contract(*TEMPLATES.names, together=True)
def test_templates(scene: Scene, observe_each: ObserveEach) -> None:
    observe_each(TEMPLATES.on(scene))
