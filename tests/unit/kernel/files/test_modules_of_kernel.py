"""Modules of a kernel: from its files where it came with them, from its configuration where it did not."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from harness.errors import SelectorError
from harness.kernel.files import modules
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from tests.unit.kernel.kernel_fakes import module


def kernel(*, folder: Path | None = None, config: Path | None = None) -> Kernel:
    return Kernel(
        label="6.1",
        version=KernelVersion.parse("6.1.192"),
        release="6.1.0-56",
        bzimage=None,
        vmlinux=Path("vmlinux"),
        pvh=True,
        config=config,
        modules=folder,
        digest="",
        flavour="",
        origin="a test",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "6.1.0-56"
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel" / "veth.ko.xz").write_bytes(lzma.compress(module()))
    (folder / "modules.dep").write_text("kernel/veth.ko.xz:\n")
    (folder / "modules.builtin").write_text("kernel/drivers/net/dummy.ko\n")
    return folder


def test_files_and_built_in_modules_are_distinguished(folder: Path) -> None:
    plan = modules.find_in(kernel(folder=folder), ["veth", "dummy"])
    assert plan.files == (folder / "kernel" / "veth.ko.xz",)
    assert plan.builtin == ("dummy",)


def test_a_module_that_the_kernel_lacks_is_named_with_the_kernel(folder: Path) -> None:
    with pytest.raises(SelectorError, match=r"the kernel 6\.1 \(6\.1\.0-56\) has no module 'vath'") as caught:
        modules.find_in(kernel(folder=folder), ["vath"])
    assert caught.value.hint == "did you mean veth?"


@pytest.mark.parametrize("folder_there", [True, False])
def test_nothing_asked_for_is_nothing(tmp_path: Path, folder_there: bool) -> None:
    absent = tmp_path / "absent" if folder_there else None
    assert modules.find_in(kernel(folder=absent), []) == modules.ModulePlan((), ())


def test_without_modules_the_configuration_says_what_is_built_in(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "CONFIG_VETH=y\nCONFIG_VIRTIO_NET=y\nCONFIG_OVERLAY_FS=y\nCONFIG_DUMMY=m\n# CONFIG_TUN is not set\n"
    )
    assert modules.find_in(kernel(config=config), ["veth", "virtio-net"]).builtin == ("veth", "virtio_net")
    assert modules.find_in(kernel(config=config), ["overlay"]).builtin == ("overlay",)
    for name in ("dummy", "tun", "vet"):
        with pytest.raises(SelectorError, match=rf"lacks CONFIG_{name.upper()}=y"):
            modules.find_in(kernel(config=config), ["veth", name])


def test_without_modules_and_configuration_it_is_unknown() -> None:
    with pytest.raises(SelectorError, match="has no module files, and no configuration"):
        modules.find_in(kernel(), ["veth"])
