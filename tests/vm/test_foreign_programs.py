"""Test programs of Go, C++ and Rust as their own tools build them, and tools of Debian's, on kernels."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.exec.run import Results, Wishes
from harness.programs.kinds import KINDS, Listed
from harness.programs.listing import printed_list
from harness.programs.run import judge
from harness.results.outcomes import Outcome
from harness.vm.machine import Machine
from tests.needs import needs_program
from tests.vm.test_exec import run

pytestmark = pytest.mark.long

GO = """
package x
import ("os"; "testing")
func TestGood(t *testing.T) {
    t.Run("release", func(t *testing.T) {
        if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err != nil || len(text) == 0 { t.Fatal(err) }
    })
}
func TestBad(t *testing.T) { t.Errorf("got %d", 3) }
func TestSkipped(t *testing.T) { t.Skip("no such thing") }
"""

GTEST = """
#include <gtest/gtest.h>
TEST(All, Good) { EXPECT_EQ(1, 1); }
TEST(All, Bad) { EXPECT_EQ(1, 2); }
TEST(All, Skipped) { GTEST_SKIP() << "no such thing"; }
TEST(All, DISABLED_Never) { FAIL(); }
"""

RUST = """
#[test] fn good() { assert!(std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok()); }
mod deep { #[test] fn bad() { assert_eq!(1, 2); } }
#[test] #[ignore = "no such thing"] fn skipped() {}
"""


def go(folder: Path) -> Path:
    needs_program("go", "golang-go")
    (folder / "go.mod").write_text("module x\ngo 1.19\n")
    (folder / "x_test.go").write_text(GO)
    subprocess.run(["go", "test", "-c", "-o", "program", "."], cwd=folder, check=True)
    return folder / "program"


def gtest(folder: Path) -> Path:
    needs_program("g++", "g++")
    if not Path("/usr/include/gtest/gtest.h").exists():
        needs_program("a header of googletest", "libgtest-dev")
    (folder / "x.cc").write_text(GTEST)
    libraries = ["-lgtest", "-lgtest_main", "-pthread"]
    subprocess.run(["g++", "-std=c++17", "-o", "program", "x.cc", *libraries], cwd=folder, check=True)
    return folder / "program"


def libtest(folder: Path) -> Path:
    needs_program("rustc", "rustc")
    (folder / "x.rs").write_text(RUST)
    subprocess.run(["rustc", "--test", "-o", "program", "x.rs"], cwd=folder, check=True)
    return folder / "program"


@pytest.mark.vm(memory=384)
@pytest.mark.parametrize(
    ("kind", "build", "names"),
    [
        ("go", go, ["TestGood", "TestBad", "TestSkipped"]),
        ("gtest", gtest, ["All.Good", "All.Bad", "All.Skipped", "All.DISABLED_Never"]),
        ("libtest", libtest, ["good", "deep::bad", "skipped"]),
    ],
)
def test_tests_of_a_program_are_listed_run_and_judged_one_by_one(
    vm: Machine, tmp_path: Path, kind: str, build: Callable[[Path], Path], names: list[str]
) -> None:
    program = str(build(tmp_path))
    chosen = KINDS[kind]
    listed = chosen.parse_list(printed_list([program, *chosen.list_words], tmp_path))
    assert sorted(one.name for one in listed) == sorted(names)
    wanted = dict(zip(names, (Outcome.PASSED, Outcome.FAILED, Outcome.UNSUPPORTED), strict=False))
    for name, outcome in wanted.items():
        ran = run(vm, tmp_path, program, *chosen.select(name), wishes=Wishes({}, results=Results(chosen.results)))
        assert ran.done.suite is not None
        verdict = judge(ran.done.suite, Listed(name), ran.done.status, ran.done.said, listed=True)
        assert verdict.outcome is outcome, (name, verdict.reason, ran.out, ran.err)


def test_bpftool_of_debian_makes_and_sees_a_map(vm: Machine, tmp_path: Path) -> None:
    program = installed("bpftool", "bpftool")
    words = "map create /sys/fs/bpf/m type hash key 4 value 4 entries 1 name seen".split()
    made = run(vm, tmp_path, program, *words)
    assert (made.done.status, made.err) == (0, "")
    assert [one["name"] for one in json.loads(run(vm, tmp_path, program, "-j", "map", "show").out)] == ["seen"]
    assert run(vm, tmp_path, "/bin/sh", "-c", "rm /sys/fs/bpf/m").done.status == 0


@pytest.mark.vm(memory=384)
def test_a_tool_of_libbpf_tools_traces_the_guests_kernel(vm: Machine, tmp_path: Path) -> None:
    ran = run(vm, tmp_path, installed("runqlat", "libbpf-tools"), "1", "1")
    assert (ran.done.status, ran.done.said) == (0, ()), ran.err
    assert "usecs" in ran.out


def installed(name: str, package: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        needs_program(name, package)
    return str(found)
