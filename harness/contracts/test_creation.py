"""Creating outer maps: sizes, flags, what the template may be, BTF and names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from harness.contracts.conftest import Observe
from harness.contracts.contract import Contract
from harness.contracts.inner import with_type
from harness.contracts.scene import Scene, descriptor, name_of
from harness.features import map_types
from harness.guest import calls
from harness.testing import Bpf, Held, asm, errno_of, uapi

pytestmark = pytest.mark.vm(scope="module")

NO_PROGRAM: dict[str, Any] = {"excl_prog_hash": bytes(32), "excl_prog_hash_size": 32}
"""Attributes of a map that is exclusively for a program that nobody has."""


@pytest.mark.contract("create.plain")
def test_an_outer_map_is_created(scene: Scene, observe: Observe) -> None:
    observe(scene.create())


# Sizes.


@pytest.mark.contract("create.value_size")
def test_a_value_is_an_fd(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(value_size=int(case)))


@pytest.mark.contract("create.key_size")
def test_a_hash_has_keys_of_many_sizes_and_an_array_has_one(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(key_size=int(case)))


@pytest.mark.contract("create.max_entries")
def test_there_are_bounds_to_the_number_of_elements(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(max_entries=int(case)))


@pytest.mark.contract("create.bad_value_size_and_fd")
def test_sizes_and_the_template_are_both_wrong(scene: Scene, observe: Observe) -> None:
    observe(errno_of(scene.bpf.map, scene.type, value_size=8, inner_map_fd=-1))


@pytest.mark.contract("create.value_size_reported", "create.max_entries_reported")
def test_the_kernel_reports_the_sizes(scene: Scene, contract: Contract, observe: Observe) -> None:
    field = contract.name.removeprefix("create.").removesuffix("_reported")
    observe(scene.empty(max_entries=5).info()[field])


# Flags.

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


@pytest.mark.contract("create.flag")
def test_some_flags_are_taken(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(map_flags=FLAGS[case]))


@pytest.mark.contract("create.flags_of_no_meaning")
def test_a_flag_without_a_meaning_is_refused(scene: Scene, observe: Observe) -> None:
    bits = range(max(FLAGS.values()).bit_length(), 32)
    observe([bit for bit in bits if scene.create(map_flags=1 << bit) == "ok"])


@pytest.mark.contract("create.flags_reported")
def test_the_kernel_reports_the_flags(scene: Scene, observe: Observe) -> None:
    observe(scene.empty(map_flags=uapi.RDONLY | uapi.NUMA_NODE).info()["map_flags"])


# Other attributes.


@pytest.mark.contract("create.numa_node")
def test_a_numa_node_counts_with_its_flag(scene: Scene, case: str, observe: Observe) -> None:
    flags = 0 if case == "ignored_without_flag" else uapi.NUMA_NODE
    observe(scene.create(map_flags=flags, numa_node=4096))


@pytest.mark.contract("create.attribute")
def test_attributes_of_other_maps(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(**{case: 1}))


@pytest.mark.contract("create.unknown_attribute")
def test_an_attribute_that_the_kernel_does_not_know_is_refused(scene: Scene, observe: Observe) -> None:
    fields = {"map_type": scene.type, "key_size": 4, "value_size": 4, "max_entries": 1, "inner_map_fd": scene.template}
    observe(name_of(scene.bpf.commands.attempt("MAP_CREATE", fields, tail=bytes(200) + b"\x01").errno))


NAMES = {"letters": "outer_1", "dot": "an.outer", "space": "an outer", "sixteen_letters": "x" * 16}


@pytest.mark.contract("create.name")
def test_a_name_has_few_characters(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(name=NAMES[case]))


@pytest.mark.contract("create.exclusive")
def test_an_outer_map_is_exclusively_for_a_program(scene: Scene, observe: Observe) -> None:
    observe(scene.create(**NO_PROGRAM))


@pytest.mark.contract("create.no_locked_memory")
def test_a_process_may_lock_no_memory(scene: Scene, observe: Observe) -> None:
    bpf = scene.another()  # a limit is a process's
    template = bpf.map("hash", max_entries=8)
    bpf.commands.process.ask(calls.Hooks.limit_locked_memory, size=0)
    observe(errno_of(bpf.map, scene.type, inner=template))


@pytest.mark.contract("create.no_descriptor_left")
def test_a_refusal_leaves_no_descriptor(scene: Scene, observe: Observe) -> None:
    bpf = scene.another()  # in a process that tests share, what an earlier one let go of may be closed at any time
    template = bpf.map("hash")
    before = bpf.commands.process.ask(calls.Descriptors.descriptors)
    assert errno_of(bpf.map, scene.type, inner=template, value_size=8) == "EINVAL"
    assert errno_of(bpf.map, scene.type, inner=None, inner_map_fd=0) != "ok"
    observe(len(bpf.commands.process.ask(calls.Descriptors.descriptors)) - len(before))


# BTF of the outer map.

BTF_IDS = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.KEY_TYPE}


@pytest.mark.contract("create.btf_ids")
def test_an_outer_map_with_btf(scene: Scene, observe: Observe) -> None:
    observe(scene.create(btf_fd=scene.bpf.btf(map_types.INTEGERS), **BTF_IDS))


@pytest.mark.contract("create.btf_fd_alone")
def test_btf_without_types(scene: Scene, observe: Observe) -> None:
    observe(scene.create(btf_fd=scene.bpf.btf(map_types.INTEGERS)))


@pytest.mark.contract("create.btf_key_id_alone")
def test_a_type_of_the_key_without_btf(scene: Scene, observe: Observe) -> None:
    observe(scene.create(btf_key_type_id=map_types.KEY_TYPE))


@pytest.mark.contract("create.btf_ids_without_btf")
def test_types_without_btf(scene: Scene, observe: Observe) -> None:
    observe(scene.create(btf_fd=-1, **BTF_IDS))


# The descriptor of the template.


def closed_map(bpf: Bpf) -> int:
    gone = bpf.map("hash")
    gone.close()
    return gone.fd


def cgroup_link(bpf: Bpf) -> Held:
    program = bpf.prog("cgroup_skb", asm.return_(1), expected_attach_type=0)
    return bpf.link(program, "cgroup_inet_ingress", bpf.cgroup("linked"))


NO_MAP: dict[str, Callable[[Bpf], Held | int]] = {
    "minus_one": lambda _: -1,
    "never_opened": lambda _: 9999,
    "largest": lambda _: 0x7FFFFFFF,
    "closed": closed_map,
    "program": lambda bpf: bpf.prog("socket_filter", asm.return_(0)),
    "btf": lambda bpf: bpf.btf(map_types.INTEGERS),
    "link": cgroup_link,
    "raw_tracepoint_link": lambda bpf: bpf.raw_tracepoint(bpf.prog("raw_tracepoint", asm.return_(0)), "sys_enter"),
    "perf_event": lambda bpf: bpf.tracepoint(bpf.prog("tracepoint", asm.return_(0)), "raw_syscalls", "sys_enter"),
    "socket": lambda bpf: bpf.socket_filter(bpf.prog("socket_filter", asm.return_(0))),
    "file": lambda bpf: bpf.open("/proc/self/status", os.O_RDONLY),
    "folder": lambda bpf: bpf.open("/", os.O_RDONLY),
    "device": lambda bpf: bpf.open("/dev/null", os.O_RDWR),
    "o_path": lambda bpf: bpf.open("/", os.O_PATH),
    "cgroup": lambda bpf: bpf.open("/sys/fs/cgroup", os.O_RDONLY),
    "namespace": lambda bpf: bpf.open("/proc/self/ns/mnt", os.O_RDONLY),
    "bpf_filesystem": lambda bpf: bpf.open("/sys/fs/bpf", os.O_RDONLY),
}
"""Descriptors that are not a map's."""


