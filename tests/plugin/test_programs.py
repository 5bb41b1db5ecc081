"""Test programs as pytest items: each of their tests is one, on each kernel, like any other test."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.file import read
from harness.results.outcomes import Outcome
from tests.pinning import PINS_A_MAP
from tests.plugin.inner import KERNEL, Inner

# What a Go test binary does, as far as the plugin sees it: listing, selecting, printing.
GO = """\
#!/bin/sh
case "$1" in
-test.list) printf 'TestGood\\nTestBad\\nTestSkipped\\nTestDies\\nTestLeaks\\nBenchmarkX\\n' ;;
*)
    name=${3#^}; name=${name%$}
    echo "=== RUN   $name"
    case $name in
    TestGood)
        echo "=== RUN   $name/sub"; echo "--- PASS: $name (0.10s)"; echo "    --- PASS: $name/sub (0.05s)"
        cat data ;;
    TestBad) echo "    a_test.go:4: got $SEEN"; echo "--- FAIL: $name (0.00s)"; exit 1 ;;
    TestSkipped) echo "    a_test.go:9: no $4"; echo "--- SKIP: $name (0.00s)" ;;
    TestDies) kill -SEGV $$ ;;
    esac ;;
esac
"""

TAP = """\
#!/bin/sh
echo 1..2; echo ok 1 first; echo not ok 2 second "# TODO soon"
"""

PINS = f"#!/usr/bin/python3\n{PINS_A_MAP}"

SETTINGS = f"""\
[pytest]
harness_kernels = {KERNEL}
harness_programs =
    go args=luck env=SEEN=3: build/*.test
    tap: *.tap
    exec: *.sh
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def project(inner: Inner) -> Inner:
    program(inner.folder / "build/a.test", GO)
    (inner.folder / "build/data").write_text("of the folder\n")
    program(inner.folder / "points.tap", TAP)
    program(inner.folder / "plain.sh", "#!/bin/sh\nuname -r\n")
    (inner.folder / "pytest.ini").write_text(SETTINGS)
    # Neither is collected: pytest does not enter build, and only the programs in it are meant.
    (inner.folder / "build/test_other.py").write_text("def test_a(): pass\n")
    return inner


def test_each_test_is_an_item_with_an_outcome_a_reason_and_rows_in_the_record(project: Inner) -> None:
    result = project.run("-rA", "--record=r.json")
    for line in (
        f"PASSED build/a.test::TestGood[{KERNEL}]",
        f"FAILED build/a.test::TestBad[{KERNEL}] - Failed: got 3",
        f"FAILED build/a.test::TestDies[{KERNEL}] - Failed: the program ended before this test did",
        f"FAILED build/a.test::TestLeaks[{KERNEL}] - Failed: the program ended before this test did",
        f"PASSED plain.sh::run[{KERNEL}]",
        f"PASSED points.tap::run[{KERNEL}]",
    ):
        assert line in result.lines, result.out
    assert "SKIPPED [1] build/a.test:0: no luck" in result.lines, result.out
    assert "of the folder" in result.out
    assert result.last.strip("= ").startswith("3 failed, 3 passed, 1 skipped in")
    found = {one.test: one.outcome for one in read(project.folder / "r.json").results}
    assert found["build/a.test::TestGood/sub"] is Outcome.PASSED
    assert found["points.tap::second"] is Outcome.XFAILED
    assert found["build/a.test::TestSkipped"] is Outcome.UNSUPPORTED
    assert found["build/a.test::TestDies"] is Outcome.FAILED
    assert read(project.folder / "r.json").complete


def test_selections_markers_and_checks_work_as_for_any_other_test(project: Inner) -> None:
    project.write(
        conftest="""
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "TestGood" in item.name:
            item.add_marker(pytest.mark.kernel(">=99.0"))
        if "TestBad" in item.name:
            item.add_marker(pytest.mark.slow)
"""
    )
    settings = project.folder / "pytest.ini"
    settings.write_text(f"{settings.read_text()}markers = slow\ntestpaths = tests\n")
    program(project.folder / "pins.sh", PINS)
    program(project.folder / "panics.sh", "#!/bin/sh\necho c > /proc/sysrq-trigger\nsleep 60\n")
    (project.folder / "tests").mkdir()
    result = project.run("-rA", "-n2", "-k", "Skipped or Good or Bad or pins or panics", "-m", "not slow")
    assert "held by pin /sys/fs/bpf/kept" in result.out, result.out
    assert "sysrq triggered crash" in result.out
    assert f"FAILED panics.sh::run[{KERNEL}] - " in result.out
    assert "KernelCrashed" in result.out
    assert result.last.strip("= ").startswith("2 failed, 1 skipped in"), result.out
    alone = project.run("build/a.test::TestSkipped")
    assert alone.last.strip("= ").startswith("1 skipped in"), alone.out


def test_a_program_that_cannot_be_listed_or_run_is_one_error_each(project: Inner) -> None:
    program(project.folder / "build/b.test", "#!/bin/sh\necho what is -test.list >&2\nexit 2\n")
    program(project.folder / "build/c.test", "#!/bin/sh\necho usage: c\n")
    program(project.folder / "build/d.test", "#!/bin/sh\n").chmod(0o644)
    program(project.folder / "build/e.test", "#!/no/such/shell\n")
    result = project.run("--collect-only")
    assert "build/b.test cannot list its tests: it ended with status 2" in result.out, result.out
    assert "what is -test.list" in result.out
    assert "build/c.test printed no list of tests" in result.out
    assert "build/d.test cannot be run: it is not executable" in result.out
    assert "the interpreter /no/such/shell" in result.out
    assert "7 tests collected, 4 errors" in result.out


@pytest.mark.parametrize(
    ("line", "said"), [("rust: a", "'rust' is not a kind of program"), ("go: none/*", "no file none/*")]
)
def test_a_wrong_setting_is_named(project: Inner, line: str, said: str) -> None:
    (project.folder / "pytest.ini").write_text(f"[pytest]\nharness_programs = {line}\n")
    result = project.run("--collect-only")
    assert said in result.out
    assert result.status == (4 if "kind" in said else 1 if "error" in result.last else 5)


def test_without_the_plugin_they_are_not_collected(project: Inner) -> None:
    result = project.run("-p", "no:harness", "-W", "default")
    assert result.status == pytest.ExitCode.NO_TESTS_COLLECTED, result.out
