"""Programs that the network keeps are leaks with a holder, and the kernel is not accused."""

from __future__ import annotations

import pytest

from harness.checks import leak_diff
from harness.testing import Bpf, Libbpf
from harness.util import clang
from harness.vm.machine import Machine
from tests.vm.test_check import OBJECTS

pytestmark = [pytest.mark.kernel(">=5.10"), pytest.mark.leaks("they are what these tests look at")]

CODE = b"\xb7" + bytes(7) + b"\x95" + bytes(7)  # r0 = 0; exit
FLOW_DISSECTOR = 17


def holders(vm: Machine) -> list[str]:
    """Return the holder of each leaked program."""
    return [
        one.leak.holder
        for one in leak_diff.judge(vm.about["snapshot"], vm.leak_snapshot())
        if one.leak.kind == "program"
    ]


def test_a_network_namespace_holds_a_program(bpf: Bpf, vm: Machine) -> None:
    prog = bpf.prog("flow_dissector", CODE)
    bpf.command("PROG_ATTACH", target_fd=0, attach_bpf_fd=prog.fd, attach_type=FLOW_DISSECTOR)
    assert holders(vm) == ["the network namespace (flow_dissector)"]


def test_an_interface_holds_a_program(bpf: Bpf, vm: Machine, libbpf: Libbpf) -> None:
    obj = libbpf.open(clang.build(OBJECTS / "attach_mixed.bpf.c"))
    obj.autoload("drop")
    obj.load()
    attached = obj.attach_to("drop", "xdp", "lo")
    bpf.link_by_id(bpf.ids("link")[0]).pin("/sys/fs/bpf/kept")
    assert attached.fd >= 0
    assert "interface lo (xdp)" in holders(vm)[0]


@pytest.mark.kernel(">=5.10,<6.19")  # Debian's later packages come without modules
@pytest.mark.vm(modules=["sch_ingress", "cls_bpf"])
def test_clsact_holds_a_program(vm: Machine, libbpf: Libbpf) -> None:
    obj = libbpf.open(clang.build(OBJECTS / "attach_mixed.bpf.c"))
    obj.autoload("shape")
    obj.load()
    obj.attach_to("shape", "tc", "lo")
    assert holders(vm) == ["clsact of interface lo (tc ingress)"]


@pytest.mark.vm(cpus=2)
def test_what_the_kernel_frees_later_is_gone_when_it_has_settled(bpf: Bpf) -> None:
    for kind in ("hash_of_maps", "array_of_maps"):
        inner = bpf.map("array")
        outer = bpf.map(kind, inner=inner, max_entries=4)
        outer[1] = inner
        number = inner.id
        inner.close()
        outer.close()
        assert bpf.settle() > 0
        assert number not in bpf.ids("map")
