"""A test that cannot run for want of a program: skipped and named at the end, or failed where that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import OPTION

ROOT = Path(__file__).parents[2]
LINE = "lzop is not installed: apt-get install lzop (tests or files: 3)"


@pytest.mark.parametrize(("options", "status", "counts"), [([], 0, "3 skipped"), ([OPTION], 1, "1 failed, 2 skipped")])
def test_what_is_missing_is_named_once_in_the_last_lines(
    options: list[str], status: int, counts: str, tmp_path: Path
) -> None:
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "lzo",
        "tests/unit/kernel/files/test_bzimage.py",
    ]
    done = subprocess.run(
        [*words, *options],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    *_, line, last = done.stdout.splitlines()
    assert line == LINE
    assert counts in last


def test_a_file_that_is_skipped_whole_fails_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").symlink_to(ROOT / "conftest.py")
    (tmp_path / "test_it.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path), "-q"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for options, status in (([], 5), ([OPTION], 2)):
        done = subprocess.run(
            [*words, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "could not import 'no_such_module'" in done.stdout
