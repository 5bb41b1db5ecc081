"""A run that is killed at a random moment leaves nothing that the next run does not clear away.

Some moments in every run of the tests; `HARNESS_KILLS=50 .venv/bin/pytest tests/plugin/test_kills.py` tries fifty.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from pathlib import Path

from harness.util import cache
from tests.plugin.inner import KERNEL, Inner
from tests.processes import wait_until

MOMENTS = int(os.environ.get("HARNESS_KILLS", "3"))
SEED = int(os.environ.get("HARNESS_KILLS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

TESTS = """
import time


def work(number):
    print(number)
    return number


def test_turns(guest):
    for number in range(20):
        assert guest.call(work, number) == number
        time.sleep(0.05)


def test_maps(bpf):
    for _ in range(20):
        bpf.map("array")


def test_last(guest):
    assert guest.call(work, 1) == 1
"""


def leftovers(folder: Path) -> list[str]:
    """Return the half-made entries and lock files in a cache; the kernels in it are the user's."""
    parts = [folder / part for part in ("images", "templates", "objects")]
    entries = [entry for part in parts if part.exists() for entry in part.iterdir()]
    return [entry.name for entry in entries if entry.name.startswith(".") or entry.suffix == ".lock"]


def test_kills_at_random_moments_leave_nothing(inner: Inner, tmp_path: Path) -> None:
    inner.write(test_it=TESTS)
    own = tmp_path / "cache"  # so that images and templates are made, and that is killed too
    own.mkdir()
    (own / "kernels").symlink_to(cache.cache_root() / "kernels")
    environment = {"HARNESS_CACHE": str(own)}
    dice = random.Random(SEED)
    whole = 12.0
    for number in range(MOMENTS):
        isolation = dice.choice(["vm", "vm", "boot"])
        process = inner.start(f"--kernel={KERNEL}", f"--isolation={isolation}", "--accel=tcg", env=environment)
        moment = dice.uniform(0, whole)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        about = f"kill {number} of seed {SEED}, {isolation}, after {moment:.2f} s"
        wait_until(lambda: inner.qemus() == [], about=about)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", env=environment)  # it looks for machines and run folders
    assert result.status == 0, f"seed {SEED}: {result.out}"
    assert leftovers(own) == [], f"seed {SEED}"
