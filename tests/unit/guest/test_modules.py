"""What the agent does with the modules in its image, without a kernel to load them."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from harness.guest import modules


class Kernel:
    """Answers finit_module(2) by the file's content."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def finit_module(self, file: int, parameters: bytes, flags: int) -> int:
        assert (parameters, flags) == (b"", 0)
        content = os.read(file, 100).decode()
        if content.isdigit():
            ctypes.set_errno(int(content))
            return -1
        self.loaded.append(content)
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(modules, "_finit_module", kernel.finit_module)
    return kernel


def put(folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / f"{name.replace('_', '-', 1)[1:]}.ko").write_text(content)


def test_a_guest_without_modules_loads_none(kernel: Kernel, tmp_path: Path) -> None:
    assert modules.load_all(str(tmp_path / "absent")) is None
    assert modules.load_all(str(tmp_path)) is None


def test_modules_are_loaded_in_the_order_of_their_numbers_and_removed(kernel: Kernel, tmp_path: Path) -> None:
    put(tmp_path, m010_a="last", m000_z="first", m002_m="second")
    assert modules.load_all(str(tmp_path)) is None
    assert kernel.loaded == ["first", "second", "last"]
    assert list(tmp_path.iterdir()) == []


def test_the_first_module_that_the_kernel_refuses_ends_it(kernel: Kernel, tmp_path: Path) -> None:
    put(tmp_path, m000_good="good", m001_bad=str(errno.ENOEXEC), m002_after="after")
    assert modules.load_all(str(tmp_path)) == ("001-bad.ko", errno.ENOEXEC)
    assert kernel.loaded == ["good"]


def test_a_module_that_is_there_already_is_as_good(kernel: Kernel, tmp_path: Path) -> None:
    put(tmp_path, m000_there=str(errno.EEXIST), m001_after="after")
    assert modules.load_all(str(tmp_path)) is None
    assert kernel.loaded == ["after"]
