"""Programs in a root file system of their own: a folder that becomes a disk, with an overlay in memory over it."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import needs
from harness.exec.run import Wishes
from harness.image.rootfs import rootfs
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.util import architecture
from harness.vm.machine import Machine
from harness.vm.spec import Needs
from tests.needs import needs_features, needs_program
from tests.vm.test_exec import Ran, Words


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a static busybox, and files of several owners."""
    needs_features("rootfs")
    needs_program("busybox-static")
    folder = tmp_path_factory.mktemp("rootfs")
    busybox = needs.program("busybox-static")
    shutil.copy(busybox.resolve(), folder / "busybox")
    path = folder / "r.tar"

    def of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid, info.mode, info.mtime = 0, 0, 0o755, 0
        return info

    def of_another(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid, info.mode, info.mtime = 7, 8, 0o4755, 0
        return info

    with tarfile.open(path, "w") as out:
        out.add(folder / "busybox", "usr/bin/busybox", filter=of_root)
        out.add(folder / "busybox", "usr/bin/tool", filter=of_another)
        for name, target in (("bin", "usr/bin"), ("usr/bin/sh", "busybox"), ("usr/bin/cat", "/usr/bin/busybox")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
    return path


@pytest.fixture(scope="module")
def machines(archive: Path, kernel_choice: Choice) -> Iterator[Pool]:
    pool = Pool(Settings(boot_timeout=400), lambda _: None)
    yield pool
    pool.close()


@pytest.fixture
def machine(machines: Pool, archive: Path, kernel_choice: Choice) -> Iterator[Machine]:
    spec = machines.prepare(kernel_choice, Needs(rootfs=str(archive)))
    taken = machines.take(spec)
    yield taken
    machines.give_back(spec, taken)


def run(machine: Machine, archive: Path, folder: Path, *words: str) -> Ran:
    return Ran(machine, folder, words, Wishes({}), Words(), rootfs=rootfs(archive, architecture.own().name))


SCRIPT = """
busybox stat -c '%u %g %a' /usr/bin/tool /usr/bin/busybox
busybox ls /
test -e /usr/bin/python3 || echo no python
cat /proc/self/comm; test -d /sys/fs/bpf && test -c /dev/null && echo kernel
echo written > /usr/bin/new && cat /usr/bin/new
echo $(busybox wc -l < data) lines of this machine
"""


def test_programs_see_the_root_file_system_the_kernels_files_and_their_own(
    machine: Machine, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a\nb\n")
    ran = run(machine, archive, tmp_path, "sh", "-c", SCRIPT)
    assert ran.err == ""
    top = sorted({"bin", "dev", "proc", "sys", "tmp", "usr", tmp_path.parts[1]})
    assert ran.out.splitlines() == [
        "7 8 4755",
        "0 0 755",
        *top,
        "no python",
        "cat",
        "kernel",
        "written",
        "2 lines of this machine",
    ]


def test_what_one_clone_writes_no_other_sees(machine: Machine, archive: Path, tmp_path: Path) -> None:
    assert run(machine, archive, tmp_path, "sh", "-c", "test ! -e /usr/bin/new").done.status == 0


def test_a_script_of_this_machine_runs_with_the_root_file_systems_shell(
    machine: Machine, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.sh").write_text("#!/bin/sh\nreadlink /bin/sh\n")
    (tmp_path / "s.sh").chmod(0o755)
    assert run(machine, archive, tmp_path, "./s.sh").out == "busybox\n"
