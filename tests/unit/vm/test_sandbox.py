"""What QEMU may do on the host: shown with another program in its place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.vm import memory, sandbox
from harness.vm.sandbox import User, abilities, confine, unprivileged_user
from tests.processes import has_ended, wait_until


def status_of(user: User | None, *, reads: bool = False) -> dict[str, str]:
    done = subprocess.run(
        ["cat", "/proc/self/status"], capture_output=True, text=True, check=True, preexec_fn=confine(user, reads=reads)
    )
    return dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)


def test_a_confined_program_has_no_capability_and_gains_none() -> None:
    status = status_of(unprivileged_user())
    assert status["NoNewPrivs"] == "1"
    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
def test_under_root_it_runs_as_a_user_that_owns_nothing() -> None:
    first, second = unprivileged_user(), unprivileged_user()
    assert first is not None
    assert second is not None
    assert first != second, "QEMUs must not reach each other"
    status = status_of(first)
    assert status["Uid"].split() == status["Gid"].split() == [str(first.number)] * 4
    assert status["Groups"].split() == []
    assert status["CapBnd"].strip("0") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root")
def test_at_boot_root_can_read_files_and_nothing_else() -> None:
    status = status_of(None, reads=True)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 2  # CAP_DAC_READ_SEARCH
    assert status["NoNewPrivs"] == "1"


def test_it_ends_with_its_parent_whatever_user_it_is(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from harness.vm.sandbox import confine, unprivileged_user
child = subprocess.Popen(["sleep", "1000"], preexec_fn=confine(unprivileged_user()))
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    wait_until(lambda: has_ended(int(done.stdout)))


class Proc:
    """Facts that /proc gives, in place of this machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = {
            "/proc/self/status": "Name:\tx\nCapEff:\t00000000000000c0",
            "/proc/self/setgroups": "allow",
            "/proc/self/uid_map": "         0          0 4294967295",
            "/proc/self/gid_map": "         0          0 4294967295",
        }
        monkeypatch.setattr(sandbox, "_read", self.files.__getitem__)
        monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def proc_files(monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(monkeypatch)


def test_root_in_a_small_user_namespace_gives_nobody(proc_files: Proc) -> None:
    assert (unprivileged_user() or User(0)).number >= 0x6B680000
    proc_files.files["/proc/self/uid_map"] = "0 100000 65536"
    assert unprivileged_user() == User(65534)
    proc_files.files["/proc/self/gid_map"] = "0 1000 1"
    assert unprivileged_user() is None


@pytest.mark.parametrize(
    ("file", "content"),
    [("/proc/self/status", "CapEff:\t0000000000000080"), ("/proc/self/setgroups", "deny")],
)
def test_root_that_cannot_change_its_user_keeps_it(proc_files: Proc, file: str, content: str) -> None:
    proc_files.files[file] = content
    assert unprivileged_user() is None


@pytest.mark.parametrize(
    ("mode", "number", "groups"), [(0o660, True, True), (0o666, True, True), (0o600, False, False)]
)
def test_a_device_that_it_needs_stays_open_to_it(
    proc_files: Proc, tmp_path: Path, mode: int, number: bool, groups: bool
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    found = unprivileged_user(device)
    assert (found is not None) == number
    assert (found is not None and found.groups == (device.stat().st_gid,)) == groups
    device.chmod(0o606)
    assert (unprivileged_user(device) or User(0, (1,))).groups == ()
    assert proc_files.files


def fake_qemu(folder: Path, script: str) -> Path:
    qemu = folder / "qemu"
    qemu.write_text(f"#!/bin/sh\n{script}\n")
    qemu.chmod(0o755)
    return qemu


def test_a_build_without_seccomp_is_recognised(tmp_path: Path) -> None:
    old = fake_qemu(tmp_path, 'case "$1" in -sandbox) echo "-sandbox support is not enabled" >&2; exit 1;; esac')
    assert abilities(old) == sandbox.Abilities(sandbox=False, private_rom=False)


def test_a_build_that_has_everything_is_recognised(tmp_path: Path) -> None:
    new = fake_qemu(tmp_path, 'case "$1" in -object) echo "  rom=<OnOffAuto>";; esac')
    assert abilities(new) == sandbox.Abilities(sandbox=True, private_rom=True)


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, (64 << 20) - 4096):
            file.seek(at)
            file.write(b"data" * 1024)
    return path


def test_the_copy_of_a_memory_has_the_same_content_and_holes(ram: Path) -> None:
    copy = Path(f"/proc/self/fd/{memory.sealed_copy(ram, [1])}")
    assert copy.read_bytes() == ram.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_nobody_can_change_the_copy_of_a_memory(ram: Path) -> None:
    descriptor = memory.sealed_copy(ram, [1])
    opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)  # as QEMU before 8.2 does
    try:
        with pytest.raises(PermissionError):
            os.write(opened, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(opened, 0)
    finally:
        os.close(opened)


def test_a_memory_is_copied_once_until_it_changes(ram: Path) -> None:
    first = memory.sealed_copy(ram, [1])
    assert memory.sealed_copy(ram, [1]) == first
    with ram.open("r+b") as file:
        file.write(b"new!")
    second = memory.sealed_copy(ram, [2])
    assert os.pread(second, 4, 0) == b"new!"
    assert len([known for known in memory._copies if known == ram]) == 1


def test_a_memory_that_others_may_not_read_is_copied(ram: Path) -> None:
    ram.chmod(0o600)
    assert memory.for_reading(ram) is None
    ram.chmod(0o644)
    descriptor = memory.for_reading(ram)
    assert descriptor is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    assert stat.S_ISREG(os.fstat(descriptor).st_mode)
    os.close(descriptor)
