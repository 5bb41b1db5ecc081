"""Bad input and broken machines: one clear error with the next step, a status that tells, and nothing left."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from harness import kernel
from tests.plugin.inner import KERNEL, Inner, Result

TESTS = """
def test_one(guest):
    pass


def test_two(guest):
    pass
"""

NOBODY = "http://127.0.0.1:9"
"""A port of this machine where nobody listens."""

OFFLINE = {
    "HARNESS_DEBIAN_SNAPSHOT": NOBODY,
    "HARNESS_UBUNTU_MAINLINE": NOBODY,
    "HARNESS_KERNEL_ORG": NOBODY,
}

USAGE, INFRASTRUCTURE = 2, 3


def assert_one_clear_error(result: Result, status: int, what: str) -> None:
    assert result.status == status, result.out
    errors = [line for line in result.lines if line.startswith("ERROR: ")]
    assert len(errors) == 1, result.out
    assert what in errors[0]
    assert "  next step: " in result.out
    for soup in ("Traceback", "INTERNALERROR", "During handling", "harness/pytest_plugin/"):
        assert soup not in result.out
    assert "passed" not in result.out


@pytest.fixture(params=["", "-q", "-n2"])
def way(request: pytest.FixtureRequest) -> list[str]:
    """How pytest is called: a header is printed, none is, or there are workers."""
    return str(request.param).split()


@pytest.mark.parametrize(
    ("selector", "what"),
    [
        ("9.99", "no kernel matches '9.99'"),
        ("6.x", "'6.x'"),
        ("", "a kernel selection is empty"),
        ("/absent/vmlinuz", "/absent/vmlinuz does not exist"),
        ("./test_kernel.py", "test_kernel.py is not a kernel image"),
        ("./empty", "empty"),
        ("./short", "short"),
    ],
)
def test_a_kernel_that_is_unavailable(inner: Inner, selector: str, what: str) -> None:
    inner.write(test_kernel=TESTS)
    (inner.folder / "empty").mkdir()
    whole = kernel.acquire(kernel.resolve([KERNEL])[0]).boot_image
    with whole.open("rb") as stream:
        (inner.folder / "short").write_bytes(stream.read(100_000))
    assert_one_clear_error(inner.run(f"--kernel={selector}", env=OFFLINE), USAGE, what)


def test_a_malformed_kernel_however_pytest_is_called(inner: Inner, way: list[str]) -> None:
    inner.write(test_kernel=TESTS)
    assert_one_clear_error(inner.run("--kernel=6.x", *way, env=OFFLINE), USAGE, "'6.x'")


def test_a_malformed_kernel_in_the_configuration(inner: Inner) -> None:
    inner.write(test_kernel=TESTS)
    (inner.folder / "pytest.ini").write_text("[pytest]\nharness_kernels = 6.1 six\n")
    assert_one_clear_error(inner.run(env=OFFLINE), USAGE, "'six'")


def test_a_mirror_that_does_not_answer(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    cache = tmp_path / "cache"
    environment = {
        **OFFLINE,
        "HARNESS_CACHE": str(cache),
        "HARNESS_DEBIAN_MIRROR": NOBODY,
        "HARNESS_DEBIAN_SECURITY_MIRROR": NOBODY,
    }
    result = inner.run(f"--kernel={KERNEL}", env=environment)
    assert_one_clear_error(result, INFRASTRUCTURE, "6.1")
    assert "127.0.0.1:9" in result.out
    assert [path for path in cache.rglob("*") if path.name.startswith(".tmp-") or "vmlinu" in path.name] == []


def test_the_default_kernel_behind_a_mirror_that_does_not_answer(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    environment = {
        **OFFLINE,
        "HARNESS_CACHE": str(tmp_path / "cache"),
        "HARNESS_DEBIAN_MIRROR": NOBODY,
        "HARNESS_DEBIAN_SECURITY_MIRROR": NOBODY,
    }
    result = inner.run(env=environment)
    # It is looked for when a test that needs it is found: pytest's own words for that are an error of collection.
    assert result.status == pytest.ExitCode.INTERRUPTED, result.out
    assert "ERROR collecting test_kernel.py" in result.out
    assert "no kernel for '6.12' can be found" in result.out
    assert "  next step: " in result.out
    assert "Traceback" not in result.out
    assert "plugin.py" not in result.out


def test_a_cache_that_cannot_be_written(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    (tmp_path / "file").touch()
    environment = {**OFFLINE, "HARNESS_CACHE": str(tmp_path / "file")}
    assert_one_clear_error(inner.run(f"--kernel={KERNEL}", env=environment), INFRASTRUCTURE, "cannot be written")


def test_no_qemu(inner: Inner, way: list[str]) -> None:
    inner.write(test_kernel=TESTS)
    result = inner.run(f"--kernel={KERNEL}", *way, env={"PATH": "/nowhere"})
    assert_one_clear_error(result, INFRASTRUCTURE, "qemu-system-x86_64 is not installed")
    assert "apt-get install qemu-system-x86" in result.out


def fake_qemu(folder: Path, body: str) -> dict[str, str]:
    """Return an environment in which QEMU says what it can do and otherwise does what `body` says."""
    import os

    real = shutil.which("qemu-system-x86_64")
    fake = folder / "qemu-system-x86_64"
    asks = '*" --version "* | *" -version "* | *",help "*'
    fake.write_text(f'#!/bin/bash\ncase " $* " in {asks}) exec {real} "$@" ;; esac\n{body}\n')
    fake.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    "body",
    ["echo 'KVM internal error. Suberror: 1' >&2; exit 1", 'exec -a "$0 $*" sleep 1000'],
    ids=["ends", "hangs"],
)
def test_kvm_asked_for_where_it_runs_no_guest(inner: Inner, tmp_path: Path, body: str) -> None:
    inner.write(test_kernel=TESTS)
    started = time.monotonic()
    result = inner.run(f"--kernel={KERNEL}", "--accel=kvm", env=fake_qemu(tmp_path, body))
    assert_one_clear_error(result, INFRASTRUCTURE, "KVM cannot run a guest on this machine")
    assert "--accel=auto" in result.out
    assert time.monotonic() - started < 60  # its own deadline is 10 s


def test_an_acceleration_there_is_none_of(inner: Inner) -> None:
    inner.write(test_kernel=TESTS)
    result = inner.run("--accel=warp")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert "invalid choice: 'warp'" in result.out


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "soon"])
def test_a_time_out_that_is_none(inner: Inner, seconds: str) -> None:
    result = inner.run(f"--boot-timeout={seconds}")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert f"{seconds} is not a number of seconds above 0" in result.out


def assert_tests_are_lost(result: Result, what: str) -> None:
    assert result.status == INFRASTRUCTURE, result.out
    assert result.last.strip("= ").startswith("1 error, 1 not run in"), result.out
    assert result.out.count("INFRASTRUCTURE test_kernel.py::") == 1
    assert len(re.findall(rf"^BootError: {what}", result.out, re.MULTILINE)) == 1, result.out
    assert f"harness: {what}; booting once more" in result.out
    assert f"kernel {KERNEL}: {what}\n" in result.out
    assert "; 1 more tests were not run\n" in result.out
    assert "next step: " in result.out
    assert "Traceback" not in result.out


def fake_vng(folder: Path, body: str) -> dict[str, str]:
    """Return an environment in which Python finds a virtme-ng that does what `body` says."""
    package = folder / "virtme_ng"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(f"def main():\n    {body}\n")
    return {"PYTHONPATH": str(folder)}


VNG_ENDS = "raise RuntimeError(\"Could not find ['depmod']\")"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_vng_that_does_not_start_qemu(inner: Inner, tmp_path: Path, workers: tuple[str, ...]) -> None:
    inner.write(test_kernel=TESTS)
    options = [f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot", *workers]
    result = inner.run(*options, env=fake_vng(tmp_path, VNG_ENDS))
    what = "vng ended before it started QEMU: RuntimeError: Could not find ['depmod']"
    assert result.status == INFRASTRUCTURE, result.out
    assert len(re.findall(rf"^VngFailed: {re.escape(what)}", result.out, re.MULTILINE)) == 1, result.out
    assert result.last.strip("= ").startswith("1 error, 1 not run in"), result.out
    assert f"every kernel: {what}\n" in result.out
    assert "next step: apt-get install kmod; vng without the harness: " in result.out
    assert "QEMU ended" not in result.out


def test_a_guest_that_does_not_answer_in_time(inner: Inner) -> None:
    inner.write(test_kernel=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot", "--boot-timeout=0.5")
    assert_tests_are_lost(result, "the guest of 6.1 was not ready within 0.5 s")


def test_a_guest_that_never_says_a_word(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    options = [f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot", "--boot-timeout=3"]
    result = inner.run(*options, env=fake_qemu(tmp_path, 'exec -a "$0 $*" sleep 1000'))
    assert_tests_are_lost(result, "the guest of 6.1 was not ready within 3 s")


LOG_TO_CHANNEL = r"""
import re, socket, sys, time
channel = socket.socket(socket.AF_UNIX)
channel.connect(re.search(r"id=harness,path=([^ ,]+)", " ".join(sys.argv))[1])
channel.sendall(b"[    0.000000] Linux version 6.1.192\r\n" * 100)
time.sleep(1000)
"""


def test_a_kernel_that_writes_its_log_to_the_channel(inner: Inner, tmp_path: Path) -> None:
    """As one does that finds the channel's serial port before the console's."""
    inner.write(test_kernel=TESTS)
    program = tmp_path / "log_to_channel.py"
    program.write_text(LOG_TO_CHANNEL)
    options = [f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot"]
    result = inner.run(*options, env=fake_qemu(tmp_path, f'exec {sys.executable} {program} "$@"'))
    what = "before its agent, something else wrote to the channel of the guest of 6.1: the guest broke the protocol: "
    assert result.status == INFRASTRUCTURE, result.out
    assert len(re.findall(rf"^BootError: {what}", result.out, re.MULTILINE)) == 1, result.out
    assert "next step: if the console below ends with the firmware's lines" in result.out


def test_a_kernel_that_panics_in_the_middle_of_a_message(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    program = tmp_path / "log_to_channel.py"
    program.write_text(LOG_TO_CHANNEL)
    panic = "echo '[    1.000000] Kernel panic - not syncing: out of luck' >&2"
    options = [f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot"]
    result = inner.run(*options, env=fake_qemu(tmp_path, f'{panic}\nexec {sys.executable} {program} "$@"'))
    assert_tests_are_lost(result, "the kernel 6.1 died while it booted: Kernel panic - not syncing: out of luck")
    assert "next step: look at the console below; without the harness: " in result.out


def test_a_qemu_that_refuses(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_kernel=TESTS)
    options = [f"--kernel={KERNEL}", "--accel=tcg", "--isolation=boot"]
    result = inner.run(*options, env=fake_qemu(tmp_path, "echo 'qemu: no such machine' >&2; exit 1"))
    assert_tests_are_lost(result, "QEMU ended before the guest of 6.1 was ready")
    assert "| qemu: no such machine" in result.out
