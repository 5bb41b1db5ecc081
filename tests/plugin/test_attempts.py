"""Tests that run again, run in parts, lose their worker, or have to be ready in little time."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from harness.results.file import read
from harness.util import cache
from tests.plugin.inner import KERNEL, Inner

COLD = """
import os
from pathlib import Path


def pytest_runtest_protocol():
    saved = Path(os.environ["HARNESS_CACHE"], "templates")
    Path("ready").write_text(str(len([one for one in saved.iterdir() if one.is_dir()])) if saved.exists() else "0")
"""


def test_machines_are_saved_before_the_first_test_with_a_word_about_it(inner: Inner, tmp_path: Path) -> None:
    own = tmp_path / "cache"  # not among the tests, where pytest would look for some in kernels' sources
    own.mkdir()
    for entry in cache.cache_root().iterdir():
        if entry.name != "templates":
            (own / entry.name).symlink_to(entry)
    inner.write(conftest=COLD, test_it="def test_it(guest): assert guest.release")
    options = ["--timeout=60"] if importlib.util.find_spec("pytest_timeout") else []
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", *options, env={"HARNESS_CACHE": str(own)})
    assert result.status == 0, result.out
    assert (inner.folder / "ready").read_text() == "1"
    said = f"harness: booting {KERNEL} and saving it; tests start from that, also in later runs"
    assert result.lines.index(said) < next(at for at, line in enumerate(result.lines) if line.startswith("test_it.py "))


SUBTESTS = """
import time
from pathlib import Path


def say(number):
    print("round", number)


def test_many(guest, subtests):
    began = time.monotonic()
    for number in range(4):
        with subtests.test(number=number):
            guest.call(say, number)
            time.sleep(0.5)
            assert number != 3
    Path("took").write_text(str(time.monotonic() - began))
"""


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="pytest has subtests from 9.0 on")
def test_time_and_output_of_subtests_count_once(inner: Inner) -> None:
    inner.write(test_parts=SUBTESTS)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "--record=r.json", "-rA")
    assert result.status == 1, result.out
    (found,) = read(inner.folder / "r.json").results
    took = float((inner.folder / "took").read_text())
    assert took <= found.call < took + 1.9  # each subtest slept for half a second
    assert found.outcome.value == "failed"
    assert result.out.count("\nround 3\n") == 1
    assert len(re.findall(r"^round 0$", result.out, re.MULTILINE)) <= 1


KILLED = """
import os
import signal

from pathlib import Path

import pytest


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_upgrade(guest, version):
    if version == "6.12" and guest.release.startswith("6.1."):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_after(guest, version):
    assert guest.release
"""


def test_a_killed_worker_is_no_verdict_on_the_kernel(inner: Inner) -> None:
    inner.write(test_killed=KILLED)
    options = [f"--kernel={KERNEL}", "--kernel=6.12", "--accel=tcg", "-n2", "--record=r.json", "--verdicts", "-rA"]
    with inner.start(*options) as process:
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 3, out
    assert "INFRASTRUCTURE test_killed.py::test_upgrade[6.1-6.12]" in out
    assert re.search(r"^  upgrade +\? no verdict 1 of 2 +✓ passed 2$", out, re.MULTILINE), out
    record = read(inner.folder / "r.json")
    found = {(one.test.partition("::")[2], one.kernel): one.outcome.value for one in record.results}
    assert len(found) == 8
    assert found.pop(("test_upgrade[6.12]", KERNEL)) == "infrastructure"
    assert set(found.values()) == {"passed"}
