"""The build folder of a kernel, for tests that are modules: with the makefile of a small tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import needs
from harness.errors import BuildError
from harness.kernel.files import headers
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.selftests import modules
from harness.selftests.against import Against
from tests.needs import needs_program
from tests.unit.selftests import kernels

MAKEFILE = """
VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 9
olddefconfig:
\ttest -e $(O)/.config
modules_prepare:
\techo $(KERNELRELEASE) >> $(O)/prepared
"""
CONFIG = "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\n"
VERSION = KernelVersion.parse("6.1.9")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    needs_program("make")
    monkeypatch.setattr(needs, "program", lambda name: name)
    exports = tmp_path / "exports"
    exports.write_text("symbols")
    monkeypatch.setattr(
        headers, "exports_of", lambda choice, *, progress: exports if choice.provider == "debian" else None
    )
    tree = tmp_path / "tree"
    for name, text in {"Makefile": MAKEFILE, "Kconfig": "", "scripts/Makefile.lib": "", "kernel/bpf/M": ""}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def against(tmp_path: Path, config: str = CONFIG, **of: object) -> Against:
    (tmp_path / "config").write_text(config)
    choice = Choice(**{"label": "6.1", "version": VERSION, "provider": "debian", "key": "k", **of})  # type: ignore[arg-type]
    return kernels.against(choice, "6.1.0-7-cloud", tmp_path / "config", b"types")


def made(tree: Path, kernel: Against) -> Path:
    return modules.build_folder(tree, kernel, tree.parent / "out", ["make"], say=lambda _: None)


def test_it_is_made_of_the_tree_and_of_what_the_kernel_came_with_and_once(tree: Path, tmp_path: Path) -> None:
    for _ in range(2):
        folder = made(tree, against(tmp_path))
        assert (folder / "prepared").read_text() == "6.1.0-7-cloud\n"
    assert (folder / "Module.symvers").read_text() == "symbols"
    assert (folder / "vmlinux").read_bytes() == b"types"
    (folder / "left").touch()
    made(tree, against(tmp_path, CONFIG + "CONFIG_BPF=y\n"))
    assert not (folder / "left").exists()


def test_a_kernel_that_does_not_check_symbols_needs_no_list_of_them(tree: Path, tmp_path: Path) -> None:
    folder = made(tree, against(tmp_path))
    assert modules.warnings(folder) == []
    folder = made(tree, against(tmp_path, "CONFIG_MODULES=y\n", provider="local"))
    assert not (folder / "Module.symvers").exists()
    assert modules.warnings(folder) == ["KBUILD_MODPOST_WARN=1"]


def test_a_tree_that_the_kernel_was_built_in_is_its_build_folder(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "Module.symvers").write_text("")
    assert made(tree, against(tmp_path, "", provider="local", key=str(own))) == own


@pytest.mark.parametrize(
    ("config", "of", "said"),
    [
        (CONFIG, {"version": KernelVersion.parse("6.1.10")}, r"\(6\.1\.10\) cannot be built from a tree of 6\.1\.9"),
        ("CONFIG_BPF=y\n", {}, "built without CONFIG_MODULES"),
        (CONFIG, {"provider": "local"}, "CONFIG_MODVERSIONS"),
    ],
)
def test_where_it_cannot_be_made_the_reason_is_given(
    tree: Path, tmp_path: Path, config: str, of: dict[str, object], said: str
) -> None:
    with pytest.raises(BuildError, match=said):
        made(tree, against(tmp_path, config, **of))


def test_a_build_that_ends_in_an_error_leaves_nothing_that_looks_whole(tree: Path, tmp_path: Path) -> None:
    (tree / "Makefile").write_text(MAKEFILE + "modules_prepare: broken\nbroken:\n\tfalse\n")
    with pytest.raises(BuildError, match="cannot be made of"):
        made(tree, against(tmp_path))
    (tree / "Makefile").write_text(MAKEFILE)
    assert (made(tree, against(tmp_path)) / "prepared").exists()


def test_which_targets_have_modules(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("MKDIR = mkdir\n")
    assert not modules.are_wanted(tmp_path)
    (tmp_path / "module").mkdir()
    (tmp_path / "module/Makefile").write_text("KDIR ?= /lib/modules\n")
    assert modules.are_wanted(tmp_path)
