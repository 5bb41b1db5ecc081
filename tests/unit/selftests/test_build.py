"""Building selftests: with the makefiles of a small tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import BuildError, UsageError
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.selftests.build import Selftest, WantedSelftest, build, parse_wanted, wants_kernel
from tests.needs import needs_program
from tests.unit.selftests import kernels

LIB = """
TEST_GEN_PROGS := $(patsubst %,$(OUTPUT)/%,$(TEST_GEN_PROGS))
TEST_GEN_PROGS_EXTENDED := $(patsubst %,$(OUTPUT)/%,$(TEST_GEN_PROGS_EXTENDED))
all: $(TEST_GEN_PROGS) $(TEST_GEN_PROGS_EXTENDED)
$(OUTPUT)/%: %.txt
\ttest -e $(lastword $(KHDR_INCLUDES))/made
\tcp $< $@
"""

TIMERS = """
TEST_PROGS := script.sh
TEST_GEN_PROGS := good bad
TEST_GEN_PROGS_EXTENDED := dangerous
TEST_FILES := data settings lib.sh
TEST_INCLUDES := ../other/lib.sh forwarding/lib.sh
include ../lib.mk
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("make", "gcc"):
        needs_program(name)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    tree = tmp_path / "tree"
    tests = tree / "tools/testing/selftests"
    for folder in ("timers/forwarding", "other", "kselftest"):
        (tests / folder).mkdir(parents=True)
    (tree / "Makefile").write_text("headers:\n\tmkdir -p $(O)/usr/include && touch $(O)/usr/include/made\n")
    (tests / "lib.mk").write_text(LIB)
    (tests / "timers/Makefile").write_text(TIMERS)
    (tests / "timers/settings").write_text("timeout=90\n")
    (tests / "timers/config").write_text("CONFIG_POSIX_TIMERS=y\nCONFIG_RTC=m\nCONFIG_HZ=100\n")
    for name in (
        "timers/good.txt",
        "timers/dangerous.txt",
        "timers/script.sh",
        "timers/data",
        "other/lib.sh",
        "timers/lib.sh",
        "timers/forwarding/lib.sh",
    ):
        (tests / name).write_text(name)
    (tests / "kselftest/runner.sh").write_text("")
    return tree


def made(tree: Path, *wanted: WantedSelftest) -> list[Selftest]:
    return build(tree, wanted, jobs=1, say=lambda _: None)


def test_a_target_is_built_and_what_cannot_be_is_named(tree: Path) -> None:
    script, good, bad = made(tree, WantedSelftest("timers"))
    assert [one.name for one in (script, good, bad)] == ["timers:script.sh", "timers:good", "timers:bad"]
    assert script.path is not None
    assert good.path is not None
    assert good.path.read_text() == "timers/good.txt"
    assert (good.timeout, good.target, good.options) == (90, "timers", ("POSIX_TIMERS", "RTC"))
    assert bad.path is None
    assert "No rule to make target" in bad.why
    folder = script.path.parent
    assert " ".join(sorted(path.name for path in folder.iterdir())) == (
        "dangerous data forwarding good lib.sh script.sh settings"
    )
    assert (folder / "lib.sh").read_text() == "timers/lib.sh"
    assert (folder / "forwarding/lib.sh").read_text() == "timers/forwarding/lib.sh"
    # A script finds what lies beside its own folder.
    assert (folder / "../other/lib.sh").exists()
    assert (folder / "../kselftest/runner.sh").exists()
    assert not list((tree / "tools").rglob("good"))  # the tree was only read


def test_a_target_is_built_in_place_in_a_copy(tree: Path) -> None:
    library = tree / "tools/testing/selftests/lib.mk"
    library.write_text(LIB.replace("cp $< $@", 'test "$(OUTPUT)" = "$$(pwd -P)" && cp $< made-here && cp made-here $@'))
    for _ in range(2):
        (good,) = made(tree, WantedSelftest("timers", "good"))
        assert good.path is not None
    assert not list(tree.rglob("made-here"))


def test_one_test_is_built_alone_also_one_that_does_not_run_by_default(tree: Path) -> None:
    (only,) = made(tree, WantedSelftest("timers", "dangerous"))
    assert only.path is not None
    assert not (only.path.parent / "good").exists()


def test_for_a_script_all_is_built_that_it_may_start(tree: Path) -> None:
    (only,) = made(tree, WantedSelftest("timers", "script.sh"))
    assert only.path is not None
    assert (only.path.parent / "good").exists()


