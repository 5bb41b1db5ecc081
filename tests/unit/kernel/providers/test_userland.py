"""The programs of guests of another architecture: fetched, verified, unpacked, kept."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import BuildError, KernelFileError, MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.providers import userland as module
from harness.kernel.providers.userland import packed, unpack, userland
from harness.util import architecture
from tests.unit.kernel.kernel_fakes import Archive, deb

ARM = architecture.require("arm64")


@pytest.fixture(autouse=True)
def an_x86_64_machine_with_python_3_11(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module, "own_python", lambda: "3.11")
    architecture.own.cache_clear()
    yield
    monkeypatch.undo()
    architecture.own.cache_clear()


@pytest.fixture
def served(archive: Archive) -> Archive:
    """An archive with every package of the list, one of them in two versions."""
    for name in packed("3.11", ARM)["packages"]:
        archive.foreign.add(name)
        archive.add("bookworm", name, "1.0-1", {f"usr/lib/{name}": name.encode()})
    archive.add("bookworm-security", "libc6", "1.0-2", {"lib/aarch64-linux-gnu/libc.so.6": b"new"})
    archive.publish()
    return archive


def quiet(line: str) -> None:
    """Say nothing."""


def test_the_newest_of_each_package_is_unpacked_and_its_digest_kept(served: Archive) -> None:
    folder = userland(ARM, progress=quiet)
    assert (folder / "usr/lib/aarch64-linux-gnu/libc.so.6").read_bytes() == b"new"
    assert (folder / "usr/lib/libffi8").read_bytes() == b"libffi8"
    record = json.loads((folder / "packages.json").read_text())
    assert list(record) == packed("3.11", ARM)["packages"]
    name, digest = record["libc6"].split()
    assert (name, len(digest)) == ("libc6_1.0-2_arm64.deb", 64)
    assert not list((kernel_cache.folder() / "downloads").glob("*.deb"))


def test_it_is_made_once_and_anew_when_the_list_of_packages_has_changed(
    served: Archive, server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    folder = userland(ARM, progress=lines.append)
    lines.clear()
    assert userland(ARM, progress=lines.append) == folder
    assert lines == []
    changed = {**packed("3.11", ARM), "packages": [*packed("3.11", ARM)["packages"], "libnothing1"]}
    monkeypatch.setattr(module, "packed", lambda python, wanted: changed)
    with pytest.raises(MirrorError, match="the mirror serves no package libnothing1 for arm64"):
        userland(ARM, progress=lines.append)


def test_a_package_that_is_not_served_gives_way_to_an_older_one(served: Archive) -> None:
    (served.root / "pool" / "libc6_1.0-2_arm64.deb").unlink()
    lines: list[str] = []
    folder = userland(ARM, progress=lines.append)
    assert (folder / "usr/lib/libc6").read_bytes() == b"libc6"
    assert "debian: libc6 1.0-2 is indexed but not served (404); trying an older one" in lines


def test_a_package_that_is_not_what_the_index_says_is_refused(served: Archive) -> None:
    path = served.root / "pool" / "libffi8_1.0-1_arm64.deb"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(MirrorError):
        userland(ARM, progress=quiet)
    assert not module.folder_of(ARM).exists()


def test_a_python_that_debian_lacks_is_one_clear_error() -> None:
    with pytest.raises(BuildError, match=r"guests of arm64 .* bytecode of this machine's Python 3\.12") as caught:
        packed("3.12", ARM)
    assert "Python 3.11 or 3.13, which Debian has for it" in str(caught.value)


def test_a_python_that_debian_lacks_for_the_architecture_is_one_clear_error() -> None:
    riscv64 = architecture.require("riscv64")
    assert packed("3.13", riscv64) is not None
    with pytest.raises(BuildError, match=r"guests of riscv64 .* bytecode of this machine's Python 3\.11") as caught:
        packed("3.11", riscv64)
    assert "expected: Python 3.13, which" in str(caught.value)


def test_links_stay_inside_and_documentation_is_left_out(tmp_path: Path) -> None:
    package = tmp_path / "p.deb"
    files: dict[str, bytes | str] = {
        "lib/ld.so": "aarch64-linux-gnu/ld.so",
        "usr/lib/python3.11/site.py": "/etc/python3.11/site.py",
        "etc/python3.11/site.py": b"site",
        "usr/share/doc/x": b"words",
        "usr/lib/python3.11/test/x.py": b"test",
    }
    package.write_bytes(deb(files))
    target = tmp_path / "root"
    unpack(package, target)
    assert (target / "usr/lib/ld.so").readlink() == Path("aarch64-linux-gnu/ld.so")
    assert (target / "usr/lib/python3.11/site.py").read_bytes() == b"site"
    assert not (target / "usr/share").exists()
    assert not (target / "usr/lib/python3.11/test").exists()


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "p.deb"
    package.write_bytes(deb({"usr/../../out": b"x"}))
    with pytest.raises(KernelFileError, match="paths below the root"):
        unpack(package, tmp_path / "root")
    assert not (tmp_path.parent / "out").exists()
