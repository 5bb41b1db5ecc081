"""The copy of a target's folder, in a mirror of its tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.selftests.place import mirrored

FOLDER = "tools/tests/bpf"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name in ("Makefile", "tools/lib/a.c", "tools/tests/lib.mk", f"{FOLDER}/Makefile", f"{FOLDER}/progs/p.c"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / FOLDER / "link").symlink_to("../lib.mk")
    (tree / FOLDER / "folder").symlink_to("../../lib")
    return tree


def test_the_folder_is_copied_and_everything_else_is_there_too(tree: Path, tmp_path: Path) -> None:
    copy = mirrored(tree, FOLDER, tmp_path / "place")
    assert (copy / "progs/p.c").read_text() == f"{FOLDER}/progs/p.c"
    assert not (copy / "progs/p.c").is_symlink()
    assert (copy / "../lib.mk").read_text() == "tools/tests/lib.mk"
    assert (copy / "link").read_text() == "tools/tests/lib.mk"
    assert (copy / "folder/a.c").read_text() == "tools/lib/a.c"
    assert (copy / "../../../Makefile").read_text() == "Makefile"
    (copy / "made").write_text("by make")
    assert not (tree / FOLDER / "made").exists()


def test_only_what_changed_is_copied_again_and_what_was_made_stays(tree: Path, tmp_path: Path) -> None:
    copy = mirrored(tree, FOLDER, tmp_path / "place")
    (copy / "made").write_text("by make")
    # The tree has this file too, and make writes it anew.
    (copy / "Makefile").write_text("written over")
    (tree / FOLDER / "progs/p.c").write_text("new")
    (tree / FOLDER / "more").mkdir()
    (tree / FOLDER / "more/b.c").write_text("b")
    (tree / FOLDER / "link").unlink()
    (tree / "tools/lib/new").write_text("new")
    (tree / "tools/more").write_text("more")
    (tree / "Makefile").unlink()
    assert mirrored(tree, FOLDER, tmp_path / "place") == copy
    assert (copy / "progs/p.c").read_text() == "new"
    assert (copy / "more/b.c").read_text() == "b"
    assert (copy / "made").read_text() == "by make"
    assert (copy / "Makefile").read_text() == "written over"
    assert not (copy / "link").is_symlink()
    assert (copy / "../../more").read_text() == "more"
    assert not (copy / "../../../Makefile").is_symlink()


def test_an_older_file_that_replaces_a_newer_one_is_copied(tree: Path, tmp_path: Path) -> None:
    copy = mirrored(tree, FOLDER, tmp_path / "place")
    (tree / FOLDER / "Makefile").write_text("from an archive")
    os.utime(tree / FOLDER / "Makefile", (0, 0))
    mirrored(tree, FOLDER, tmp_path / "place")
    assert (copy / "Makefile").read_text() == "from an archive"
