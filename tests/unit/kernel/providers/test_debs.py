"""What is taken of a kernel's package, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernel.providers.debs import unpack
from tests.unit.kernel.kernel_fakes import deb

RELEASE = "7.2.13-x"


@pytest.mark.parametrize("place", [f"usr/lib/modules/{RELEASE}/vmlinuz", f"boot/vmlinuz-{RELEASE}"])
@pytest.mark.parametrize(("image", "name"), [(b"\x7fELF of ppc64el", "vmlinux"), (b"MZ of x86-64", "vmlinuz")])
def test_an_image_is_named_by_what_it_is(tmp_path: Path, place: str, image: bytes, name: str) -> None:
    package = tmp_path / "p.deb"
    package.write_bytes(deb({place: image, f"boot/config-{RELEASE}": b"CONFIG_BPF=y\n"}))
    target = tmp_path / "made"
    target.mkdir()
    unpack(package, RELEASE, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {name: image, "config": b"CONFIG_BPF=y\n"}
