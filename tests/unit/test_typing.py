"""A project's own tests pass `mypy --strict` with the fixtures of the plugin, and what is wrong in them is found."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from harness import testing
from harness.pytest_plugin import fixtures

SUITE = """\
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.testing import (
    NOEXIST, Bcc, Bpf, Choice, Guest, Kernel, Libbpf, Machine, Stress, errno_of, eventually, raises_errno
)


def release() -> str:
    return os.uname().release


@pytest.mark.harness_vm(memory=512)
@pytest.mark.parametrize("size", [8, 16])
def test_outer_map(bpf: Bpf, kernel: Kernel, size: int) -> None:
    with bpf.map("array", value_size=size) as template, bpf.map("hash_of_maps", inner=template) as outer:
        with raises_errno(errno.EINVAL):
            outer.update(1, 2, flags=NOEXIST)
        found: int = outer[1]
    assert str(kernel) and found


def test_guest(guest: Guest, vm: Machine, stress: Stress, kernel_choice: Choice) -> None:
    answer = guest.call(release)
    assert answer.startswith("6.")
    eventually(lambda: guest.call(release) == answer)


def test_objects(libbpf: Libbpf, bcc: Bcc, bpf_object: Callable[..., Path], bpf_loader: str) -> None:
    with libbpf.open(bpf_object("own.bpf.c")) as loaded:
        loaded.load()
        assert loaded.map("outer")[1], bpf_loader
"""


def strict(tmp_path: Path, text: str) -> list[str]:
    """Return the lines that `mypy --strict` prints about a test module of a project elsewhere."""
    (tmp_path / "test_own.py").write_text(text)
    argv = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--no-error-summary",
        "--no-pretty",
        "test_own.py",
    ]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_suite_with_every_fixture_is_accepted(tmp_path: Path) -> None:
    assert strict(tmp_path, SUITE) == []


def test_wrong_use_of_a_fixture_is_a_type_error(tmp_path: Path) -> None:
    wrong = {
        "found: int = outer[1]": ("found: str = outer[1]", 'expression has type "int", variable has type "str"'),
        "flags=NOEXIST": ('flags="NOEXIST"', 'incompatible type "str"; expected "int"'),
        "answer = guest.call(release)": ("answer: int = guest.call(release)", 'expression has type "str"'),
        'libbpf.open(bpf_object("own.bpf.c"))': ("libbpf.open(1)", 'incompatible type "int"'),
    }
    text = SUITE
    for right, (spoiled, _) in wrong.items():
        assert text.count(right) == 1, right
        text = text.replace(right, spoiled)
    errors = strict(tmp_path, text)
    for _, expected in wrong.values():
        assert any(expected in error for error in errors), f"{expected}: {errors}"


PLAIN = {"Callable", "Iterator", "Path", "str"}


def test_the_type_of_every_public_fixture_can_be_imported() -> None:
    tree = ast.parse(Path(fixtures.__file__).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert len(functions) >= 10
    for function in functions:
        assert function.returns is not None
        names = {node.id for node in ast.walk(function.returns) if isinstance(node, ast.Name)}
        assert names - PLAIN <= set(testing.__all__), function.name
