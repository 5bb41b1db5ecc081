"""The Debian provider against a small signed archive on 127.0.0.1, by way of apt and without it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HarnessError, KernelFileError, MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.providers import debian_archive
from harness.kernel.providers.apt_sources import Source
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.types import Choice, Kernel
from tests.needs import needs_program
from tests.unit.kernel.kernel_fakes import CONFIG, Archive, Server, Signer, kernel_image

OLD = "6.1.0-50-cloud-amd64"
OLDER = "6.1.0-47-cloud-amd64"
NEW = "7.2.9+deb14-cloud-amd64"
BIG = 150_000


def image_package(release: str, revision: str) -> dict[str, bytes]:
    return {
        f"boot/vmlinuz-{release}": kernel_image(release, f"#1 SMP Debian {revision}"),
        f"boot/config-{release}": CONFIG.encode(),
        f"lib/modules/{release}/kernel/m.ko": b"module",
        "usr/share/doc/x": b"",
    }


@pytest.fixture(params=["apt", "plain"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which indexes are brought."""
    way = str(request.param)
    if way == "apt":
        needs_program("apt-get", "apt")
    if way == "plain":
        real = shutil.which

        def without_apt(name: str, *, path: str | None = None) -> str | None:
            return None if name == "apt-get" else real(name, path=path)

        monkeypatch.setattr(shutil, "which", without_apt)
    return way


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """The archive with kernels in both of Debian's ways of packaging."""
    archive.add("bookworm", f"linux-image-{OLD}", "6.1.176-1", image_package(OLD, "6.1.176-1"), padding=BIG)
    archive.add("bookworm", f"linux-image-{OLDER}", "6.1.170-3", image_package(OLDER, "6.1.170-3"), padding=BIG)
    archive.add("sid", f"linux-image-{NEW}", "7.2.9-1", {"usr/share/doc/y": b""})
    tree = f"usr/lib/modules/{NEW}"
    archive.add("sid", f"linux-binary-{NEW}", "7.2.9-1", {f"{tree}/vmlinuz": kernel_image(NEW)})
    archive.add("sid", f"linux-modules-{NEW}", "7.2.9-1", {f"{tree}/kernel/m.ko.xz": b"module"})
    archive.add(
        "sid", f"linux-base-{NEW}", "7.2.9-1", {f"{tree}/config": CONFIG.encode(), f"{tree}/modules.builtin": b""}
    )
    archive.publish()
    return archive


def offers(said: list[str] | None = None, *, refresh: bool = False) -> list[Choice]:
    lines: list[str] = said if said is not None else []
    return DebianProvider(refresh=refresh).offers(progress=lines.append)


def acquire(selector: str, said: list[str] | None = None) -> Kernel:
    lines: list[str] = said if said is not None else []
    catalog = Catalog(progress=lines.append)
    [choice] = catalog.resolve([selector])
    return catalog.acquire(choice)


def stored() -> list[str]:
    return sorted(path.name for path in (kernel_cache.folder() / "store").glob("*"))


def test_every_kernel_of_every_suite_is_offered(filled: Archive, by: str) -> None:
    assert [(offer.release, str(offer.version), offer.flavour, offer.where) for offer in offers()] == [
        (OLDER, "6.1.170", "cloud", "bookworm"),
        (OLD, "6.1.176", "cloud", "bookworm"),
        (NEW, "7.2.9", "cloud", "sid"),
    ]


@pytest.mark.parametrize(("selector", "release"), [("6.1", OLD), ("7.2", NEW), ("6.1.170-3", OLDER)])
def test_a_kernel_of_either_packaging_is_fetched_unpacked_and_kept(
    filled: Archive, by: str, server: Server, selector: str, release: str
) -> None:
    kernel = acquire(selector)
    assert kernel.release == release
    assert kernel.label == selector
    assert kernel.pvh
    assert kernel.config is not None
    assert kernel.modules is not None
    assert len(list(kernel.modules.rglob("m.ko*"))) == 1
    before = len(server.requests)
    assert acquire(selector) == kernel
    assert len(server.requests) == before
    assert [path.name for path in (kernel_cache.folder() / "downloads").glob("*")] == []


def _changelog(selector: str, said: list[str] | None = None) -> str | None:
    lines: list[str] = said if said is not None else []
    catalog = Catalog(progress=lines.append)
    return catalog.debian.changelog(catalog.resolve([selector])[0], progress=lines.append)


@pytest.mark.parametrize("name", ["changelog.gz", "changelog.Debian.gz"])
def test_the_changelog_of_a_kernel_is_kept_with_it(archive: Archive, by: str, server: Server, name: str) -> None:
    files = image_package(OLD, "6.1.176-1") | {f"usr/share/doc/linux-image-{OLD}/{name}": gzip.compress(b"linux (1)")}
    archive.add("bookworm", f"linux-image-{OLD}", "6.1.176-1", files, padding=BIG)
    archive.publish()
    acquire("6.1")
    before = len(server.requests)
    assert _changelog("6.1") == "linux (1)"
    assert len(server.requests) == before


