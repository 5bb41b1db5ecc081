"""`harness boundary` with pytest and kernels as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import kernel as kernels
from harness.kernel import lockfile
from tests.plugin.inner import KERNEL, WHOLE, Inner

NEWER = "6.12"

RELEASE = """
import pytest

def test_old(guest):
    assert guest.release.startswith("6.1.")

def test_any(guest):
    assert guest.release

@pytest.mark.kernel("<5.0")
def test_ancient(guest):
    pass
"""


def harness(inner: Inner, *words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("harness")
    environment = {**inner._environment, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [program, *words],
        cwd=inner.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WHOLE,
        check=False,
    )
    assert inner.qemus() == []
    assert inner.run_folders() == []
    return done


@pytest.fixture
def lock(inner: Inner, tmp_path: Path) -> Path:
    """A lock file of two kernels."""
    inner.write(test_release=RELEASE)
    path = tmp_path / "two.lock"
    lockfile.write(path, kernels.resolve([KERNEL, NEWER]), {})
    return path


def test_a_boundary_between_two_real_kernels(inner: Inner, lock: Path) -> None:
    done = harness(inner, "boundary", "test_release.py", f"--kernel=@{lock}", "--format=json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["run"] == [KERNEL, NEWER]
    old, anyone = sorted(found["tests"], key=lambda one: one["test"] == "test_release.py::test_any")
    assert anyone["boundaries"] == []
    [flip] = old["boundaries"]
    assert (flip["last"]["label"], flip["first"]["label"]) == (KERNEL, NEWER)
    assert (flip["before"]["outcome"], flip["after"]["outcome"]) == ("passed", "failed")
    assert flip["after"]["reason"].startswith("AssertionError")
    assert found["silent"][KERNEL] == {"test_release.py::test_ancient": "the test is for kernels <5.0"}


@pytest.mark.parametrize(("test", "status"), [("test_any", 0), ("test_old", 1), ("test_ancient", 125), ("none", 255)])
def test_a_step_of_git_bisect_on_a_real_kernel(inner: Inner, lock: Path, test: str, status: int) -> None:
    image = kernels.acquire(lockfile.read(lock)[1]).bzimage
    done = harness(inner, "boundary", "--git-run", f"test_release.py::{test}", f"--kernel={image}")
    assert done.returncode == status, done.stderr
