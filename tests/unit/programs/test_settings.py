"""Lines of the ini setting `harness_programs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.programs.kinds import KINDS
from harness.programs.settings import find, parse


def test_a_line_names_a_kind_settings_and_patterns() -> None:
    line = "go cwd=pkg args='-test.short -x' env=A=b=c timeout=5 memory=512 scope=module: build/*.test 'a b'"
    named = parse(line)
    assert named.kind is KINDS["go"]
    assert (named.patterns, named.cwd, named.args) == (("build/*.test", "a b"), "pkg", ("-test.short", "-x"))
    assert (named.env, named.timeout, named.memory, named.scope) == ({"A": "b=c"}, 5.0, 512, "module")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("build/*.test", "'build/*.test' is not a kind of program"),
        ("rust: a", "'rust' is not a kind of program; the kinds are go, gtest, libtest, tap, exec"),
        ("go:", "'go:' is not a kind of program"),
        ("go: ", "it names no files"),
        ("go fast: a", "'fast' is not a setting"),
        ("go env=A: a", "'env=A' is not a setting"),
        ("go timeout=no: a", "timeout=no is not a number above 0"),
        ("go memory=0: a", "memory=0 is not a number above 0"),
        ("go scope=class: a", "the scope is function or module, not 'class'"),
        ("go: 'a", "its quotes are wrong"),
        ('go args="\'": a', "its quotes are wrong"),
        ("", "'' is not a kind"),
    ],
)
def test_another_line_is_one_clear_error(line: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(line)
    assert said in raised.value.what
    assert raised.value.expected.startswith("KIND ")


def test_patterns_are_relative_to_the_root_and_name_files_alone(tmp_path: Path) -> None:
    for name in ("build/a.test", "build/deep/b.test", "build/c.test/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    line = parse(f"go: build/*.test none/* {tmp_path}/build/deep/*")
    found, without = find([line], tmp_path)
    assert list(found) == [tmp_path / "build/a.test", tmp_path / "build/deep/b.test"]
    assert without == ["none/*"]


def test_a_program_on_two_lines_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match="is named by 'go: a' and by 'tap: a'"):
        find([parse("go: a"), parse("tap: a")], tmp_path)


@pytest.mark.parametrize("pattern", ["../*.test", "{outside}/a.test", "b/../../a.test"])
def test_a_program_outside_the_project_is_an_error(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "project"
    (root / "b").mkdir(parents=True)
    (tmp_path / "a.test").touch()
    with pytest.raises(UsageError, match="which is outside the project") as raised:
        find([parse(f"go: {pattern.format(outside=tmp_path)}")], root)
    assert "symbolic link" in raised.value.hint


def test_a_way_around_names_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.test").touch()
    assert list(find([parse("go: b/../a.test")], tmp_path)[0]) == [tmp_path / "a.test"]