def test_a_changelog_of_its_own_package_is_fetched_without_the_kernel(archive: Archive, by: str) -> None:
    archive.add("sid", f"linux-binary-{NEW}", "7.2.9-1", {f"usr/lib/modules/{NEW}/vmlinuz": kernel_image(NEW)})
    base = {f"usr/share/doc/linux-base-{NEW}/changelog.Debian.gz": gzip.compress(b"linux (2)")}
    archive.add("sid", f"linux-base-{NEW}", "7.2.9-1", base)
    archive.publish()
    said: list[str] = []
    assert _changelog("7.2", said) == "linux (2)"
    assert next(line for line in said if "fetching linux-" in line).startswith(f"debian: fetching linux-base-{NEW}")
    assert stored() == []
    for path in (archive.root / "pool").glob("*"):
        path.unlink()
    assert _changelog("7.2") == "linux (2)"
    assert [path.name for path in (kernel_cache.folder() / "downloads").glob("*")] == []


def test_where_no_changelog_is_shipped_there_is_none(filled: Archive, by: str) -> None:
    assert _changelog("6.1") is None
    (filled.root / "pool" / f"linux-base-{NEW}_7.2.9-1_amd64.deb").unlink()
    assert _changelog("7.2") is None


def test_an_index_is_refreshed_only_when_it_is_old_or_on_request(
    filled: Archive, by: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(offers()) == 3
    asked = len(server.requests)
    assert len(offers()) == 3
    assert len(server.requests) == asked
    filled.add(
        "sid", "linux-image-6.6.1-cloud-amd64", "6.6.1-1", image_package("6.6.1-cloud-amd64", "6.6.1-1"), padding=BIG
    )
    filled.publish()
    assert len(offers(refresh=True)) == 4
    asked = len(server.requests)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 13 * 3600)
    assert len(offers()) == 4
    assert len(server.requests) > asked


def test_a_signature_by_a_stranger_is_not_believed(filled: Archive, by: str, signers: tuple[Signer, Signer]) -> None:
    filled.signer = signers[1]
    filled.publish()
    with pytest.raises(MirrorError, match="no package index could be fetched") as caught:
        offers()
    assert re.search("signature|NO_PUBKEY", caught.value.detail.splitlines()[0])
    assert not (kernel_cache.folder() / "debian/index.json").exists()


def test_a_changed_release_file_is_not_believed(filled: Archive, by: str) -> None:
    for suite in ("bookworm", "sid"):
        path = filled.root / "dists" / suite / "InRelease"
        path.write_text(path.read_text().replace("Origin: Fake", "Origin: Fate"))
    with pytest.raises(MirrorError, match="no package index could be fetched"):
        offers()


def test_an_index_that_is_not_the_signed_one_is_not_believed(filled: Archive, by: str) -> None:
    for suite in ("bookworm", "sid"):
        for path in (filled.root / "dists" / suite / "main/binary-amd64").iterdir():
            path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MirrorError, match="no package index could be fetched"):
        offers()


def test_one_bad_suite_is_named_and_the_others_serve_until_the_mirror_is_asked_again(
    filled: Archive, by: str, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (filled.root / "dists/bookworm/InRelease").read_bytes()
    filled.signer = signers[1]
    filled.publish()
    (filled.root / "dists/bookworm/InRelease").write_bytes(good)
    said: list[str] = []
    assert {offer.where for offer in offers(said)} == {"bookworm"}
    assert any("sid" in line for line in said)
    filled.signer = signers[0]
    filled.publish()
    assert {offer.where for offer in offers()} == {"bookworm"}
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 11 * 60)
    assert {offer.where for offer in offers()} == {"bookworm", "sid"}


def test_an_out_of_date_archive_is_refused_without_apt(filled: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # apt has its own setting for this, and machines that set it.
    filled.publish(valid_until="Thu, 01 Jan 2026 00:00:00 UTC")
    refreshed = debian_archive.PlainArchive(kernel_cache.folder(), component="main", architecture="amd64").refresh(
        [debian_archive.Mirror(os.environ["HARNESS_DEBIAN_MIRROR"], os.environ["HARNESS_DEBIAN_KEYRING"], ("sid",))]
    )
    assert refreshed.files == []
    assert refreshed.troubles == ["the Release file of sid was valid until Thu, 01 Jan 2026 00:00:00 UTC"]


def test_a_release_file_of_another_suite_is_refused_without_apt(filled: Archive) -> None:
    shutil.copy(filled.root / "dists/sid/InRelease", filled.root / "dists/bookworm/InRelease")
    refreshed = debian_archive.PlainArchive(kernel_cache.folder(), component="main", architecture="amd64").refresh(
        [
            debian_archive.Mirror(
                os.environ["HARNESS_DEBIAN_MIRROR"], os.environ["HARNESS_DEBIAN_KEYRING"], ("bookworm",)
            )
        ]
    )
    assert refreshed.troubles == ["the Release file of bookworm is for sid"]


def closed_port() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}/debian"


