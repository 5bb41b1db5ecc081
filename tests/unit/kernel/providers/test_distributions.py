"""Distributions by name, against repositories on 127.0.0.1 made by the distributions' own tools."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import HarnessError, KernelFileError, MirrorError, SelectorError, UsageError
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.providers import distributions, rpm_md
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.types import Choice, Kernel
from harness.kernel.version import KernelVersion
from tests.needs import needs_program
from tests.servers import rpm
from tests.servers.http import Fault, Server, serve
from tests.unit.kernel.kernel_fakes import CONFIG, Archive, Signer, kernel_image, module

OLD, NEW = "427.13.1.el9_4", "503.11.1.el9_5"


def release_of(release: str) -> str:
    return f"5.14.0-{release}.x86_64"


def core(release: str) -> Mapping[str, bytes]:
    tree = f"lib/modules/{release_of(release)}"
    return {f"{tree}/vmlinuz": kernel_image(release_of(release)), f"{tree}/config": CONFIG.encode()}


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory, signers: tuple[Signer, Signer]) -> Path:
    """Two kernels as packages, signed; made once."""
    for program in ("rpmbuild", "createrepo_c"):
        needs_program(program)
    folder = tmp_path_factory.mktemp("rpms")
    for release in (OLD, NEW):
        rpm.build(folder, "kernel-core", "5.14.0", release, core(release), signer=signers[0])
        modules = {f"lib/modules/{release_of(release)}/kernel/m.ko": module()}
        rpm.build(folder, "kernel-modules", "5.14.0", release, modules, signer=signers[0])
    rpm.build(folder, "kernel-tools", "5.14.0", NEW, {"usr/bin/x": b""})
    return folder


@pytest.fixture
def web() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture
def repository(
    packages: Path, tmp_path: Path, signers: tuple[Signer, Signer], web: Server, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A repository of its own for a test, which a record of the user's names."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for path in packages.glob("*.rpm"):
        (folder / path.name).hardlink_to(path)
    rpm.index(folder, signers[0])
    (folder / "KEY").write_bytes(signers[0].armoured())
    web.sites["repo"] = rpm.Folder(folder)
    configure(tmp_path, monkeypatch, {"mirror": f"{web.url}/repo", "fingerprints": [signers[0].fingerprint()]})
    return folder


def configure(folder: Path, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, Any]) -> None:
    record: dict[str, Any] = {
        "name": "test9",
        "title": "Test Linux 9",
        "kind": "rpm",
        "repositories": [""],
        "key": "KEY",
        "image": "kernel-core",
        "modules": ["kernel-modules-core", "kernel-modules"],
        **more,
    }
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in record.items())
    (folder / "mine.toml").write_text(f"[[distribution]]\n{lines}\n")
    monkeypatch.setenv("HARNESS_DISTRIBUTIONS", str(folder / "mine.toml"))


def acquire(selector: str, said: list[str] | None = None) -> Kernel:
    lines: list[str] = said if said is not None else []
    catalog = Catalog(progress=lines.append)
    [choice] = catalog.resolve([selector])
    return catalog.acquire(choice)


def test_the_newest_kernel_of_a_distribution(repository: Path, web: Server) -> None:
    said: list[str] = []
    kernel = acquire("test9", said)
    assert (kernel.label, kernel.release, str(kernel.version)) == ("test9", release_of(NEW), "5.14")
    assert kernel.config is not None
    assert kernel.modules is not None
    assert [path.name for path in kernel.modules.rglob("*.ko")] == ["m.ko"]
    before = len(web.requests)
    assert acquire("test9") == kernel
    assert len(web.requests) == before


def test_releases_and_ranges_in_a_distribution(repository: Path) -> None:
    catalog = Catalog()
    assert [one.label for one in catalog.resolve(["test9:*"])] == [f"test9:5.14.0-{OLD}", f"test9:5.14.0-{NEW}"]
    [choice] = catalog.resolve(["test9:<5.14.0-503"])
    assert choice.revision == f"5.14.0-{OLD}"
    assert acquire(f"test9:5.14.0-{OLD}").release == release_of(OLD)
    with pytest.raises(SelectorError, match="no kernel matches"):
        catalog.resolve(["test9:6.12"])


def test_a_repository_without_signed_metadata_has_signed_packages(repository: Path) -> None:
    (repository / "repodata/repomd.xml.asc").unlink()
    said: list[str] = []
    assert acquire("test9", said).release == release_of(NEW)
    assert any("is unsigned; its packages are signed one by one" in line for line in said)


def test_a_package_that_is_not_signed_is_refused(repository: Path) -> None:
    name = f"kernel-core-5.14.0-{NEW}.x86_64.rpm"
    (repository / name).unlink()
    rpm.build(repository, "kernel-core", "5.14.0", NEW, core(NEW))
    rpm.index(repository)
    (repository / "repodata/repomd.xml.asc").unlink(missing_ok=True)
    with pytest.raises(MirrorError, match="is not signed"):
        acquire("test9")
    assert list((kernel_cache.folder() / "store").glob("*")) == []


def test_metadata_that_a_stranger_signed(repository: Path, signers: tuple[Signer, Signer]) -> None:
    rpm.index(repository, signers[1])
    with pytest.raises(MirrorError, match="not in the keyring"):
        Catalog().resolve(["test9"])


def test_a_key_that_the_record_does_not_name(
    repository: Path, tmp_path: Path, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch, {"mirror": f"{web.url}/repo", "fingerprints": ["0" * 40]})
    with pytest.raises(MirrorError, match="is signed by key"):
        Catalog().resolve(["test9"])


def test_keys_of_the_users_own_come_first(
    repository: Path, tmp_path: Path, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "KEY").unlink()
    with pytest.raises(MirrorError, match="KEY is not served") as caught:
        Catalog().resolve(["test9"])
    assert "HARNESS_KEYS" in caught.value.hint
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/KEY").write_bytes(signers[0].armoured())
    monkeypatch.setenv("HARNESS_KEYS", str(tmp_path / "keys"))
    assert acquire("test9").release == release_of(NEW)


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("*/repomd.xml", Fault(status=404), r"has no repodata/repomd\.xml"),
        ("*/repomd.xml", Fault(changed=True), "differs from what key"),
        ("*/repomd.xml", Fault(html=True), "differs from what key"),
        ("*/repomd.xml", Fault(location="loop"), "redirects"),
        ("*primary*", Fault(changed=True), r"is not the file that repomd\.xml names"),
        ("*primary*", Fault(cut=100), "truncated|could not be fetched"),
        ("*primary*", Fault(status=404), "not served"),
        ("*/kernel-core*.rpm", Fault(changed=True), "is not the file that its index names"),
        ("*/kernel-modules*.rpm", Fault(status=404), "no longer serves"),
        ("*/kernel-core*.rpm", Fault(cut=400), "truncated|could not be fetched"),
        ("*/KEY", Fault(html=True), "KEY has no keys in it"),
        ("*/KEY", Fault(changed=True), "is not valid|keys-KEY is damaged"),
    ],
)
def test_a_bad_answer_is_the_servers_and_leaves_nothing(
    repository: Path, web: Server, pattern: str, fault: Fault, message: str
) -> None:
    web.faults[pattern] = fault
    with pytest.raises(MirrorError, match=message) as caught:
        acquire("test9")
    assert "its record in HARNESS_DISTRIBUTIONS" in caught.value.hint
    assert list((kernel_cache.folder() / "store").glob("*")) == []
    web.faults.clear()
    assert acquire("test9").release == release_of(NEW)


@pytest.mark.parametrize("words", [["--checksum=sha512"], ["--general-compress-type=xz"]])
def test_other_digests_and_compressions(repository: Path, signers: tuple[Signer, Signer], words: list[str]) -> None:
    rpm.index(repository, signers[0], *words)
    assert acquire("test9").release == release_of(NEW)


def test_a_damaged_list_of_packages() -> None:
    record = {"name": "fedora44", "image": "kernel-core", "modules": []}
    for data in (b"<metadata><package", gzip.compress(b"<metadata/>")[:-4], b""):
        with pytest.raises(MirrorError, match="is damaged"):
            rpm_md.kernels_in(data, "http://x", record)


def test_metadata_that_is_not_xml(repository: Path, web: Server) -> None:
    (repository / "repodata/repomd.xml.asc").unlink()
    web.faults["*/repomd.xml"] = Fault(html=True)
    with pytest.raises(MirrorError, match=r"names no list of packages|is not XML"):
        Catalog().resolve(["test9"])


def test_an_index_of_yesterday_serves_when_the_server_does_not(
    repository: Path, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog().resolve(["test9"])
    web.faults["*"] = Fault(status=500)
    monkeypatch.setattr(distributions, "INDEX_HOURS", 0.0)
    said: list[str] = []
    assert Catalog(progress=said.append).resolve(["test9"])[0].revision == f"5.14.0-{NEW}"
    assert any("using the package index of 0 hours ago" in line for line in said)


def test_packages_without_a_kernel(repository: Path, signers: tuple[Signer, Signer]) -> None:
    rpm.build(repository, "kernel-core", "5.14.0", "999.el9", {"usr/share/doc/x": b"x"}, signer=signers[0])
    rpm.index(repository, signers[0])
    with pytest.raises(KernelFileError, match="have no kernel"):
        acquire("test9")


def test_release_candidates_are_candidates() -> None:
    primary = b"""<metadata xmlns="http://linux.duke.edu/metadata/common"><package type="rpm"><name>kernel-core</name>
        <arch>x86_64</arch><version epoch="0" ver="6.18.0" rel="0.rc3.27.fc44"/><checksum type="sha256">ab</checksum>
        <size package="5"/><location href="k.rpm"/></package></metadata>"""
    record = {"name": "fedora44", "image": "kernel-core", "modules": []}
    [kernel] = rpm_md.kernels_in(primary, "http://x", record)
    assert kernel["version"] == "6.18.0-rc3"
    assert KernelVersion.parse(kernel["version"]).rc == 3


# what costs nothing


def test_distributions_cost_nothing_until_one_is_named(
    repository: Path, web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: [])
    catalog = Catalog()
    catalog.offers()
    with pytest.raises(SelectorError):
        catalog.resolve(["7.77"])
    assert web.requests == []


def test_a_list_of_a_distribution_asks_no_other_server(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(_self: DebianProvider, **_arguments: object) -> list[Choice]:
        raise AssertionError("Debian's mirror is asked")

    monkeypatch.setattr(DebianProvider, "offers", asked)
    assert main(["kernels", "list", "test9"]) == 0
    assert NEW in capsys.readouterr().out


def test_an_unknown_distribution_names_the_known_ones() -> None:
    with pytest.raises(SelectorError, match="no distribution 'gentoo1'") as caught:
        Catalog().resolve(["gentoo1"])
    assert "alma9" in caught.value.expected


def test_every_record_is_complete() -> None:
    found = distributions.records()
    for expected in "alma8 alma9 alma10 rocky9 centos-stream9 fedora43 al2023 uek8 opensuse15.6 ubuntu24.04".split():
        assert expected in found
    for record in found.values():
        assert record["tried"] == "" or re.fullmatch(r"\d{4}-\d\d-\d\d", record["tried"])
        if record["kind"] == "rpm":
            assert all(re.fullmatch("[0-9A-F]{40}", one) for one in record["fingerprints"])
            assert record["fingerprints"]
            assert "variable" in record


@pytest.mark.parametrize(
    "text", ["[[distribution]]\nname = 'x'\nkind = 'rpm'", "[[distribution]]\nname = 'mine9'\nkind = 'zypper'"]
)
def test_a_record_of_the_users_that_is_incomplete(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(text)
    monkeypatch.setenv("HARNESS_DISTRIBUTIONS", str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match="cannot be used"):
        distributions.records()


# apt archives


@pytest.fixture
def ubuntu(archive: Archive, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive with Ubuntu's packages: the image in one, everything else in another."""
    release = "6.8.0-31-generic"
    archive.add(
        "noble",
        f"linux-image-{release}",
        "6.8.0-31.31",
        {f"boot/vmlinuz-{release}": kernel_image(release)},
        padding=150_000,
    )
    rest = {f"boot/config-{release}": CONFIG.encode(), f"lib/modules/{release}/kernel/m.ko": module()}
    archive.add("noble", f"linux-modules-{release}", "6.8.0-31.31", rest)
    archive.publish()
    monkeypatch.setenv("HARNESS_MIRROR_UBUNTU", os.environ["HARNESS_DEBIAN_MIRROR"])
    monkeypatch.setenv("HARNESS_UBUNTU_KEYRING", str(signers[0].keyring))
    return archive


