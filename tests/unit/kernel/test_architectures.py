"""Kernels of another architecture: selectors, labels, where they come from, what is refused."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import KernelFileError, MirrorError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel import lockfile, prune
from harness.kernel.catalog import Catalog, policy
from harness.kernel.files import bzimage, raw_image
from harness.kernel.selection import arrange, meets, select
from harness.kernel.selector import Item, parse, parse_condition
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.util import architecture
from tests.unit.kernel.kernel_fakes import (
    CONFIG,
    Archive,
    arm64_image,
    armhf_image,
    elf,
    kernel_image,
    riscv64_image,
    s390x_image,
)

X86, ARM, PAGES = "6.1.0-50-cloud-amd64", "6.1.0-50-cloud-arm64", "6.12.9-arm64-16k"


@pytest.fixture(autouse=True)
def an_x86_64_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    architecture.own.cache_clear()
    yield
    monkeypatch.undo()
    architecture.own.cache_clear()


def add(archive: Archive, release: str, revision: str, image: bytes) -> Path:
    files = {f"boot/vmlinuz-{release}": image, f"boot/config-{release}": CONFIG.encode()}
    return archive.add("bookworm", f"linux-image-{release}", revision, files, padding=150_000)


@pytest.fixture
def mixed(archive: Archive) -> Archive:
    """An archive with kernels of two architectures, and one package whose image is of the other."""
    add(archive, X86, "6.1.176-1", kernel_image(X86, "#1 SMP Debian 6.1.176-1"))
    add(archive, ARM, "6.1.176-1", arm64_image(ARM, "#1 SMP Debian 6.1.176-1"))
    add(archive, PAGES, "6.12.9-1", arm64_image(PAGES, "#1 SMP Debian 6.12.9-1"))
    add(archive, "6.6.9-cloud-amd64", "6.6.9-1", arm64_image("6.6.9-cloud-amd64", "#1 SMP Debian 6.6.9-1"))
    archive.publish()
    return archive


# the grammar


@pytest.mark.parametrize(
    ("text", "word", "arch", "flavour"),
    [
        ("6.12:arm64", "6.12", "arm64", ""),
        ("arm64:6.12", "6.12", "arm64", ""),
        ("6.12:aarch64", "6.12", "arm64", ""),
        ("6.12:x86_64", "6.12", "amd64", ""),
        ("6.12:riscv64", "6.12", "riscv64", ""),
        ("all:riscv64", "all", "riscv64", ""),
        ("6.12:armhf", "6.12", "armhf", ""),
        ("6.12:armv7l", "6.12", "armhf", ""),
        ("6.12:arm64:16k", "6.12", "arm64", "16k"),
        ("6.12:16k:arm64", "6.12", "arm64", "16k"),
        ("arm64:16k:6.12", "6.12", "arm64", "16k"),
        ("debian:6.12:arm64:rt", "6.12", "arm64", "rt"),
        ("all:arm64", "all", "arm64", ""),
        ("arm64:all", "all", "arm64", ""),
        ("lts:arm64:rt", "lts", "arm64", "rt"),
        (">=5.10:arm64", ">=5.10", "arm64", ""),
        ("1:6.1.0-2", "1:6.1.0-2", "", ""),
        ("1:6.1.0-2:arm64", "1:6.1.0-2", "arm64", ""),
        ("6.1.0-50-cloud-arm64", "6.1.0-50-cloud-arm64", "arm64", ""),
        ("6.12:debug", "6.12", "", "debug"),
    ],
)
def test_an_item_may_name_its_architecture(text: str, word: str, arch: str, flavour: str) -> None:
    [item] = parse(text)
    assert (item.word, item.architecture, item.flavour) == (word, arch, flavour)


def test_one_architecture_ends_a_range() -> None:
    [item] = parse(">=5.10,<6.13:arm64")
    assert (item.bounds, item.architecture) == (((">=", "5.10"), ("<", "6.13")), "arm64")
    assert [one.architecture for one in parse(">=5.10:arm64,<6.13")] == ["arm64", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6.12:mips", "the harness boots no kernels for 'mips'"),
        ("mips:6.12", "the harness boots no kernels for 'mips'"),
        ("6.12:sparc64:debug", "the harness boots no kernels for 'sparc64'"),
        ("6.12:arm64:amd64", "it names two architectures, arm64 and amd64"),
        ("6.12:rt:cloud", "it names two flavours, rt and cloud"),
        ("6.12:6.1", "'6.1' is neither an architecture nor a flavour"),
        ("6.12:ARM64", "'ARM64' is neither an architecture nor a flavour"),
    ],
)
def test_a_wrong_architecture_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "expected:" in str(caught.value)


# which kernels, and what they are called


def offer(version: str, arch: str, flavour: str = "cloud") -> Choice:
    return Choice("", KernelVersion.parse(version), "debian", f"{version}-{arch}-{flavour}", flavour, architecture=arch)


OFFERS = [offer("6.1.9", "amd64"), offer("6.1.9", "arm64"), offer("6.12.9", "arm64"), offer("6.12.9", "arm64", "16k")]


def labels(text: str, default: str = "") -> list[str]:
    return [choice.label for item in parse(text) for choice in select(item, OFFERS, policy(default))]


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("6.1", "", ["6.1"]),
        ("6.1:amd64", "", ["6.1"]),
        ("6.12", "", []),
        ("6.1:arm64", "", ["6.1-arm64"]),
        ("arm64:6.1", "", ["6.1-arm64"]),
        ("debian:6.12:arm64:16k", "", ["debian:6.12-arm64:16k"]),
        ("debian:6.12-arm64:16k", "", ["debian:6.12-arm64:16k"]),  # a label is a selector
        ("6.12-arm64", "amd64", ["6.12-arm64"]),
        ("6.12.*:arm64", "", ["6.12.9-arm64"]),
        ("all:arm64", "", ["6.1-arm64", "6.12-arm64"]),
        ("all", "", ["6.1"]),
        ("6.1", "arm64", ["6.1-arm64"]),
        ("all", "arm64", ["6.1-arm64", "6.12-arm64"]),
        ("6.1:amd64", "arm64", ["6.1"]),
    ],
)
def test_a_selector_means_one_architecture_and_the_label_shows_a_foreign_one(
    text: str, default: str, expected: list[str]
) -> None:
    assert labels(text, default) == expected


def test_this_machines_architecture_comes_first() -> None:
    chosen = [
        choice for text in ("6.1:arm64", "6.1") for item in parse(text) for choice in select(item, OFFERS, policy())
    ]
    assert [choice.label for choice in arrange(chosen)] == ["6.1", "6.1-arm64"]


def test_a_condition_without_an_architecture_is_met_by_all() -> None:
    def met(condition: str) -> list[str]:
        items: list[Item] = parse_condition(condition)
        return [f"{one.version} {one.architecture}" for one in OFFERS[:2] if meets(one, items, policy())]

    assert met(">=6.1") == ["6.1.9 amd64", "6.1.9 arm64"]
    assert met(">=6.1:arm64") == ["6.1.9 arm64"]


# from the archive to the cache


def test_the_archive_is_asked_for_the_architecture(mixed: Archive) -> None:
    lines: list[str] = []
    catalog = Catalog(progress=lines.append)
    [x86, arm] = catalog.resolve(["6.1:arm64", "6.1"])
    assert [(one.label, one.architecture, one.release) for one in (x86, arm)] == [
        ("6.1", "amd64", X86),
        ("6.1-arm64", "arm64", ARM),
    ]
    kernel = catalog.acquire(arm)
    assert (kernel.architecture, kernel.release, kernel.pvh, kernel.vmlinux) == ("arm64", ARM, False, None)
    assert kernel.boot_image.read_bytes() == arm64_image(ARM, "#1 SMP Debian 6.1.176-1")
    assert any("package indexes of arm64" in line for line in lines)
    # Another release, another flavour.
    [pages] = catalog.resolve(["6.12:arm64"])
    assert pages.flavour == "16k"


def test_a_default_architecture_is_for_selectors_that_name_none(mixed: Archive) -> None:
    catalog = Catalog(default="aarch64")
    assert [choice.label for choice in catalog.resolve(["all", "6.1:amd64"])] == ["6.1", "6.1-arm64", "6.12-arm64"]
    with pytest.raises(SelectorError, match="the harness boots no kernels for 'mips'"):
        Catalog(default="mips")


def test_a_flavour_that_no_kernel_has_may_be_meant_for_an_architecture(mixed: Archive) -> None:
    with pytest.raises(SelectorError, match="'armada' is neither an architecture nor a flavour") as caught:
        Catalog().resolve(["6.1:armada"])
    assert "amd64, arm64" in str(caught.value)


def test_a_series_that_another_architecture_has_is_not_enough(mixed: Archive) -> None:
    with pytest.raises((SelectorError, MirrorError), match=r"6\.6:arm64"):
        Catalog().resolve(["6.6:arm64"])


def test_a_package_with_an_image_of_another_architecture_is_refused(mixed: Archive) -> None:
    catalog = Catalog()
    [choice] = catalog.resolve(["6.6"])
    with pytest.raises(KernelFileError, match="is for arm64") as caught:
        catalog.acquire(choice)
    assert "expected: a kernel for x86-64" in str(caught.value)
    assert kernel_cache.entries() == []


def test_a_lock_file_names_the_architecture_and_one_that_lies_is_refused(mixed: Archive, tmp_path: Path) -> None:
    catalog = Catalog()
    [choice] = catalog.resolve(["6.1:arm64"])
    kernel = catalog.acquire(choice)
    lock = tmp_path / "kernels.lock"
    lockfile.write(lock, [dataclasses.replace(choice, sha256=kernel.digest)], {})
    assert [(one.label, one.architecture) for one in lockfile.read(lock)] == [("6.1-arm64", "arm64")]
    data = json.loads(lock.read_text())
    data["kernels"][0]["architecture"] = "amd64"
    lock.write_text(json.dumps(data))
    with pytest.raises(KernelFileError, match=r"is a kernel for arm64\n  expected: a kernel for amd64"):
        catalog.acquire(lockfile.read(lock)[0])
    del data["kernels"][0]["architecture"]
    lock.write_text(json.dumps(data))
    assert lockfile.read(lock)[0].architecture == "amd64"


def test_a_newer_kernel_of_another_architecture_replaces_nothing(mixed: Archive) -> None:
    add(mixed, "6.1.0-51-cloud-arm64", "6.1.180-1", arm64_image("6.1.0-51-cloud-arm64"))
    mixed.publish()
    catalog = Catalog()
    for choice in catalog.resolve(["6.1.176", "6.1.176:arm64", "6.1:arm64"]):
        catalog.acquire(choice)
    victims = [victim.path.name for victim in prune.victims(unused_days=None, everything=False, now=0)]
    assert victims == [f"debian-{ARM}=6.1.176-1"]


def test_list_shows_the_kernels_of_one_architecture(mixed: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*words: str) -> list[list[str]]:
        assert main(["kernels", "list", *words]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("6.")]

    assert [row[1] for row in listed("--arch", "arm64")] == ["6.1.176", "6.12.9"]
    assert [row[3] for row in listed("6.1:arm64")] == [ARM]
    assert main(["kernels", "list", "--arch", "mips"]) == 2
    assert "the harness boots no kernels for 'mips'" in capsys.readouterr().err


# images


def test_an_image_tells_its_architecture() -> None:
    found = {
        name: bzimage.architecture_of(data, name)
        for name, data in {
            "bzImage": kernel_image(),
            "Image": arm64_image(),
            "image of s390x": s390x_image(),
            "Image of riscv64": riscv64_image(),
            "zImage": armhf_image(),
            "vmlinux": elf(),
            "arm64 vmlinux": elf(machine=183),
            "mips vmlinux": elf(machine=8),
        }.items()
    }
    assert {name: one and one.name for name, one in found.items()} == {
        "bzImage": "amd64",
        "Image": "arm64",
        "image of s390x": "s390x",
        "Image of riscv64": "riscv64",
        "zImage": "armhf",
        "vmlinux": "amd64",
        "arm64 vmlinux": "arm64",
        "mips vmlinux": None,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (arm64_image(size=1 << 20), "is cut short"),
        (riscv64_image(size=1 << 20), "is cut short"),
        (arm64_image()[:70], "ends inside its header"),
        (arm64_image().replace(b"PE\0\0", b"PX\0\0"), "names no PE header"),
    ],
)
def test_a_damaged_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(KernelFileError, match=message):
        raw_image.check(data, "Image")


def test_a_zimage_has_its_version_in_the_compressed_kernel() -> None:
    data = armhf_image("6.12.9+deb13-armmp-lpae", "#1 SMP Debian 6.12.9-1")
    raw_image.check(data, "zImage")
    assert bzimage.elf_banner(data) == ""
    banner = bzimage.elf_banner(bzimage.plain_kernel(data, "zImage"))
    assert banner == "6.12.9+deb13-armmp-lpae (fake@host) #1 SMP Debian 6.12.9-1"
    for other in (armhf_image(table=False), arm64_image(), s390x_image(), data[:0x84]):
        assert bzimage.plain_kernel(other, "an image") == other
    end = raw_image.payload_end(data)
    for damaged in (data[: end - 4] + bytes(4) + data[end:], data.replace(b"\x1f\x8b", b"\x1f\x8c")):
        with pytest.raises(KernelFileError, match="no kernel was found in zImage: it is damaged"):
            bzimage.plain_kernel(damaged, "zImage")


def test_an_image_of_s390x_has_its_version_beside_the_compressed_kernel() -> None:
    data = s390x_image("6.12.9+deb13-s390x", "#1 SMP Debian 6.12.9-1")
    raw_image.check(data, "bzImage")
    assert raw_image.banner(data) == "6.12.9+deb13-s390x (fake@host) #1 SMP Debian 6.12.9-1"
    assert raw_image.banner(s390x_image(named=False)) == ""
    assert raw_image.banner(arm64_image()) == ""
    for length in (len(data) - 1, 0x10010):
        with pytest.raises(KernelFileError, match="is cut short"):
            raw_image.check(data[:length], "bzImage")


def test_an_image_without_a_pe_header_is_taken_as_it_is() -> None:
    raw_image.check(bytes(56) + b"ARM\x64" + bytes(100), "Image")


def test_a_compressed_efi_image_is_refused() -> None:
    data = b"MZ\0\0zimg" + bytes(1000)
    with pytest.raises(KernelFileError, match="zboot"):
        bzimage.image_kind(data, "vmlinuz")


def test_a_path_is_of_the_architecture_of_its_image(tmp_path: Path) -> None:
    image = tmp_path / "Image"
    image.write_bytes(arm64_image("6.12.9", "#1 SMP"))
    [choice] = Catalog().resolve([str(image)])
    assert (choice.label, choice.architecture) == ("Image-arm64", "arm64")
    other = tmp_path / "bzImage"
    other.write_bytes(s390x_image("6.12.9", "#1 SMP"))
    [choice] = Catalog().resolve([str(other)])
    assert (choice.label, choice.architecture) == ("bzImage-s390x", "s390x")
    assert Catalog().acquire(choice).release == "6.12.9"
    tree = tmp_path / "tree"
    built = tree / "arch" / "arm64" / "boot" / "Image"
    built.parent.mkdir(parents=True)
    built.write_bytes(image.read_bytes())
    (tree / ".config").write_text(CONFIG)
    catalog = Catalog()
    [choice] = catalog.resolve([str(tree)])
    kernel = catalog.acquire(choice)
    assert (kernel.architecture, kernel.boot_image.name) == ("arm64", "vmlinuz")
