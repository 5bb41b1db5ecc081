"""Which kernels can run on the host's own root file system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.kernel.files.root_fs import lacks
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from tests.unit.kernel.kernel_fakes import module

KERNEL = Kernel("6.1", KernelVersion(6, 1, 192), "6.1.0-56", None, Path("vmlinux"), True, None, None, "", "", "a test")

BUILT_IN = "CONFIG_9P_FS=y\nCONFIG_NET_9P_VIRTIO=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_OVERLAY_FS=y\n"
MODULAR = BUILT_IN.replace("=y", "=m")


def with_config(folder: Path, text: str) -> Kernel:
    config = folder / "config"
    config.write_text(text)
    return replace(KERNEL, config=config)


def with_modules(kernel: Kernel, folder: Path, *names: str) -> Kernel:
    modules = folder / "6.1.0-56"
    modules.mkdir()
    for name in names:
        (modules / f"{name}.ko").write_bytes(module())
    (modules / "modules.dep").write_text("".join(f"{name}.ko:\n" for name in names))
    return replace(kernel, modules=modules)


ALL = ("9p", "9pnet_virtio", "virtio_pci", "overlay")


def test_a_kernel_with_all_built_in_lacks_nothing(tmp_path: Path) -> None:
    assert lacks(with_config(tmp_path, BUILT_IN)) == []


@pytest.mark.parametrize("option", ["CONFIG_9P_FS", "CONFIG_OVERLAY_FS"])
def test_an_option_that_is_off_is_named(tmp_path: Path, option: str) -> None:
    text = BUILT_IN.replace(f"{option}=y", f"# {option} is not set")
    assert lacks(with_config(tmp_path, text)) == [option]


def test_a_module_counts_when_its_file_is_there(tmp_path: Path) -> None:
    kernel = with_config(tmp_path, MODULAR)
    assert lacks(kernel) == ["CONFIG_9P_FS", "CONFIG_NET_9P_VIRTIO", "CONFIG_VIRTIO_PCI", "CONFIG_OVERLAY_FS"]
    assert lacks(with_modules(kernel, tmp_path, *ALL)) == []


def test_without_a_configuration_the_module_files_decide(tmp_path: Path) -> None:
    assert lacks(with_modules(KERNEL, tmp_path, *ALL[1:])) == ["CONFIG_9P_FS"]


def test_nothing_is_known_about_a_bare_image() -> None:
    assert lacks(KERNEL) == []
