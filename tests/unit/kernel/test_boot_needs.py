"""What a kernel's configuration must have for a boot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.errors import KernelFileError
from harness.kernel import boot_needs
from harness.kernel.build import kbuild
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from harness.util import architecture

WHOLE = {need.config: "y" for need in boot_needs.table()} | {"X86_64": "y"}


def kernel(folder: Path, settings: dict[str, str], *, modules: bool = False) -> Kernel:
    config = folder / "config"
    config.write_text("".join(f"CONFIG_{name}={value}\n" for name, value in settings.items()))
    (folder / "modules").mkdir()
    return Kernel(
        label="x",
        version=KernelVersion(6, 6),
        release="6.6",
        bzimage=folder / "bzImage",
        vmlinux=None,
        pvh=False,
        config=config,
        modules=folder / "modules" if modules else None,
        digest="",
        flavour="",
        origin="file bzImage",
    )


def test_a_kernel_with_everything(tmp_path: Path) -> None:
    assert boot_needs.modules_for_boot(kernel(tmp_path, WHOLE)) == []


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    lacking = {name: value for name, value in WHOLE.items() if name not in ("PCI", "DEVTMPFS")}
    with pytest.raises(KernelFileError, match="without CONFIG_PCI, CONFIG_DEVTMPFS") as caught:
        boot_needs.modules_for_boot(kernel(tmp_path, lacking))
    assert "CONFIG_DEVTMPFS: needed to have devices under /dev" in caught.value.detail


def test_what_is_a_module_goes_into_the_image(tmp_path: Path) -> None:
    assert boot_needs.modules_for_boot(kernel(tmp_path, WHOLE | {"UNIX": "m"}, modules=True)) == ["unix"]


def test_a_module_that_is_not_here_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="without CONFIG_UNIX") as caught:
        boot_needs.modules_for_boot(kernel(tmp_path, WHOLE | {"UNIX": "m"}))
    assert "it is a module, and unix.ko is not here" in caught.value.detail


def test_what_no_module_can_bring_must_be_built_in(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="without CONFIG_BINFMT_SCRIPT"):
        boot_needs.modules_for_boot(kernel(tmp_path, WHOLE | {"BINFMT_SCRIPT": "m"}, modules=True))


def test_what_a_symbol_stands_for_is_not_asked_of_kernels_before_it(tmp_path: Path) -> None:
    lacking = {name: value for name, value in WHOLE.items() if name not in ("COMPAT_32BIT_TIME", "X86_64")}
    found = kernel(tmp_path, lacking | {"ARM": "y"})
    with pytest.raises(KernelFileError, match="without CONFIG_COMPAT_32BIT_TIME\n"):
        boot_needs.modules_for_boot(found)
    old = dataclasses.replace(found, version=KernelVersion(5, 0, 21))
    assert boot_needs.modules_for_boot(old) == []


def test_serial_ports_of_another_machine_are_not_asked_for() -> None:
    settings = {name: value for name, value in WHOLE.items() if not name.startswith(("SERIAL", "X86"))}
    assert boot_needs.missing(settings, boot_needs.table(), has_modules=False) == []


@pytest.mark.parametrize("wanted", architecture.known())
def test_what_a_boot_needs_is_required_of_built_kernels(wanted: str) -> None:
    required = {setting.symbol for setting in kbuild.fragment_settings("minimal", wanted) if setting.required}
    own = {"amd64": "X86_64", "arm64": "ARM64", "s390x": "S390", "ppc64el": "PPC_PSERIES", "riscv64": "RISCV"}
    words = {own.get(wanted, "ARM")}
    assert {need.config for need in boot_needs.table() if not need.where or words & set(need.where.split())} <= required


CARDS = WHOLE | {"INET": "y", "PCI": "y", "VIRTIO_PCI": "m", "VIRTIO_NET": "m"}


def test_the_modules_of_a_network_card_go_into_the_image(tmp_path: Path) -> None:
    found = boot_needs.modules_for_network(kernel(tmp_path, CARDS | {"VIRTIO_PCI": "y"}, modules=True))
    assert found == ["virtio_net"]


def test_a_kernel_without_a_driver_for_network_cards_is_named_before_the_boot(tmp_path: Path) -> None:
    lacking = {name: value for name, value in CARDS.items() if name != "VIRTIO_NET"}
    with pytest.raises(KernelFileError, match=r"cannot have a network card: .* without CONFIG_VIRTIO_NET\n") as caught:
        boot_needs.modules_for_network(kernel(tmp_path, lacking, modules=True))
    assert "CONFIG_VIRTIO_NET: needed to drive the network cards" in caught.value.detail


def test_a_kernel_of_unknown_configuration_is_asked_for_the_modules(tmp_path: Path) -> None:
    unknown = dataclasses.replace(kernel(tmp_path, {}, modules=True), config=None)
    assert boot_needs.modules_for_network(unknown) == ["virtio_pci", "virtio_net"]
