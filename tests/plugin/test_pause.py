"""A failing test that waits for somebody to look into its guest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.plugin.inner import KERNEL, WHOLE, Inner

TESTS = """
from pathlib import Path


def test_fails(bpf):
    bpf.map("array", max_entries=3)
    assert bpf.map_ids() == []


def panic():
    Path("/proc/sysrq-trigger").write_text("c")


def test_panics(guest):
    guest.call(panic)


def test_passes(bpf):
    assert bpf.map_ids() == []
"""

LOOK = "print('found', bpf.ids('map'))\n"


def attach(command: str, typed: str) -> subprocess.CompletedProcess[str]:
    """Type the command that pytest printed, in another folder and with an environment that knows nothing of it."""
    return subprocess.run(
        shlex.split(command), input=typed, capture_output=True, text=True, cwd="/", timeout=WHOLE, check=False
    )


def test_without_a_terminal_the_run_continues_when_the_prompt_is_closed(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    with inner.start(f"--kernel={KERNEL}", "--pause-on-failure", "-k", "not panics") as process:
        assert process.stdout is not None
        seen = ""
        while not re.search(r"continuing after that", seen):
            line = process.stdout.readline()
            assert line, seen
            seen += line
        command = next(line.strip() for line in seen.splitlines() if "attach" in line and "run-" in line)
        log = next(line.partition(":")[2].strip() for line in seen.splitlines() if "console log" in line)
        assert "test_it.py::test_fails[6.1] failed" in seen
        assert "assert [1] == []" in seen
        assert Path(log).is_file()
        done = attach(command, LOOK)
        out, _ = process.communicate(timeout=WHOLE)
    assert (done.returncode, done.stdout) == (0, "found [1]\n"), done.stderr
    assert "the attached prompt was closed; continuing" in out
    assert re.search("1 failed, 1 passed, 1 deselected", out)
    assert process.returncode == 1
    assert (inner.qemus(), inner.run_folders()) == ([], [])
    gone = attach(command, LOOK)
    assert gone.returncode == 2
    assert "there is no guest at" in gone.stderr


def test_without_a_terminal_the_run_continues_when_nobody_attaches_in_time(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--pause-on-failure", "--pause-timeout=0.1")
    assert "continuing after that, or in 0.1 s" in result.out
    assert "nobody attached; continuing" in result.out
    assert "test_panics[6.1] failed; there is no guest to attach to, it is dead" in result.out
    assert "2 failed, 1 passed" in result.out


@pytest.mark.parametrize("isolation", ["vm", "fork"])
def test_at_a_terminal_a_key_continues_the_run(inner: Inner, isolation: str) -> None:
    inner.write(test_it=TESTS)
    argv = inner._argv((f"--kernel={KERNEL}", "--pause-on-failure", f"--isolation={isolation}", "--color=no"))
    terminal = pexpect.spawn(
        argv[0], argv[1:], cwd=str(inner.folder), env=inner._environment, encoding="utf-8", timeout=WHOLE
    )
    try:
        terminal.expect(r"\s+(\S+ attach \S+)\r\n")
        assert isinstance(terminal.match, re.Match)
        command = terminal.match[1]
        terminal.expect("press Enter to continue")
        for _ in range(2):
            done = attach(command, LOOK + "kept = bpf.map_create('array', 4, 4, 1); time.sleep(0.3)\n")
            assert (done.returncode, done.stdout) == (0, "found [1]\n"), done.stderr
        terminal.send("\r")
        terminal.expect("no guest to attach to, it is dead")
        terminal.expect("press Enter to continue")
        terminal.send("\r")
        terminal.expect("2 failed, 1 passed")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 1
    assert (inner.qemus(), inner.run_folders()) == ([], [])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("-n", "2"), "--pause-on-failure does not work with -n"),
        (("--pause-timeout=-1",), "--pause-timeout is a number of seconds"),
        (("--pause-timeout=nan",), "--pause-timeout is a number of seconds"),
        (("--pause-timeout=soon",), "invalid float value: 'soon'"),
    ],
)
def test_bad_options_are_one_clear_error(inner: Inner, options: tuple[str, ...], complaint: str) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--pause-on-failure", *options)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert complaint in result.out
    assert "Traceback" not in result.out


def test_zero_workers_means_no_xdist(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--pause-on-failure", "--pause-timeout=0", "-n", "0", "-k", "passes")
    assert result.status == pytest.ExitCode.OK, result.out


def test_a_failure_that_has_no_guest_pauses_nothing(inner: Inner) -> None:
    theirs = "import pytest\n\n@pytest.fixture\ndef vm():\n    return 1\n\ndef test_own(vm):\n    assert not vm\n"
    inner.write(test_it=f"{theirs}\ndef test_plain():\n    assert False\n")
    result = inner.run("--pause-on-failure")
    assert "2 failed" in result.out
    assert result.status == pytest.ExitCode.TESTS_FAILED
    assert "attach" not in result.out


def test_the_prompts_program_is_beside_the_interpreter() -> None:
    assert os.access(Path(sys.executable).with_name("harness"), os.X_OK)
