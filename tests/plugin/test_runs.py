"""What pytest shows with the plugin, and that nothing is left when it has ended, in whatever way."""

from __future__ import annotations

import os
import re
import signal
import sys

import pytest

from tests.plugin.inner import KERNEL, Inner, properties_of
from tests.processes import has_ended, wait_until

PLAIN = """
def test_plain():
    assert True
"""

RELEASE = """
import os

import pytest


def release():
    return os.uname().release


@pytest.mark.parametrize("number", [1, 2])
def test_release(guest, number):
    assert guest.call(release) == guest.release
"""


def test_without_tests_of_kernels_the_plugin_does_nothing(inner: Inner) -> None:
    inner.write(
        test_plain="""
import sys

import pytest


@pytest.fixture
def kernel():
    return "a project's own"


@pytest.fixture
def vm(kernel):
    return kernel


def test_names_are_free(kernel, vm):
    assert vm == kernel


def test_nothing_was_loaded():
    loaded = {name.removeprefix("harness.") for name in sys.modules if name.startswith("harness.")}
    parts = ("", ".fixtures", ".marks", ".options", ".parts")
    assert loaded == {f"pytest_plugin{part}" for part in parts}
    assert not {"pexpect", "requests", "lz4", "rich", "debian", "msgspec", "jinja2"} & set(sys.modules)
"""
    )
    # No cache, no mirror, no QEMU: none is looked for.
    nowhere = {"HARNESS_CACHE": "/proc/nowhere", "PATH": "", "HARNESS_DEBIAN_MIRROR": "http://127.0.0.1:9"}
    result = inner.run(env=nowhere)
    assert result.status == 0, result.out
    assert "harness:" not in result.out
    assert "kernel 6" not in result.out
    assert not inner.runs.exists()


def test_the_header_shows_release_origin_and_acceleration(inner: Inner) -> None:
    inner.write(test_plain=PLAIN)
    result = inner.run(f"--kernel={KERNEL}")
    assert result.status == 0, result.out
    (line,) = [line for line in result.lines if line.startswith("kernel ")]
    assert re.fullmatch(
        r"kernel 6\.1: 6\.1\.\d+ \(debian 6\.1\.0-\d+-cloud-amd64=6\.1\.\S+ .*\), (kvm|tcg) \(.+\)", line
    )


def test_each_kernel_is_a_parameter(inner: Inner) -> None:
    inner.write(test_release=RELEASE)
    result = inner.run(f"--kernel={KERNEL}", "--kernel=6.12", "--collect-only", "-q")
    assert result.status == 0, result.out
    found = [set(re.split(r"[\[\]-]", line)[1:-1]) for line in result.lines if "::" in line]
    assert sorted(found, key=sorted) == [{"1", KERNEL}, {"1", "6.12"}, {"2", KERNEL}, {"2", "6.12"}]


def test_kernels_may_be_named_in_the_configuration(inner: Inner) -> None:
    inner.write(test_release=RELEASE)
    (inner.folder / "pytest.ini").write_text(f"[pytest]\nharness_kernels = {KERNEL}\n")
    result = inner.run("--collect-only", "-q")
    assert f"[{KERNEL}" in result.out or f"{KERNEL}]" in result.out
    result = inner.run("--collect-only", "-q", "--kernel=6.12")
    assert "6.12" in result.out
    assert not re.search(rf"[\[-]{re.escape(KERNEL)}[\]-]", result.out)


def test_without_a_kernel_named_there_is_a_default(inner: Inner) -> None:
    inner.write(test_release=RELEASE)
    result = inner.run("--accel=tcg")
    assert result.status == 0, result.out
    assert "kernel 6.12: 6.12." in result.out


def test_two_workers_share_the_tests(inner: Inner) -> None:
    inner.write(test_release=RELEASE, test_again=RELEASE)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "-n2", "--dist=load", "--verdicts", "--junit-xml=j.xml")
    assert result.status == 0, result.out
    assert re.search(r"=+ 4 passed in", result.last)
    assert result.out.count("✓ passed 2") == 2
    properties = properties_of(inner.folder / "j.xml")
    assert all(found["release"].startswith("6.1.0-") for found in properties.values())


