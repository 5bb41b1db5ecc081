"""Kernels at a path: files, built trees, folders with boot/, and what is none of these."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import KernelFileError, SelectorError
from harness.kernel import acquire, resolve
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.providers import local
from harness.kernel.version import KernelVersion
from tests.unit.kernel.kernel_fakes import CONFIG, EM_AARCH64, bzimage, elf, gzipped, kernel_image, module


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_bzimage_with_its_configuration_beside_it(tmp_path: Path) -> None:
    image = write(tmp_path / "bzImage", kernel_image("5.10.0-46-amd64", "#1 SMP Debian 5.10.262-1"))
    write(tmp_path / "config-5.10.0-46-amd64", CONFIG.encode())
    [choice] = resolve([str(image)])
    assert (choice.label, choice.version, choice.provider) == ("bzImage", KernelVersion(5, 10, 262), "local")
    kernel = acquire(choice)
    assert kernel.release == "5.10.0-46-amd64"
    assert kernel.config is not None
    assert kernel.origin == f"file {image}"
    assert kernel.bzimage is not None
    assert kernel_cache.folder() in kernel.bzimage.parents


def test_a_changed_file_is_another_kernel(tmp_path: Path) -> None:
    image = write(tmp_path / "bzImage", kernel_image())
    first = acquire(resolve([str(image)])[0])
    assert acquire(resolve([str(image)])[0]) == first
    write(image, kernel_image("6.1.8-other"))
    assert acquire(resolve([str(image)])[0]).release == "6.1.8-other"


def test_a_vmlinux(tmp_path: Path) -> None:
    image = write(tmp_path / "vmlinux", elf(release="6.6.0-rc3+"))
    [choice] = resolve([str(image)])
    assert choice.version == KernelVersion(6, 6, 0, 3)
    kernel = acquire(choice)
    assert kernel.bzimage is None
    assert kernel.boot_image == kernel.vmlinux


def test_a_built_tree(tmp_path: Path) -> None:
    write(tmp_path / "linux/arch/x86/boot/bzImage", kernel_image())
    write(tmp_path / "linux/.config", CONFIG.encode())
    [choice] = resolve([f"{tmp_path}/linux/"])
    assert choice.label == "linux"
    assert acquire(choice).config is not None


@pytest.mark.parametrize("modules", ["lib/modules", "usr/lib/modules"])
def test_a_folder_with_boot_and_modules(tmp_path: Path, modules: str) -> None:
    write(tmp_path / "root/boot/vmlinuz-6.1.7-fake-amd64", kernel_image())
    write(tmp_path / f"root/{modules}/6.1.7-fake-amd64/kernel/m.ko", module())
    (tmp_path / f"root/{modules}/6.1.7-fake-amd64/build").symlink_to("/usr/src/linux")
    kernel = acquire(resolve([f"{tmp_path}/root"])[0])
    assert kernel.modules is not None
    assert (kernel.modules / "kernel/m.ko").read_bytes() == module()
    assert not (kernel.modules / "build").is_symlink()


def test_one_image_with_and_without_modules_is_two_kernels(tmp_path: Path) -> None:
    for name in ("bare", "one", "two"):
        write(tmp_path / name / "boot/vmlinuz-6.1.7-fake-amd64", kernel_image())
    for name, content in (("one", module()), ("two", module() + b"x")):
        write(tmp_path / name / "lib/modules/6.1.7-fake-amd64/kernel/m.ko", content)
    bare, one, two = (acquire(resolve([f"{tmp_path}/{name}"])[0]) for name in ("bare", "one", "two"))
    assert bare.modules is None
    assert one.modules is not None
    assert two.modules is not None
    assert (two.modules / "kernel/m.ko").read_bytes() != (one.modules / "kernel/m.ko").read_bytes()
    write(tmp_path / "bare/boot/config-6.1.7-fake-amd64", CONFIG.encode() + b"CONFIG_NET=y\n")
    changed = acquire(resolve([f"{tmp_path}/bare"])[0])
    assert changed.settings is not None
    assert changed.settings["NET"] == "y"


def test_the_origin_of_a_copy_is_its_own_path(tmp_path: Path) -> None:
    copies = [write(tmp_path / name / "bzImage", kernel_image()) for name in ("one", "two")]
    assert [acquire(resolve([str(copy)])[0]).origin for copy in copies] == [f"file {copy}" for copy in copies]


def test_modules_of_another_release_are_named(tmp_path: Path) -> None:
    write(tmp_path / "root/boot/vmlinuz-6.1.7-fake-amd64", kernel_image())
    write(tmp_path / "root/lib/modules/6.1.6-fake-amd64/kernel/m.ko", module())
    said: list[str] = []
    catalog = Catalog(progress=said.append)
    assert catalog.acquire(catalog.resolve([f"{tmp_path}/root"])[0]).modules is None
    assert said[0] == "root: no module can be used: lib/modules has 6.1.6-fake-amd64"


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KernelFileError, match="neither a file nor a folder"):
        resolve([f"{tmp_path}/pipe"])


def test_a_folder_with_two_kernels_is_ambiguous(tmp_path: Path) -> None:
    for release in ("6.1.7", "6.1.8"):
        write(tmp_path / f"root/boot/vmlinuz-{release}", kernel_image(release))
    with pytest.raises(SelectorError, match="ambiguous") as caught:
        resolve([f"{tmp_path}/root"])
    assert "vmlinuz-6.1.8" in caught.value.hint


def test_a_tree_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    write(tmp_path / "linux/Makefile", b"")
    write(tmp_path / "linux/Kconfig", b"")
    with pytest.raises(KernelFileError, match="is not built") as caught:
        resolve([f"{tmp_path}/linux"])
    assert "harness kernels build --source" in caught.value.hint


BAD = {
    "empty": (b"", "is not a kernel image"),
    "text": (b"hello\n" * 1000, "is not a kernel image"),
    "half": (kernel_image()[: len(kernel_image()) - 200], "cut short"),
    "arm": (elf(machine=EM_AARCH64), "which QEMU does not boot on arm64"),
    "short": (elf()[:-20], "cut short"),
    "anonymous": (bzimage(gzipped(elf()), release="nonsense"), "does not say which version"),
    "arm inside": (bzimage(gzipped(elf(machine=EM_AARCH64))), "AArch64"),
    "no bpf": (elf(content=b"IKCFG_ST" + gzipped(b"CONFIG_NET=y\n")), "without the bpf"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unusable_file_is_one_clear_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    image = write(tmp_path / "image", data)
    with pytest.raises(KernelFileError, match=message) as caught:
        [acquire(choice) for choice in resolve([str(image)])]
    assert caught.value.exit_status == 2
    assert list((kernel_cache.folder() / "store").glob("*")) == []


def test_what_does_not_exist_or_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KernelFileError, match="does not exist"):
        resolve([f"{tmp_path}/nothing"])
    with pytest.raises(KernelFileError, match="contains no kernel"):
        resolve([f"{tmp_path}/empty"])


def test_a_file_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write(tmp_path / "image", kernel_image())

    def refuse(self: Path, *how: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(KernelFileError, match="Permission denied") as caught:
        local.find(image)
    assert "/boot" in caught.value.hint


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root/boot").mkdir(parents=True)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(KernelFileError, match="root/boot cannot be read: Permission denied"):
        local.find(tmp_path / "root")


def test_a_path_that_the_system_refuses_is_one_error() -> None:
    with pytest.raises(KernelFileError, match="cannot be read: File name too long"):
        resolve([f"/{'a' * 300}"])


def test_host_is_the_running_kernels_image_or_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.release", lambda: "9.9.9-none")
    with pytest.raises(KernelFileError, match=r"running kernel 9\.9\.9-none") as caught:
        resolve(["host"])
    assert "/boot/vmlinuz-9.9.9-none" in caught.value.expected
    image = write(tmp_path / "vmlinuz-6.1.7", kernel_image())
    monkeypatch.setattr(local, "host_image", lambda: image)
    [choice] = resolve(["host"])
    assert choice.label == "host"


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("6.1.0-56-cloud-amd64 (x) #1 SMP Debian 6.1.192-2 (2026-11-16)", "6.1.192"),
        ("7.3-cloud-amd64 (x) #1 SMP Debian 7.3~rc7-1~exp1 (2026)", "7.3-rc7"),
        ("6.6.17-060617-generic (x) #1", "6.6.17"),
        ("6.12.0-rc2+ (x)", "6.12-rc2"),
        ("4.12.4 (x)", "4.12.4"),
        ("6.1.192-minimal (x) (gcc (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld 2.40) #1 SMP Thu Jan  1 1970", "6.1.192"),
        ("6.1.0-56-amd64 (x) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP Debian 6.1.192-2 (2026)", "6.1.192"),
    ],
)
def test_versions_in_banners(banner: str, version: str) -> None:
    assert str(local.version_of(banner, "image")) == version
