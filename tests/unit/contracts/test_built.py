"""Configuration trials by building: which options are taken away together, and what their table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contracts import built, trials
from harness.contracts.built import FIRST, OPTIONS, by_option, option_sets, pairs, still_on, without
from harness.kernel.build import kbuild
from harness.kernel.build.kbuild import fragment_settings
from harness.kernel.build.kconfig import Setting


def test_twenty_sets_take_every_option_away_and_most_pairs() -> None:
    sets = option_sets(20)
    assert sets[0] == FIRST
    assert len(set(sets)) == 20
    assert {option for one in sets for option in one} == set(OPTIONS)
    every = pairs([OPTIONS])
    assert len(every) == len(OPTIONS) * (len(OPTIONS) - 1) // 2
    assert len(pairs(sets)) > 0.7 * len(every)


def test_the_sets_are_the_same_each_time_and_a_longer_list_begins_like_a_shorter_one() -> None:
    assert option_sets(20)[:6] == option_sets(6)
    assert option_sets(6, seed=2) != option_sets(6)
    assert option_sets(6, seed=2)[0] == FIRST


def test_the_minimal_flavour_asks_for_every_option() -> None:
    asked = {setting.symbol for setting in fragment_settings("minimal") if setting.value == "y"}
    assert len(set(OPTIONS)) == len(OPTIONS)
    assert set(OPTIONS) <= asked
    assert set(FIRST) <= set(OPTIONS)


def test_an_option_is_turned_off_even_where_the_flavour_needs_it() -> None:
    settings = [Setting("NET", "y", required=True), Setting("PROC_SYSCTL", "y", required=True)]
    assert without(settings, ["PROC_SYSCTL", "KPROBES"]) == [
        settings[0],
        Setting("PROC_SYSCTL", "n"),
        Setting("KPROBES", "n"),
    ]


def test_an_option_that_something_else_selects_is_told() -> None:
    assert still_on({"NET": "y", "PERF_EVENTS": "y"}, ["KPROBES", "PERF_EVENTS"]) == ["PERF_EVENTS"]


def test_the_table_says_what_was_not_asked_without_an_option() -> None:
    jit = "6.1 lacks jit_switch: programs can be compiled (ENOENT); it was built without"
    first = {f"{jit} CONFIG_BPF_JIT": 4, "6.1 lacks second_cpu: there is (EINVAL); it was booted without": 2}
    second = {f"{jit} CONFIG_BPF_JIT and CONFIG_PROC_SYSCTL": 3}
    assert by_option([first, second]) == {"BPF_JIT": {"jit_switch": 4}, "PROC_SYSCTL": {"jit_switch": 3}}


@pytest.mark.parametrize("arguments", [["--build", "20"], ["--source", "tree"]])
def test_builds_need_a_tree_and_a_number(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trials.main(arguments)
    assert "--build and --source belong together: --build 20 --source TREE" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--first", "2"], ["--build", "3", "--source", "tree", "--first", "4"]])
def test_the_first_kernel_is_one_of_those_that_are_built(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        trials.main(arguments)
    assert f"--first {arguments[-1]} is none of the kernels that --build N builds" in capsys.readouterr().err


def test_what_is_no_tree_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert trials.main(["--build", "1", "--source", "nowhere"]) == 3
    assert "nowhere is not a kernel source tree" in capsys.readouterr().err


def test_a_kernel_that_was_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Job:
        def __init__(self, tree: Path, folder: Path, *_: object, **__: object) -> None:
            self.output, self.log, self.off = folder / "out", folder / "build.log", ""
            self.image = self.output / "bzImage"

        def configure(self, version: object, flavour: str, asked: list[Setting]) -> None:
            self.off = " ".join(one.symbol for one in asked if one.value == "n")

        def make(self, target: str, *, seconds: float) -> None:
            made.append(f"{target} without {self.off}")

        def collect(self, place: Path, flavour: str) -> None:
            (place / "vmlinuz").write_bytes(b"")
            (place / "config").write_text("CONFIG_VETH=y\n")

    monkeypatch.setattr(kbuild, "plan", lambda *_: (None, None, [Setting("VETH", "y"), Setting("DUMMY", "y")]))
    monkeypatch.setattr(kbuild, "Job", Job)
    first = built.kernel(tmp_path / "tree", ["DUMMY", "VETH"], tmp_path / "work", print)
    again = built.kernel(tmp_path / "tree", ["DUMMY", "VETH"], tmp_path / "work", print)
    assert first == again
    assert made == ["bzImage without DUMMY VETH"]
    assert first.still_on == ["VETH"]
    other = built.kernel(tmp_path / "tree", ["DUMMY"], tmp_path / "work", print)
    assert other.folder != first.folder
    assert made[1:] == ["bzImage without DUMMY"]