def test_the_table_is_legible_without_signs_beyond_ascii(inner: Inner) -> None:
    inner.write(test_release=RELEASE)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--verdicts", env={"PYTHONIOENCODING": "ascii"})
    assert result.status == 0, result.out
    assert re.search(r"^  release +passed 2$", result.out, re.MULTILINE)


def test_a_machine_of_each_kind_of_isolation(inner: Inner) -> None:
    inner.write(test_release=RELEASE)
    for isolation in ("fork", "boot"):
        result = inner.run(f"--kernel={KERNEL}", f"--isolation={isolation}", "--accel=tcg")
        assert result.status == 0, result.out


def test_a_kernel_under_a_path_with_a_blank(inner: Inner) -> None:
    from harness import kernel

    vmlinux = kernel.acquire(kernel.resolve([KERNEL])[0]).boot_image
    folder = inner.folder / "my kernels"
    folder.mkdir()
    (folder / "vmlinux").symlink_to(vmlinux)
    inner.write(test_release=RELEASE)
    result = inner.run("--kernel", str(folder / "vmlinux"), "--isolation=boot", "--accel=tcg")
    assert result.status == 0, result.out


# Two tests, so that an interruption of the first can be told from the end.
WAITS = """
import time
from pathlib import Path


def wait():
    time.sleep(1000)


def test_waits(guest, vm):
    Path("started").write_text(str(vm.process.pid()))
    guest.call(wait, timeout=1000)


def test_next(guest):
    Path("next").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_and_is_reported(inner: Inner, number: signal.Signals) -> None:
    inner.write(test_waits=WAITS)
    junit = inner.folder / "junit.xml"
    process = inner.start(f"--kernel={KERNEL}", "--accel=tcg", "--verdicts", f"--junitxml={junit}")
    wait_until((inner.folder / "started").exists)
    assert inner.qemus() != []
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    assert "KeyboardInterrupt" in out
    assert ("terminated by SIGTERM" in out) == (number == signal.SIGTERM)
    assert "no tests ran in" in out
    assert junit.read_text().startswith("<?xml")
    assert inner.qemus() == []
    assert inner.run_folders() == []
    assert not (inner.folder / "next").exists()


@pytest.mark.parametrize("isolation", ["vm", "boot"])
def test_a_kill_leaves_no_machine_and_the_next_run_clears_its_folder(inner: Inner, isolation: str) -> None:
    inner.write(test_waits=WAITS, test_release=RELEASE)
    process = inner.start(f"--kernel={KERNEL}", f"--isolation={isolation}", "--accel=tcg", "test_waits.py")
    wait_until((inner.folder / "started").exists)
    process.kill()
    process.communicate()
    # Nobody is left to end it: it ends by itself.
    wait_until(lambda: inner.qemus() == [])
    assert inner.run_folders() != []
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "test_release.py")  # which looks for left folders itself
    assert result.status == 0, result.out


def test_a_machine_that_outlived_its_harness_is_ended_by_the_next_run(inner: Inner) -> None:
    inner.write(test_waits=WAITS, test_release=RELEASE)
    process = inner.start(f"--kernel={KERNEL}", "--isolation=boot", "--accel=tcg", "test_waits.py")
    wait_until((inner.folder / "started").exists)
    qemu = int((inner.folder / "started").read_text())
    # A stopped process cannot act on the hangup that its terminal's end sends it.
    os.kill(qemu, signal.SIGSTOP)
    process.kill()
    process.communicate()
    assert inner.run_folders() != []
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "test_release.py")
    assert result.status == 0, result.out
    # Killed; that its own parent has taken notice is another matter.
    wait_until(lambda: has_ended(qemu))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="pty does not warn before Python 3.12")
def test_starting_vng_warns_of_nothing(inner: Inner) -> None:
    # As an error it would not be seen: forkpty() drops the exception.
    (inner.folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = default\n")
    inner.write(
        test_it="""
import threading

import pexpect


def test_a_terminal_beside_a_thread():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        pexpect.spawn("true").wait()
    finally:
        end.set()
        thread.join()
"""
    )
    result = inner.run(f"--kernel={KERNEL}")
    assert "1 passed in" in result.out
    assert "warning" not in result.out