def test_a_mirror_that_is_down_is_one_clear_error(archive: Archive, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = closed_port()
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", address)
    monkeypatch.setenv("HARNESS_DEBIAN_SECURITY_MIRROR", address)
    with pytest.raises(MirrorError) as caught:
        acquire("6.1")
    text = str(caught.value)
    assert address in text
    assert "HARNESS_DEBIAN_MIRROR" in text
    assert "refused" in text or "connect" in text
    assert stored() == []


def test_a_mirror_that_is_down_later_leaves_the_old_index_in_use_and_says_so(
    filled: Archive, by: str, server: Server
) -> None:
    acquire("6.1")
    for folder in (filled.root / "dists").iterdir():
        shutil.rmtree(folder)
    # apt keeps its lists when a suite is gone; then there is nothing new, and nothing to say but that.
    for lists in (kernel_cache.folder() / "debian").glob("*/lists"):
        shutil.rmtree(lists)
    said: list[str] = []
    assert len(offers(said, refresh=True)) == 3
    assert any("using the package index of 0 hours ago" in line for line in said)
    said.clear()
    assert acquire("6.1", said).release == OLD
    assert said == []


def test_an_index_of_another_mirror_is_not_used(filled: Archive, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offers()
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", closed_port())
    monkeypatch.setenv("HARNESS_DEBIAN_SECURITY_MIRROR", closed_port())
    for lists in (kernel_cache.folder() / "debian").glob("*/lists"):
        shutil.rmtree(lists)
    with pytest.raises(MirrorError):
        offers()


def test_a_release_that_is_not_served_falls_to_the_next_in_one_line(filled: Archive, by: str) -> None:
    (filled.root / "pool" / f"linux-image-{OLD}_6.1.176-1_amd64.deb").unlink()
    said: list[str] = []
    assert acquire("6.1", said).release == OLDER
    assert [line for line in said if "not served (404)" in line] == [
        f"debian: linux-image-{OLD} 6.1.176-1 is indexed but not served (404)"
    ]
    assert any("trying the next release" in line for line in said)


def test_an_exact_release_that_is_not_served_is_an_error_and_not_another_release(filled: Archive, by: str) -> None:
    (filled.root / "pool" / f"linux-image-{OLD}_6.1.176-1_amd64.deb").unlink()
    with pytest.raises(MirrorError, match="debian no longer serves") as caught:
        acquire("6.1.176")
    assert "--refresh" in caught.value.hint
    assert stored() == []


def test_the_unsigned_package_replaces_a_missing_one(archive: Archive, by: str) -> None:
    for name in (f"linux-image-{OLD}", f"linux-image-{OLD}-unsigned"):
        path = archive.add("bookworm", name, "6.1.176-1", image_package(OLD, "6.1.176-1"), padding=BIG)
        if not name.endswith("unsigned"):
            path.unlink()
    archive.publish()
    assert acquire("6.1").release == OLD


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], type[HarnessError], str]] = {
    "truncated": (lambda data: data[: len(data) // 2], MirrorError, "truncated"),
    "changed": (lambda data: data[:-5] + b"xxxxx", MirrorError, "not the file that its index names"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_package_that_is_not_what_was_signed_is_refused(filled: Archive, by: str, damage: str) -> None:
    change, error, message = DAMAGES[damage]
    path = filled.root / "pool" / f"linux-image-{OLD}_6.1.176-1_amd64.deb"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error, match=message):
        acquire("6.1.176")
    assert stored() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>" * 8000, "is not a whole Debian package"),
        (b"!<arch>\n" + b"x" * 150_000, "is not a whole Debian package"),
    ],
    # Names: pytest 8.0 puts whole values into the environment of every program that a test runs.
    ids=["a page", "no parts"],
)
def test_a_file_that_is_not_a_package_is_refused(archive: Archive, by: str, content: bytes, message: str) -> None:
    name = f"linux-image-{OLD}"
    path = archive.add("bookworm", name, "6.1.176-1", {}, padding=BIG)
    path.write_bytes(content)
    archive.suites["bookworm"] = [(name, "6.1.176-1", content)]
    archive.publish()
    with pytest.raises(KernelFileError, match=message):
        acquire("6.1")
    assert stored() == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"usr/share/doc/x": b""}, "have no kernel image"),
        ({f"boot/vmlinuz-{OLD}": kernel_image(OLD)[:-200]}, "cut short"),
        ({f"boot/vmlinuz-{OLD}": kernel_image(OLD), f"boot/config-{OLD}": b"CONFIG_BPF=y\n"}, "without the bpf"),
    ],
)
def test_a_package_without_a_usable_kernel_is_refused(
    archive: Archive, by: str, files: dict[str, bytes], message: str
) -> None:
    archive.add("bookworm", f"linux-image-{OLD}", "6.1.176-1", files, padding=BIG)
    archive.publish()
    with pytest.raises(KernelFileError, match=message):
        acquire("6.1")
    assert stored() == []


