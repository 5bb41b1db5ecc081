"""Kernels in packages, archives and containers: recognised by content, unpacked, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import zstandard

from harness.errors import KernelFileError, MirrorError, SelectorError
from harness.kernel import acquire, prune, resolve
from harness.kernel.files import packages, rpm
from harness.kernel.types import Kernel
from tests.needs import needs_program
from tests.servers.rpm import build, sign
from tests.unit.kernel.kernel_fakes import CONFIG, Signer, arm64_image, deb, kernel_image, module, tarball

RELEASE = "6.6.15-x86"
FILES = {
    f"boot/vmlinuz-{RELEASE}": kernel_image(RELEASE),
    f"boot/config-{RELEASE}": CONFIG.encode(),
    f"lib/modules/{RELEASE}/kernel/m.ko": module(),
}
IN_MODULES = {
    f"lib/modules/{RELEASE}/vmlinuz": kernel_image(RELEASE),
    f"lib/modules/{RELEASE}/config": CONFIG.encode(),
    f"usr/lib/modules/{RELEASE}/kernel/m.ko": module(),
    f"lib/modules/{RELEASE}/build/Makefile": b"",
}


def kernel_at(path: Path, label: str = "") -> Kernel:
    [choice] = resolve([str(path)])
    assert choice.label == (label or path.name)
    return acquire(choice)


def assert_whole(kernel: Kernel) -> None:
    assert (kernel.release, str(kernel.version)) == (RELEASE, "6.6.15")
    assert kernel.config is not None
    assert kernel.config.read_text() == CONFIG
    assert kernel.modules is not None
    assert [path.name for path in kernel.modules.rglob("*") if path.is_file()] == ["m.ko"]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("files", [FILES, IN_MODULES])
@pytest.mark.parametrize("name", ["linux-image.deb", "no-ending"])
def test_a_debian_package(tmp_path: Path, files: Mapping[str, bytes], name: str) -> None:
    path = write(tmp_path / name, deb(files))
    kernel = kernel_at(path)
    assert_whole(kernel)
    assert kernel.origin == f"file {path}"
    assert kernel_at(path) == kernel
    [victim] = [one for one in prune.victims(unused_days=None, everything=False, now=0.0) if not one.entry]
    assert (victim.path.parent.name, victim.reason) == ("unpacked", "can be unpacked again")
    prune.remove(victim)
    assert kernel_at(path) == kernel


def test_a_debian_package_compressed_with_zstandard(tmp_path: Path) -> None:
    plain = deb(FILES, compression="")
    start = plain.index(b"data.tar") + 60
    data = zstandard.compress(plain[start:])
    head = f"{'data.tar.zst':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    assert_whole(kernel_at(write(tmp_path / "x.deb", plain[: start - 60] + head + data)))


def test_modules_are_taken_from_the_package_beside_it(tmp_path: Path) -> None:
    image = {f"boot/vmlinuz-{RELEASE}": kernel_image(RELEASE)}
    rest = {name: data for name, data in FILES.items() if "vmlinuz" not in name}
    write(tmp_path / f"linux-modules-{RELEASE}_6.6.15-1_amd64.deb", deb(rest))
    write(tmp_path / "linux-modules-6.6.14-x86_6.6.14-1_amd64.deb", deb({"lib/modules/6.6.14-x86/kernel/n.ko": b""}))
    assert_whole(kernel_at(write(tmp_path / f"linux-image-unsigned-{RELEASE}_6.6.15-1_amd64.deb", deb(image))))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, zstandard.compress])
@pytest.mark.parametrize("top", ["", "linux-6.6.15/"])
def test_an_archive(tmp_path: Path, compress: Callable[[bytes], bytes], top: str) -> None:
    plain = lzma.decompress(tarball({f"{top}{name}": data for name, data in FILES.items()}))
    assert_whole(kernel_at(write(tmp_path / "kernel", compress(plain))))


@pytest.mark.parametrize("compression", ["w1.zstdio", "w2.xzdio", "w6.gzdio"])
def test_an_rpm_package(tmp_path: Path, compression: str) -> None:
    needs_program("rpmbuild", "rpm")
    files = {name: data for name, data in IN_MODULES.items() if "build" not in name}
    assert_whole(kernel_at(build(tmp_path, "kernel-core", "6.6.15", "1.el9", files, compression=compression)))


def pe(sections: Mapping[bytes, bytes]) -> bytes:
    """A PE file with these sections."""
    start = 0x80
    head = bytearray(b"MZ" + bytes(0x3A) + struct.pack("<I", start)).ljust(start, b"\0")
    head += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 0, 0)
    at = 4096
    body = b""
    for name, data in sections.items():
        padded = data + bytes(-len(data) % 512)
        head += struct.pack("<8sIIIIIIHHI", name, len(data), at, len(padded), at + len(body), 0, 0, 0, 0, 0)
        body += padded
    return bytes(head.ljust(4096, b"\0")) + body


def test_a_unified_kernel_image(tmp_path: Path) -> None:
    image = kernel_image(RELEASE)
    path = write(tmp_path / "linux.efi", pe({b".osrel": b"ID=x", b".linux": image, b".initrd": bytes(1000)}))
    kernel = kernel_at(path)
    assert kernel.bzimage is not None
    assert kernel.bzimage.read_bytes() == image


def test_a_unified_kernel_image_around_a_compressed_efi_image(tmp_path: Path) -> None:
    inner = zboot(gzip.compress(arm64_image(RELEASE)), "gzip")
    assert kernel_at(write(tmp_path / "linux.efi", pe({b".linux": inner})), "linux.efi-arm64").release == RELEASE


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_unified_kernel_image_that_is_cut_short(tmp_path: Path, share: float) -> None:
    whole = pe({b".osrel": b"ID=x", b".linux": kernel_image(RELEASE)})
    with pytest.raises(KernelFileError, match=r"linux\.efi is cut short: the kernel in it ends at byte"):
        resolve([str(write(tmp_path / "linux.efi", whole[: int(len(whole) * share)]))])


def test_an_efi_program_without_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="EFI program in which no kernel is found"):
        resolve([str(write(tmp_path / "stub.efi", pe({b".text": b"x", b".osrel": b"ID=x"})))])


def zboot(payload: bytes, compression: str) -> bytes:
    head = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(8) + compression.encode()
    return head.ljust(64, b"\0") + payload


@pytest.mark.parametrize(
    ("compress", "name"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd"), (lzma.compress, "xzkern")]
)
def test_a_compressed_efi_image(tmp_path: Path, compress: Callable[[bytes], bytes], name: str) -> None:
    assert kernel_at(write(tmp_path / "vmlinuz.efi", zboot(compress(kernel_image(RELEASE)), name))).release == RELEASE


def test_a_compressed_efi_image_for_arm64(tmp_path: Path) -> None:
    path = write(tmp_path / "vmlinuz.efi", zboot(gzip.compress(arm64_image(RELEASE)), "gzip"))
    [choice] = resolve([str(path)])
    assert choice.architecture == "arm64"
    assert acquire(choice).release == RELEASE


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zboot(b"short", "gzip")[:66], r"vmlinuz\.efi is cut short: the kernel in it ends at byte 69, the file has 66"),
        (zboot(b"", "lzo"), r"vmlinuz\.efi is compressed with 'lzo', which the harness does not unpack"),
        (zboot(b"no gzip", "gzip"), r"vmlinuz\.efi is damaged"),
    ],
)
def test_a_damaged_compressed_efi_image(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(KernelFileError, match=message):
        resolve([str(write(tmp_path / "vmlinuz.efi", data))])


# containers


def oci(folder: Path, layers: list[bytes], *, architecture: str = "amd64") -> Path:
    """An OCI layout with one image behind an index."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = blob(json.dumps({"schemaVersion": 2, "layers": [blob(layer) for layer in layers]}).encode())
    other = {"digest": f"sha256:{'0' * 64}", "size": 1, "platform": {"os": "linux", "architecture": "riscv64"}}
    inner = {"manifests": [other, {**manifest, "platform": {"os": "linux", "architecture": architecture}}]}
    (folder / "index.json").write_text(json.dumps({"manifests": [blob(json.dumps(inner).encode())]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


LAYERS = [
    gzip.compress(lzma.decompress(tarball({"boot/vmlinuz": kernel_image(RELEASE), "etc/passwd": b""}))),
    zstandard.compress(
        lzma.decompress(tarball({"boot/config": CONFIG.encode(), f"lib/modules/{RELEASE}/kernel/m.ko": module()}))
    ),
]


def test_a_container_image(tmp_path: Path) -> None:
    assert_whole(kernel_at(oci(tmp_path / "image", LAYERS)))


def test_a_container_image_in_one_file(tmp_path: Path) -> None:
    folder = oci(tmp_path / "image", LAYERS)
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(folder, arcname=".")
    assert_whole(kernel_at(tmp_path / "image.tar"))


def test_a_container_image_for_another_architecture(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="no image for linux/amd64"):
        resolve([str(oci(tmp_path / "image", LAYERS, architecture="arm64"))])


def test_a_changed_layer_is_seen(tmp_path: Path) -> None:
    folder = oci(tmp_path / "image", LAYERS)
    largest = max((folder / "blobs/sha256").glob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    with pytest.raises(KernelFileError, match="missing or damaged"):
        resolve([str(folder)])


# bad ones


@pytest.mark.parametrize("make", [deb, tarball])
def test_a_package_without_a_kernel(tmp_path: Path, make: Callable[[Mapping[str, bytes]], bytes]) -> None:
    with pytest.raises(KernelFileError, match="has no kernel in it"):
        resolve([str(write(tmp_path / "x", make({"usr/share/doc/x": b"x"})))])


def test_two_kernels_are_ambiguous(tmp_path: Path) -> None:
    files = {f"boot/vmlinuz-{release}": kernel_image(release) for release in ("6.1.1-a", "6.1.2-b")}
    path = write(tmp_path / "x.tar.xz", tarball(files))
    with pytest.raises(SelectorError, match=r"x\.tar\.xz is ambiguous: it contains 2 kernels") as caught:
        resolve([str(path)])
    assert caught.value.what.startswith(str(path))
    assert caught.value.hint == "unpack it, and name one of them: boot/vmlinuz-6.1.1-a, boot/vmlinuz-6.1.2-b"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_package_that_is_cut_short(tmp_path: Path, share: float) -> None:
    data = deb(FILES)
    with pytest.raises(KernelFileError, match="not a whole Debian package"):
        resolve([str(write(tmp_path / "x.deb", data[: int(len(data) * share)]))])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_an_rpm_package_that_is_cut_short(tmp_path: Path, share: float) -> None:
    needs_program("rpmbuild", "rpm")
    whole = build(tmp_path, "kernel-core", "6.6.15", "1.el9", FILES | {"boot/x": bytes(range(256)) * 400})
    data = whole.read_bytes()
    with pytest.raises(KernelFileError, match="not a whole RPM package"):
        resolve([str(write(tmp_path / "cut.rpm", data[: int(len(data) * share)]))])


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("./boot/vmlinuz-6.1", "boot/vmlinuz-6.1"),
        ("/usr/lib/modules/6.1/vmlinuz", "boot/vmlinuz-6.1"),
        ("./usr/lib/modules/6.1/kernel/a.ko", "lib/modules/6.1/kernel/a.ko"),
        ("lib/modules/6.1/build/x", None),
        ("lib/modules/6.1/../../../etc/passwd", None),
        ("etc/passwd", None),
    ],
)
def test_where_files_of_packages_belong(name: str, place: str | None) -> None:
    assert packages.placed(name) == place


# an RPM package's own signature


def test_the_signature_of_an_rpm_package(tmp_path: Path, signers: tuple[Signer, Signer]) -> None:
    needs_program("rpmbuild", "rpm")
    path = build(tmp_path, "kernel-core", "6.6.15", "1.el9", FILES)
    with pytest.raises(MirrorError, match="is not signed"):
        rpm.verify(rpm.read(path), [signers[0].keyring])
    sign(path, signers[0])
    package = rpm.read(path)
    assert (package.name, package.version, package.architecture) == ("kernel-core", "6.6.15-1.el9", "x86_64")
    assert rpm.verify(package, [signers[0].keyring]).note == ""
    with pytest.raises(MirrorError, match="not in the keyring"):
        rpm.verify(package, [signers[1].keyring])
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(MirrorError, match="differs from its signed header"):
        rpm.verify(rpm.read(path), [signers[0].keyring])
    data[package.payload - 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(MirrorError, match="is not valid"):
        rpm.verify(rpm.read(path), [signers[0].keyring])
