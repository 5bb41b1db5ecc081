"""Caches, folders and namespaces that are not as usual, and processes that a test leaves running."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.util import cache
from tests.needs import needs_program
from tests.plugin.inner import KERNEL, WHOLE, Inner
from tests.processes import wait_until

PLAIN = """
def work():
    return "done"


def test_one(guest):
    assert guest.call(work) == "done"


def test_two(guest):
    assert guest.call(work) == "done"
"""

READ_ONLY = 'mount --bind "$HARNESS_CACHE" "$HARNESS_CACHE" && mount -o remount,ro,bind "$HARNESS_CACHE" && exec "$@"'


@pytest.fixture
def odd_cache(tmp_path: Path) -> dict[str, str]:
    """Settings with a cache and a TMPDIR whose names separate options of QEMU and of vng."""
    own, temporary = tmp_path / "a cache, new", tmp_path / "tmp, old"
    own.mkdir()
    temporary.mkdir()
    (own / "kernels").symlink_to(cache.cache_root() / "kernels")
    return {"HARNESS_CACHE": str(own), "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(temporary)}


def in_namespace(inner: Inner, *words: str, script: str = "", env: dict[str, str] | None = None) -> str:
    """Run pytest in namespaces of its own; return what it printed."""
    needs_program("unshare", "util-linux")
    command = ["unshare", *words, *(["sh", "-c", script, "sh"] if script else [])]
    if subprocess.run(["unshare", *words, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no namespaces")
    done = subprocess.run(
        [*command, *inner._argv((f"--kernel={KERNEL}", "--accel=tcg", "test_plain.py"))],
        cwd=inner.folder,
        env={**os.environ, "XDG_RUNTIME_DIR": str(inner.runtime), **(env or {})},
        capture_output=True,
        text=True,
        timeout=WHOLE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a cache for reading alone")
def test_odd_paths_and_then_a_cache_that_cannot_be_written(inner: Inner, odd_cache: dict[str, str]) -> None:
    inner.write(test_plain=PLAIN)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", env=odd_cache)
    assert result.status == 0, result.out
    assert "instead" not in result.out, "tests boot"
    assert len(list(Path(odd_cache["HARNESS_CACHE"]).glob("templates/*/template.json"))) == 1
    out = in_namespace(inner, "--mount", script=READ_ONLY, env=odd_cache)
    assert "2 passed" in out
    assert "instead" not in out, "tests boot"


WAITS = """
import time
from pathlib import Path


def wait():
    time.sleep(1000)


def test_waits(guest, vm):
    Path("started").write_text(str(vm.process.pid()))
    guest.call(wait, timeout=1000)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace without a user namespace")
def test_a_run_in_another_pid_namespace_leaves_a_live_machine_alone(inner: Inner) -> None:
    inner.write(test_waits=WAITS, test_plain=PLAIN)
    process = inner.start(f"--kernel={KERNEL}", "--accel=tcg", "test_waits.py")
    try:
        wait_until((inner.folder / "started").exists)
        before = inner.run_folders()
        assert "2 passed" in in_namespace(inner, "--pid", "--fork", "--mount-proc")
        assert inner.run_folders() == before
        assert int((inner.folder / "started").read_text()) in inner.qemus()
    finally:
        process.terminate()
        process.communicate()


RUNAWAY = """
import os
import time
from pathlib import Path


def spin():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
        os.write(writer, b"x")
        while True:
            pass
    # Ends only if something takes the processor back from the child: it has only one.
    os.read(reader, 1)


def test_spins(guest):
    guest.call(spin, closes=False, timeout=10)


def work():
    return "done"


def test_next(guest):
    assert guest.call(work) == "done"
"""


def test_after_a_process_that_takes_the_processor_the_next_test_runs(inner: Inner) -> None:
    inner.write(test_runaway=RUNAWAY)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "-rA")
    assert "GuestHung: no answer to" in result.out
    assert "a program at a real-time priority" in result.out
    assert result.outcomes("test_spins") == ["FAILED"]
    assert result.outcomes("test_next") == ["PASSED"]