def test_a_kernel_of_ubuntu(ubuntu: Archive) -> None:
    kernel = acquire("ubuntu24.04")
    assert (kernel.release, kernel.flavour) == ("6.8.0-31-generic", "generic")
    assert kernel.config is not None
    assert kernel.modules is not None


def test_without_ubuntus_keys_nothing_is_taken(ubuntu: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_UBUNTU_KEYRING", "/nowhere/ubuntu.gpg")
    with pytest.raises(HarnessError, match=r"keyring /nowhere/ubuntu\.gpg is missing"):
        acquire("ubuntu24.04")


def test_a_release_of_debian_is_a_part_of_its_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(revision: str, where: str) -> Choice:
        version = KernelVersion.parse(revision.partition("-")[0])
        return Choice("", version, "debian", revision, "cloud", revision=revision, where=where)

    offers = [
        one("5.10.262-1", "bullseye-security"),
        one("6.1.192-1", "bookworm bookworm-security"),
        one("6.12.94-1~bpo12+1", "bookworm-backports"),
    ]
    monkeypatch.setattr(DebianProvider, "offers", lambda _self, **_arguments: offers)
    catalog = Catalog()
    assert [(choice.label, choice.key) for choice in catalog.resolve(["debian11"])] == [("debian11", "5.10.262-1")]
    assert [choice.key for choice in catalog.resolve(["debian12"])] == ["6.1.192-1"]
    with pytest.raises(SelectorError, match="no kernel matches"):
        catalog.resolve(["debian13"])
