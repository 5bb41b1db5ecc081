"""Resolving and acquiring across providers, lock files, and Ubuntu's builds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import CacheError, KernelFileError, MirrorError, SelectorError
from harness.kernel import acquire, lockfile, resolve
from harness.kernel import cache as kernel_cache
from harness.kernel.catalog import Catalog
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from tests.servers import http
from tests.servers.snapshot import Snapshot
from tests.unit.kernel.kernel_fakes import CONFIG, Archive, Server, Signer, deb, kernel_image

RELEASE = "6.1.0-50-cloud-amd64"


def built(version: str, flavour: str = "minimal") -> None:
    """Put a kernel into the cache as `harness kernels build` does."""
    key = f"{version}-{flavour}"
    with kernel_cache.new_entry("local", key) as made:
        assert made is not None
        (made / "vmlinuz").write_bytes(kernel_image(key))
        (made / "config").write_text(CONFIG)
        choice = Choice(key, KernelVersion.parse(version), "local", key, flavour)
        kernel_cache.seal(made, choice, origin="built", built=1)


def files_of(release: str, revision: str) -> dict[str, bytes]:
    return {
        f"boot/vmlinuz-{release}": kernel_image(release, f"#1 SMP Debian {revision}"),
        f"boot/config-{release}": CONFIG.encode(),
        f"lib/modules/{release}/kernel/m.ko": b"",
    }


def package(archive: Archive, release: str, revision: str) -> Path:
    return archive.add("bookworm", f"linux-image-{release}", revision, files_of(release, revision), padding=150_000)


@pytest.fixture
def one(archive: Archive) -> Archive:
    """The archive with one kernel."""
    package(archive, RELEASE, "6.1.176-1")
    archive.publish()
    return archive


# resolving


def test_choices_of_several_providers_are_in_order_and_each_once(one: Archive) -> None:
    built("4.12.4")
    built("5.4.59")
    choices = resolve(["6.1", "all", "5.4.59", "4.12.4:minimal"])
    assert [(choice.label, choice.provider) for choice in choices] == [
        ("4.12", "local"),
        ("5.4", "local"),
        ("6.1", "debian"),
    ]


def test_a_released_kernel_goes_before_one_built_here_unless_that_is_asked_for(one: Archive) -> None:
    built("6.1.200")
    built("6.1.200", "debug")
    assert [choice.provider for choice in resolve(["6.1"])] == ["debian"]
    assert [choice.key for choice in resolve(["6.1:minimal"])] == ["6.1.200-minimal"]
    assert [choice.key for choice in resolve(["local:6.1:debug"])] == ["6.1.200-debug"]


def test_a_flavour_that_only_builds_have_asks_no_mirror() -> None:
    said: list[str] = []
    built("5.4.59")
    assert resolve(["5.4:minimal"], progress=said.append)
    assert said == []
    with pytest.raises(SelectorError, match=r"no kernel matches '5\.4:debug'") as caught:
        resolve(["5.4:debug"], progress=said.append)
    assert caught.value.detail == "local: has no such kernel\nsource: not built here"
    assert said == []


def test_without_a_mirror_what_is_here_still_serves_and_it_says_why() -> None:
    built("5.4.59")
    said: list[str] = []
    assert [choice.key for choice in resolve(["5.4"], progress=said.append)] == ["5.4.59-minimal"]
    assert len(said) == 1
    assert "keyring" in said[0]


def test_what_the_cache_holds_serves_when_the_mirror_has_it_no_more(one: Archive) -> None:
    kernel = acquire(resolve(["6.1"])[0])
    one.suites["bookworm"] = []
    package(one, "6.1.0-51-cloud-amd64", "6.1.180-1")
    one.publish()
    index = kernel_cache.folder() / "debian/index.json"
    index.unlink()
    assert [str(choice.version) for choice in resolve(["6.1"])] == ["6.1.180"]
    for selector in ("6.1.176", "6.1.176-1", kernel.release):
        assert acquire(resolve([selector])[0]).digest == kernel.digest


def test_what_the_cache_holds_serves_without_an_index(one: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = acquire(resolve(["6.1"])[0])
    (kernel_cache.folder() / "debian/index.json").unlink()
    monkeypatch.setenv("HARNESS_DEBIAN_KEYRING", "/nowhere.gpg")
    said: list[str] = []
    assert acquire(resolve(["6.1"], progress=said.append)[0]) == kernel
    assert len(said) == 1
    with pytest.raises(MirrorError, match=r"no kernel for '6\.12' can be found"):
        resolve(["6.12"])


@pytest.mark.parametrize("selector", ["all", "lts", "newest", "oldest", ">=5.0", "6.1.*"])
def test_a_set_of_kernels_is_not_made_up_from_the_cache_alone(selector: str) -> None:
    built("6.1.9")
    with pytest.raises(MirrorError, match="keyring"):
        resolve([selector])
    assert resolve(["local:" + selector])


def test_a_file_that_was_named_once_is_not_offered(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(kernel_image("6.2.1"))
    acquire(resolve([str(image)])[0])
    with pytest.raises(MirrorError):
        resolve(["6.2"])


def test_a_kernel_that_cannot_be_looked_up_is_the_mirrors_fault() -> None:
    with pytest.raises(MirrorError, match=r"no kernel for '6\.1' can be found") as caught:
        resolve(["6.1"])
    assert caught.value.exit_status == 3


def test_an_unknown_kernel_is_the_users_fault_and_everybody_says_why(one: Archive) -> None:
    with pytest.raises(SelectorError, match=r"no kernel matches '6\.99'") as caught:
        resolve(["6.99"])
    assert caught.value.exit_status == 2
    assert caught.value.expected == "one of the series 6.1"
    lines = caught.value.detail.splitlines()
    assert [line.split(":")[0] for line in lines] == ["local", "debian", "snapshot", "ubuntu", "source"]


def test_nothing_selected() -> None:
    with pytest.raises(SelectorError, match="no kernel is selected"):
        resolve([])


def test_an_empty_range(one: Archive) -> None:
    with pytest.raises(SelectorError, match=r"no kernel matches '>=6\.2,<6\.12'"):
        resolve([">=6.2,<6.12"])


WARM = """
import sys
before = set(sys.modules)
from harness.kernel import acquire, resolve
acquire(resolve(["6.1"])[0])
heavy = {"requests", "elftools", "debian", "rich", "lz4", "zstandard", "tarfile", "virtme_ng"}
print(sorted(heavy & (set(sys.modules) - before)))
"""


def test_a_warm_start_imports_no_heavy_library_and_asks_nobody(one: Archive, server: Server) -> None:
    acquire(resolve(["6.1"])[0])
    asked = len(server.requests)
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert len(server.requests) == asked


# lock files


def test_a_locked_kernel_stays_when_a_newer_release_comes(one: Archive, tmp_path: Path) -> None:
    [choice] = resolve(["6.1"])
    kernel = acquire(choice)
    path = tmp_path / "ci.lock"
    locked = Choice(choice.label, choice.version, choice.provider, choice.key, choice.flavour, sha256=kernel.digest)
    lockfile.write(path, [locked], {choice.key: {"a.deb": "0" * 64}})
    package(one, "6.1.0-51-cloud-amd64", "6.1.180-1")
    one.publish()
    (kernel_cache.folder() / "debian/index.json").unlink()
    assert [str(other.version) for other in resolve(["6.1"])] == ["6.1.180"]
    assert resolve([f"@{path}"]) == [locked]
    assert acquire(locked) == kernel
    assert json.loads(path.read_text())["kernels"][0]["packages"] == {"a.deb": "0" * 64}


def test_another_image_than_the_locked_one_is_refused(one: Archive) -> None:
    [choice] = resolve(["6.1"])
    locked = Choice(choice.label, choice.version, choice.provider, choice.key, choice.flavour, sha256="0" * 64)
    with pytest.raises(CacheError, match="sha256") as caught:
        acquire(locked)
    assert "0" * 64 in caught.value.expected


def test_a_locked_kernel_that_is_no_longer_indexed_is_an_error(one: Archive) -> None:
    gone = Choice("6.1", KernelVersion(6, 1, 170), "debian", "6.1.0-47-cloud-amd64=6.1.170-3", "cloud", sha256="0" * 64)
    with pytest.raises(MirrorError, match=r"debian no longer serves 6\.1\.0-47-cloud-amd64=6\.1\.170-3") as caught:
        acquire(gone)
    assert caught.value.detail.startswith("snapshot: ")
    assert caught.value.hint.endswith("the server is named by HARNESS_DEBIAN_MIRROR")


def test_a_locked_kernel_that_the_archive_no_longer_has_comes_from_the_snapshot_archive(
    one: Archive, signers: tuple[Signer, Signer], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Snapshot(signers[0])
    name = "6.1.0-47-cloud-amd64"
    service.add(
        f"linux-image-{name}",
        "6.1.170-3",
        deb({**files_of(name, "6.1.170-3"), "padding": bytes(200_000)}, compression=""),
    )
    gone = Choice("6.1", KernelVersion(6, 1, 170), "debian", f"{name}=6.1.170-3", "cloud")
    said: list[str] = []
    with http.serve() as server:
        server.sites["snapshot"] = service
        monkeypatch.setenv("HARNESS_DEBIAN_SNAPSHOT", f"{server.url}/snapshot")
        kernel, choice = Catalog(progress=said.append).acquire_which(gone)
        with pytest.raises(CacheError, match="sha256"):
            acquire(dataclasses.replace(gone, sha256="0" * 64))
    assert (kernel.release, choice.provider, choice.key) == (name, "snapshot", gone.key)
    assert f"6.1: {gone.key} is no longer served; trying the snapshot archive" in said


def test_a_locked_kernel_that_was_built_on_another_machine_says_how_to_build_it() -> None:
    built_there = Choice("6.6", KernelVersion(6, 6, 9), "local", "6.6.9-minimal", "minimal", sha256="0" * 64)
    with pytest.raises(KernelFileError, match="not in the cache") as caught:
        acquire(built_there)
    assert caught.value.hint == "harness kernels build 6.6.9 --flavour minimal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "kernels": [{}]}', "is damaged"),
        ('{"format": 9, "kernels": []}', "has format 9"),
        ('{"format": 1, "kernels": []}', "names no kernel"),
    ],
)
def test_bad_lock_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "x.lock"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SelectorError, match=message) as caught:
        resolve([f"@{path}"])
    assert "harness kernels lock" in caught.value.hint


def test_lock_is_the_default_files_name() -> None:
    assert lockfile.path_of("lock") == Path("kernels.lock")
    assert lockfile.path_of("ci/a.lock") == Path("ci/a.lock")


# Ubuntu's mainline builds


@pytest.fixture
def mainline(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with a list of builds."""
    (server.root / "mainline").mkdir()
    (server.root / "mainline/index.html").write_text('<a href="v6.6.17/">v</a>')
    monkeypatch.setenv("HARNESS_UBUNTU_MAINLINE", f"{server.url}/mainline")
    return server


def test_ubuntu_is_not_asked_for_what_debian_has(one: Archive, mainline: Server) -> None:
    resolve(["6.1", "all", "newest"])
    assert not [path for path, _ in mainline.requests if path.startswith("/mainline")]


def test_ubuntu_out_of_reach_is_said_plainly() -> None:
    with pytest.raises(MirrorError, match="cannot be listed") as caught:
        resolve(["ubuntu:6.6"])
    assert "HARNESS_UBUNTU_MAINLINE" in caught.value.hint