@pytest.mark.contract("create.template_fd")
def test_a_template_is_a_map(scene: Scene, case: str, observe: Observe) -> None:
    with descriptor(NO_MAP[case](scene.bpf)) as fd:
        observe(errno_of(scene.bpf.map, scene.type, inner_map_fd=fd))


@pytest.mark.contract("create.template_fd_left_out")
def test_without_a_template_descriptor_0_is_meant(scene: Scene, case: str, observe: Observe) -> None:
    bpf = scene.another()  # what descriptor 0 is stays what it is
    if case != "stdin_open":
        bpf.close(0)
    if case == "stdin_a_map":
        assert bpf.map("hash").fd == 0
    observe(errno_of(bpf.map, scene.type))


# The template itself.


@pytest.mark.contract("template.type")
def test_types_of_templates(scene: Scene, case: str, observe: Observe) -> None:
    observe(with_type(scene.bpf, scene.kernel, case, lambda template: scene.create(inner=template)))


@pytest.mark.contract("template.outer")
def test_a_template_is_no_outer_map(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(inner=scene.bpf.map(case, inner=scene.template)))


@pytest.mark.contract("template.special_value")
def test_templates_whose_values_are_special(scene: Scene, case: str, observe: Observe) -> None:
    observe(scene.create(inner=map_types.with_struct(scene.bpf, case)))