def test_apts_complaints_are_gathered_by_mirror_and_reason() -> None:
    stderr = """\
W: Failed to fetch http://m/debian/dists/bullseye/InRelease  Could not connect to m:80 - connect (111: Refused)
W: Failed to fetch http://m/debian/dists/sid/InRelease  Unable to connect to m:80:
W: Failed to fetch http://m/debian/dists/sid/main/binary-amd64/Packages  Hash Sum mismatch
W: Some index files failed to download. They have been ignored, or old ones used instead.
E: The repository 'http://n/debian buster Release' does not have a Release file.
W: GPG error: http://n/debian sid InRelease: The following signatures couldn't be verified: NO_PUBKEY AB
N: Updating from such a repository can't be done securely.
"""
    result = debian_archive.Refreshed()
    debian_archive.read_complaints(stderr, result)
    assert result.lines() == [
        "GPG error: http://n/debian sid InRelease: The following signatures couldn't be verified: NO_PUBKEY AB",
        "http://m/debian: bullseye, sid could not be fetched: Could not connect to m:80 - connect (111: Refused)",
        "http://n/debian does not carry buster",
    ]


def test_a_main_mirror_that_is_down_is_not_made_up_for_by_the_security_mirror(
    filled: Archive, by: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.add("bookworm-security", f"linux-image-{OLD}", "6.1.176-1", image_package(OLD, "6.1.176-1"), padding=BIG)
    filled.publish()
    address = closed_port()
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", address)
    with pytest.raises(MirrorError, match=f"no package index could be fetched from {address}") as caught:
        offers()
    assert "could not be fetched" in caught.value.detail


def test_without_debian_sources_the_setting_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DEBIAN_MIRROR")
    with pytest.raises(MirrorError, match="name no Debian mirror") as caught:
        debian_archive.mirrors(debian_archive.settings(), [Source(("http://u/ubuntu",), ("jammy",), ("main",))])
    assert "HARNESS_DEBIAN_MIRROR" in caught.value.hint


def test_a_missing_keyring_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", "/nowhere/keys.gpg")
    with pytest.raises(MirrorError, match=r"keyring /nowhere/keys\.gpg is missing"):
        debian_archive.mirrors(debian_archive.settings(), [])


def test_the_index_survives_being_cut_off(filled: Archive, by: str) -> None:
    assert len(offers()) == 3
    index = kernel_cache.folder() / "debian/index.json"
    index.write_text(index.read_text()[:100])
    assert len(offers()) == 3
    assert json.loads(index.read_text())["format"] == 2


@pytest.mark.parametrize(
    ("shell", "proxy"),
    [("PROXY='http://p:3142/'\n", "http://p:3142/"), ("PROXY='DIRECT'\n", ""), ("", "")],
)
def test_the_proxy_of_apts_configuration(shell: str, proxy: str) -> None:
    assert debian_archive.proxy_of(shell) == proxy


def test_packages_go_through_the_proxy_that_apt_goes_through(
    filled: Archive, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_program("apt-get", "apt")
    monkeypatch.setattr(debian_archive, "proxy_of", lambda shell: server.url)
    acquire("6.1")
    assert [path for path, _ in server.requests if path.startswith("http://") and path.endswith(".deb")]


def test_a_choice_lists_its_alternatives(filled: Archive, by: str) -> None:
    [choice] = Catalog().resolve(["6.1"])
    assert isinstance(choice, Choice)
    assert [stand_in.key for stand_in in choice.alternatives] == [f"{OLDER}=6.1.170-3"]


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst", ".bz2", ".lz4"])
def test_indexes_are_read_in_all_compressions_of_apt(tmp_path: Path, suffix: str) -> None:
    import bz2
    import gzip
    import lzma

    import lz4.frame
    import zstandard

    pack: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".xz": lzma.compress,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
        ".lz4": lz4.frame.compress,
    }
    path = tmp_path / f"Packages{suffix}"
    path.write_bytes(pack[suffix](b"Package: x\n" * 100))
    assert debian_archive.read_index(path) == b"Package: x\n" * 100
    if suffix:
        path.write_bytes(pack[suffix](b"Package: x\n" * 100)[:20])
        with pytest.raises(MirrorError, match="damaged"):
            debian_archive.read_index(path)
