"""The Ubuntu provider against a server of mainline builds on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError, KernelFileError, MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.files import download
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.providers.ubuntu import listed, parse_checksums
from harness.kernel.types import Kernel
from tests.servers import mainline
from tests.servers.http import Fault, Server, serve
from tests.servers.rpm import Folder
from tests.unit.kernel.kernel_fakes import CONFIG, Signer, deb, kernel_image

RELEASE = "6.6.17-060617-generic"
PACKAGES = {
    f"linux-image-unsigned-{RELEASE}_1_amd64.deb": deb({f"boot/vmlinuz-{RELEASE}": kernel_image(RELEASE)}),
    f"linux-modules-{RELEASE}_1_amd64.deb": deb(
        {f"boot/config-{RELEASE}": CONFIG.encode(), f"lib/modules/{RELEASE}/kernel/m.ko": b"m"}
    ),
    "linux-headers-6.6.17_1_all.deb": b"",
    "linux-image-unsigned-6.6.17-060617-lowlatency_1_amd64.deb": b"",
}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of builds, without any."""
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: [])
    (tmp_path / "www").mkdir()
    with serve() as running:
        running.sites["mainline"] = Folder(tmp_path / "www")
        monkeypatch.setenv("HARNESS_UBUNTU_MAINLINE", f"{running.url}/mainline")
        yield running


@pytest.fixture
def build(web: Server, tmp_path: Path, signers: tuple[Signer, Signer]) -> Path:
    """A signed build."""
    return mainline.add(tmp_path / "www", "v6.6.17", PACKAGES, signer=signers[0])


def acquire(selector: str, said: list[str] | None = None) -> Kernel:
    lines: list[str] = said if said is not None else []
    catalog = Catalog(progress=lines.append)
    [choice] = catalog.resolve([selector])
    assert (choice.provider, choice.key) == ("ubuntu", "v6.6.17")
    return catalog.acquire(choice)


def assert_whole(kernel: Kernel) -> None:
    assert kernel.release == RELEASE
    assert kernel.config is not None
    assert kernel.modules is not None


@pytest.mark.parametrize("selector", ["6.6", "6.6.17", "ubuntu:6.6"])
def test_a_release_that_no_other_provider_has_comes_from_ubuntu(build: Path, web: Server, selector: str) -> None:
    said: list[str] = []
    kernel = acquire(selector, said)
    assert_whole(kernel)
    assert any("ubuntu: unsigned" in line and "without the key" in line for line in said)
    assert kernel.origin.endswith("(unsigned)")
    before = len(web.requests)
    assert acquire(selector) == kernel
    assert len(web.requests) == before
    assert [path.name for path in (kernel_cache.folder() / "downloads").glob("*.deb")] == []


def test_the_signature_is_verified_where_the_key_is(
    build: Path, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_UBUNTU_MAINLINE_KEYRING", str(signers[1].keyring))
    with pytest.raises(MirrorError, match="not in the keyring"):
        acquire("6.6")
    monkeypatch.setenv("HARNESS_UBUNTU_MAINLINE_KEYRING", str(signers[0].keyring))
    assert acquire("6.6").origin.endswith("(signed)")


def test_an_old_build_has_its_packages_at_the_top(web: Server, tmp_path: Path) -> None:
    mainline.add(tmp_path / "www", "v6.6.17", PACKAGES, top=True)
    said: list[str] = []
    assert_whole(acquire("6.6", said))
    assert any("has no CHECKSUMS.gpg" in line for line in said)


def test_a_build_without_checksums_is_protected_by_https_alone(build: Path) -> None:
    (build / "CHECKSUMS").unlink()
    said: list[str] = []
    assert_whole(acquire("6.6", said))
    assert any("has no CHECKSUMS; only https" in line for line in said)


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("*linux-image*", Fault(changed=True), "is not the file that its index names"),
        ("*linux-modules*", Fault(status=404), "listed but not served"),
        ("*linux-image*", Fault(cut=100), "truncated|could not be fetched|is not the file"),
        ("*linux-image*", Fault(endless=True), "has more than 1 MiB"),
        ("*/CHECKSUMS", Fault(location="loop"), "redirects"),
        ("/mainline/", Fault(html=True), "links to no build"),
    ],
)
def test_a_bad_answer_is_the_servers_and_leaves_nothing(
    build: Path, web: Server, pattern: str, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    web.faults[pattern] = fault
    with pytest.raises(HarnessError, match=message):
        acquire("6.6")
    assert list((kernel_cache.folder() / "store").glob("[!.]*")) == []
    web.faults.clear()
    assert_whole(acquire("6.6"))


def test_a_build_that_failed_has_no_kernel(web: Server, tmp_path: Path) -> None:
    mainline.add(tmp_path / "www", "v6.6.17", {"linux-headers-6.6.17_1_all.deb": b""})
    with pytest.raises(MirrorError, match=r"build v6\.6\.17 at \S+ has no kernel for amd64"):
        acquire("6.6")


def test_packages_without_an_image(web: Server, tmp_path: Path) -> None:
    mainline.add(tmp_path / "www", "v6.6.17", {f"linux-image-unsigned-{RELEASE}_1_amd64.deb": deb({"usr/x": b""})})
    with pytest.raises(KernelFileError, match="have no kernel image"):
        acquire("6.6")


def test_the_list_is_kept_and_serves_for_longer_without_the_server(
    build: Path, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog().resolve(["6.6"])
    web.faults["*"] = Fault(status=500)
    assert Catalog().resolve(["6.6"])[0].key == "v6.6.17"
    monkeypatch.setitem(Catalog().ubuntu.settings, "list_hours", 0)
    said: list[str] = []
    assert Catalog(progress=said.append).resolve(["6.6"])[0].key == "v6.6.17"
    assert any("using the list of 0 hours ago" in line for line in said)


def test_a_list_that_is_out_of_reach_is_said_plainly(web: Server) -> None:
    web.faults["*"] = Fault(status=404)
    with pytest.raises(HarnessError, match="cannot be listed") as caught:
        Catalog().resolve(["ubuntu:6.6"])
    assert "HARNESS_UBUNTU_MAINLINE" in caught.value.hint


def test_the_page_of_builds() -> None:
    names = ("v4.12/", "/mainline/v6.6.17/", "v6.7-rc1/", "v6.6.17/", "x")
    page = "".join(f'<a href="{name}">x</a>' for name in names)
    assert [str(version) for version in listed(page)] == ["4.12", "6.6.17", "6.7-rc1"]


def test_checksums_have_several_digests_and_folders() -> None:
    text = f"# Checksums-Sha1:\n{'a' * 40}  x.deb\n# Checksums-Sha256:\n{'b' * 64}  x.deb\n{'c' * 64} *amd64/y.deb\n"
    assert parse_checksums(text) == {"x.deb": "b" * 64, "y.deb": "c" * 64}