def test_a_changed_source_is_built_again(tree: Path) -> None:
    made(tree, WantedSelftest("timers", "good"))
    (tree / "tools/testing/selftests/timers/good.txt").write_text("new")
    (tree / "tools/testing/selftests/timers/good.txt").touch()
    (found,) = made(tree, WantedSelftest("timers", "good"))
    assert found.path is not None
    assert found.path.read_text() == "new"


def test_what_can_no_longer_be_built_is_not_there_from_before(tree: Path) -> None:
    tests = tree / "tools/testing/selftests/timers"
    makefile = tests / "Makefile"
    makefile.write_text(
        TIMERS.replace("good bad", "good other")
        + "TEST_GEN_FILES := $(OUTPUT)/object\nall: $(OUTPUT)/object\n"
        + "$(OUTPUT)/object: object.c\n\tgrep -q whole $< && cp $< $@\n"
        + "$(OUTPUT)/other: other.c\n\tgrep -q whole $< && cp $< $@\n"
    )
    for name in ("object.c", "other.c"):
        (tests / name).write_text("whole")
    assert all(one.path is not None for one in made(tree, WantedSelftest("timers")))
    for name in ("object.c", "other.c"):
        (tests / name).write_text("half")
    for _ in range(2):
        script, good, other = made(tree, WantedSelftest("timers"))
        assert (other.name, other.path) == ("timers:other", None)
        assert good.path is not None
        assert good.path.is_file()
        assert script.path is not None
        assert not (script.path.parent / "object").exists()
        assert not (script.path.parent / "other").exists()


def test_only_trees_that_do_not_know_khdr_includes_get_the_headers_in_cflags(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CFLAGS", raising=False)
    library = tree / "tools/testing/selftests/lib.mk"
    library.write_text(LIB.replace("\tcp $< $@", '\techo "$(origin CFLAGS)" > $@'))
    (new,) = made(tree, WantedSelftest("timers", "good"))
    library.write_text(library.read_text().replace("\ttest -e $(lastword $(KHDR_INCLUDES))/made\n", ""))
    (old,) = made(tree, WantedSelftest("timers", "dangerous"))
    assert new.path is not None
    assert old.path is not None
    assert (new.path.read_text(), old.path.read_text()) == ("undefined\n", "environment\n")


def test_the_types_of_a_kernel_are_given_to_make_and_what_is_made_of_them_is_made_again_when_they_change(
    tree: Path,
) -> None:
    makefile = tree / "tools/testing/selftests/other/Makefile"
    assert not wants_kernel(tree, [WantedSelftest("timers")])
    makefile.write_text("TEST_GEN_PROGS := uses\ninclude ../lib.mk\n$(OUTPUT)/uses: $(VMLINUX_BTF)\n\tcat $< >> $@\n")
    assert wants_kernel(tree, [WantedSelftest("timers"), WantedSelftest("other")])
    seen = []
    for types in (b"one ", b"one ", b"two "):
        against = kernels.against(Choice("6.1", KernelVersion(6, 1), "debian", "k"), "6.1.0-1", None, types)
        (found,) = build(tree, [WantedSelftest("other")], jobs=1, say=lambda _: None, against=against)
        assert found.path is not None
        seen.append(found.path.read_text())
    assert seen == ["one ", "one ", "one two "]


def test_what_is_not_built_against_a_kernels_types_names_the_options_that_it_lacks(tree: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_RTC=m\n")
    against = kernels.against(Choice("6.1", KernelVersion(6, 1), "debian", "k"), "6.1.0-1", config, b"types")
    _, _, bad = build(tree, [WantedSelftest("timers")], jobs=1, say=lambda _: None, against=against)
    assert bad.why.endswith("the types (BTF) are those of 6.1, which was built without CONFIG_POSIX_TIMERS")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (WantedSelftest("timer"), "has no selftests timer"),
        (WantedSelftest("timers", "goood"), "there is no selftest timers:goood"),
    ],
)
def test_an_unknown_target_or_test_is_named_with_those_there_are(tree: Path, wanted: WantedSelftest, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        made(tree, wanted)
    assert "timers" in raised.value.hint or "bad, good, script.sh" in raised.value.expected


def test_a_tree_without_selftests_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no selftests"):
        made(tmp_path, WantedSelftest("timers"))
    (tree / "Makefile").write_text("")
    with pytest.raises(BuildError, match="headers"):
        made(tree, WantedSelftest("timers"))


@pytest.mark.parametrize("text", ["", ":", "bpf:", "../bpf", "/bpf", "bpf:a b", "bpf;ls", "net/../bpf"])
def test_what_names_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a target"):
        parse_wanted(text)


def test_targets_and_tests_are_read() -> None:
    assert parse_wanted("net/forwarding:a.sh") == WantedSelftest("net/forwarding", "a.sh")
    assert str(parse_wanted("bpf")) == "bpf"
