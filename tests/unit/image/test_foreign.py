"""The guest image for another architecture, made of a folder of its programs."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from harness import needs
from harness.errors import BuildError, UsageError
from harness.image import build, busybox, elf
from harness.util import architecture
from tests.needs import needs_program
from tests.unit.image.test_build import read_archive

ARM = architecture.require("arm64")
OWN = architecture.own()
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with this machine's programs, laid out as arm64's, and a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    interpreter = Path(sys.executable).resolve()
    shutil.copyfile(interpreter, root / "usr/bin" / PYTHON)
    libraries = root / "usr/lib" / ARM.triplet
    libraries.mkdir(parents=True)
    (root / "usr/lib" / PYTHON).symlink_to(sysconfig.get_path("stdlib"))
    libbpf = needs.find(needs.need("libbpf.so.1"))
    assert libbpf is not None
    extensions = [*Path(sysconfig.get_config_var("DESTSHARED")).glob("*.so")]
    found = elf.shared_libraries([interpreter, libbpf, *extensions])
    for name, path in {**found, "libbpf.so.1": libbpf}.items():
        shutil.copyfile(path, libraries / Path(name).name)
    busybox = needs.find(needs.need("busybox-static"))
    assert busybox is not None
    shutil.copyfile(busybox, root / "usr/bin/busybox")
    return root


def test_what_programs_need_is_found_without_running_them() -> None:
    program = Path("/usr/bin/env").resolve()
    by_ldd = elf.shared_libraries([program])
    found = elf.closure([program], Path("/"), OWN.triplet)
    assert {Path(name).name for name in by_ldd} == {Path(name).name for name in found}
    assert all(path.exists() for path in found.values())


def test_a_library_that_the_folder_lacks_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs the shared library .*, which .* does not have"):
        elf.closure([Path(sys.executable).resolve()], tmp_path, OWN.triplet)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(BuildError, match="cannot be read as an ELF file"):
        elf.closure([script], tmp_path, OWN.triplet)


def test_the_image_is_of_the_folder_and_tells_the_guest_its_architecture(root: Path) -> None:
    needs_program("libbpf.so.1")
    image = build.foreign_image(root, ARM)
    assert image.userland == root
    found = {read.path: read for read in read_archive(image.path.read_bytes())}
    init = found["init"].data.decode()
    assert init.startswith(f"#!/usr/bin/{PYTHON} -ISE\n")
    assert "'resource2_wc'" in init
    assert "'bpf': 280" in init
    assert f"usr/bin/{PYTHON}" in found
    assert f"usr/lib/{PYTHON}/harness/guest/agent.pyc" in found
    assert "usr/lib/libbpf.so.1" in found
    assert (found["usr/bin/sh"].data, found["usr/bin/ls"].data) == (b"busybox", b"busybox")
    assert found["lib"].data == b"usr/lib"
    assert not [path for path in found if str(root).lstrip("/") in path]
    # The second time it comes from the cache, and another change of the folder makes it anew.
    assert build.foreign_image(root, ARM) == image
    assert build.guest_image() != image


def test_the_applets_of_a_busybox_are_read_as_it_lists_them_itself(tmp_path: Path) -> None:
    program = needs.find(needs.need("busybox-static"))
    assert program is not None
    assert busybox.read(program) == busybox.listed(program)
    (tmp_path / "busybox").write_bytes(b"\x7fELF nothing")
    with pytest.raises(BuildError, match="has no table of applets"):
        busybox.read(tmp_path / "busybox")


def test_a_folder_without_python_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"has no /usr/bin/{PYTHON}") as caught:
        build.foreign_image(tmp_path, ARM)
    assert "the next run makes it anew" in str(caught.value)
