"""A kernel's headers, and the symbols that it exports, out of a small signed archive on 127.0.0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import MirrorError, UsageError
from harness.kernel.catalog import Catalog
from harness.kernel.files.headers import Headers, exports_of, headers_of
from harness.kernel.types import Choice
from tests.unit.kernel.kernel_fakes import CONFIG, Archive, Server, kernel_image

RELEASE, REVISION = "6.1.0-50-cloud-amd64", "6.1.176-1"
OWN, COMMON = f"usr/src/linux-headers-{RELEASE}", "usr/src/linux-headers-6.1.0-50-common"


@pytest.fixture
def kernel(archive: Archive) -> Archive:
    files = {f"boot/vmlinuz-{RELEASE}": kernel_image(RELEASE), f"boot/config-{RELEASE}": CONFIG.encode()}
    archive.add("bookworm", f"linux-image-{RELEASE}", REVISION, files, padding=150_000)
    return archive


@pytest.fixture
def with_headers(kernel: Archive) -> Archive:
    name = f"linux-headers-{RELEASE}"
    kernel.depends[name] = f"linux-headers-6.1.0-50-common (= {REVISION}), linux-kbuild-6.1 (>= {REVISION})"
    own = {f"{OWN}/include/generated/autoconf.h": b"own", f"{OWN}/Module.symvers": b"x"}
    kernel.add("bookworm", name, REVISION, own)
    common = {
        f"{COMMON}/include/linux/bpf.h": b"bpf",
        f"{COMMON}/include/sound/core.h": b"sound",
        f"{COMMON}/arch/x86/include/asm/page.h": b"page",
        f"{COMMON}/arch/arm64/include/asm/page.h": b"arm",
        f"{COMMON}/include/../../../../escape.h": b"out",
    }
    kernel.add("bookworm", "linux-headers-6.1.0-50-common", "6.1.170-3", {f"{COMMON}/include/linux/old.h": b"old"})
    kernel.add("bookworm", "linux-headers-6.1.0-50-common", REVISION, common)
    return kernel


def bring() -> Headers:
    [choice] = Catalog().resolve(["6.1"])
    return headers_of(choice, progress=lambda line: None)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_headers_of_the_same_version_are_kept_without_what_no_program_includes(
    with_headers: Archive, server: Server
) -> None:
    with_headers.publish()
    found = bring()
    assert (found.release, found.build, found.common) == (RELEASE, OWN, COMMON)
    assert files(found.folder) == [
        f"{OWN}/include/generated/autoconf.h",
        f"{COMMON}/arch/x86/include/asm/page.h",
        f"{COMMON}/include/linux/bpf.h",
    ]
    before = len(server.requests)
    assert bring() == found
    assert len(server.requests) == before


def test_headers_that_are_not_there_are_a_clear_error_and_nothing_is_kept(kernel: Archive, cache: Path) -> None:
    kernel.publish()
    with pytest.raises(MirrorError, match=f"no headers for the kernel {RELEASE}"):
        bring()
    assert files(cache / "kernels" / "headers") == []


def test_the_symbols_that_a_kernel_exports_are_kept_alone(with_headers: Archive, server: Server, cache: Path) -> None:
    with_headers.publish()
    [choice] = Catalog().resolve(["6.1"])
    found = exports_of(choice, progress=lambda line: None)
    assert found is not None
    assert found.read_text() == "x"
    assert [Path(name).name for name in files(cache / "kernels" / "headers")] == ["Module.symvers"]
    before = len(server.requests)
    assert exports_of(choice, progress=lambda line: None) == found
    assert len(server.requests) == before


def test_a_kernel_of_another_source_has_none() -> None:
    from harness.kernel.version import KernelVersion

    assert exports_of(Choice("x", KernelVersion(6, 1), "local", "/x"), progress=lambda line: None) is None
    with pytest.raises(UsageError, match="Debian"):
        headers_of(Choice("x", KernelVersion(6, 1), "local", "/x"), progress=lambda line: None)
