"""A project of a user's, outside this repository, works with the installed package alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent / "stranger"


def test_a_strangers_project_passes_its_own_tests(
    request: pytest.FixtureRequest, kernel_choice: object, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__"))
    label = str(getattr(kernel_choice, "label", ""))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"--kernel={label}", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout, done.stderr)
    assert "4 passed, 1 deselected" in done.stdout
    assert "test_calls.py::test_for_kernels_to_come: is for kernels >=99.0" in done.stdout
    assert done.returncode == 0