@pytest.mark.contract("template.integer_btf")
def test_a_template_with_btf_of_integers(scene: Scene, observe: Observe) -> None:
    ids: dict[str, Any] = {"btf_key_type_id": map_types.KEY_TYPE, "btf_value_type_id": map_types.VALUE_TYPE}
    blob = scene.bpf.btf(map_types.INTEGERS)
    observe(scene.create(inner=scene.bpf.map("hash", value_size=8, btf_fd=blob, **ids)))


@pytest.mark.contract("template.exclusive")
def test_an_exclusive_template(scene: Scene, observe: Observe) -> None:
    observe(scene.create(inner=scene.bpf.map("hash", **NO_PROGRAM)))


@pytest.mark.contract("template.access")
def test_a_template_created_for_reading_or_writing_alone(scene: Scene, case: str, observe: Observe) -> None:
    flags = {"rdonly": uapi.RDONLY, "wronly": uapi.WRONLY}[case]
    observe(scene.create(inner=scene.bpf.map("hash", map_flags=flags)))


@pytest.mark.contract("template.reopened_rdonly")
def test_a_template_reopened_for_reading(scene: Scene, observe: Observe) -> None:
    plain = scene.template
    observe(scene.create(inner=scene.bpf.map_by_id(plain.id, open_flags=uapi.RDONLY, like=plain)))


@pytest.mark.contract("template.frozen")
def test_a_frozen_template(scene: Scene, observe: Observe) -> None:
    frozen = scene.bpf.map("hash")
    frozen.freeze()
    observe(scene.create(inner=frozen))


@pytest.mark.contract("template.inner_map_flag")
def test_a_template_of_any_size(scene: Scene, observe: Observe) -> None:
    observe(scene.create(inner=scene.bpf.map("array", map_flags=uapi.INNER_MAP)))


# The template afterwards.


@pytest.mark.contract("template.not_kept")
def test_an_outer_map_does_not_keep_its_template(scene: Scene, observe: Observe) -> None:
    template = scene.bpf.map("hash")
    gone = template.id
    scene.empty(inner=template)
    template.close()
    observe(errno_of(scene.bpf.map_by_id, gone, like=template))


@pytest.mark.contract("template.not_inserted")
def test_a_template_is_not_an_element(scene: Scene, observe: Observe) -> None:
    observe(errno_of(scene.empty().lookup, 0))


@pytest.mark.contract("template.shared")
def test_two_outer_maps_have_one_template(scene: Scene, observe: Observe) -> None:
    outer, other = scene.empty(), scene.empty()
    outer.update(0, scene.template)
    observe(errno_of(other.update, 0, scene.template))
