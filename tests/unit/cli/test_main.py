"""The `harness` command as a whole: which commands there are, and what they cost to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness.cli
from harness.cli import COMMANDS, main
from harness.results.file import write
from tests.unit.results.samples import record, result


def test_every_module_with_a_parser_is_a_command() -> None:
    folder = Path(harness.cli.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "\ndef add_parser(" in path.read_text()}
    assert found == set(COMMANDS)


@pytest.mark.parametrize("words", [["--help"], [], ["no-such-command"]])
def test_help_and_mistakes_name_all_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    printed = "".join(capsys.readouterr())
    if words:
        assert all(command in printed for command in COMMANDS)
    else:
        assert "COMMAND" in printed


def test_options_before_the_command_are_no_commands(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record(result("t::a", "6.1")))
    assert main(["-v", "report", str(tmp_path / "a.json")]) == 0


def succeeds(program: str, folder: Path) -> None:
    """Run a program of Python in a folder, in a process that has loaded nothing yet; it has to succeed."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_comparison_starts_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record(result("t::a", "6.1")))
    program = (
        "import sys; from harness.cli import main\n"
        "assert main(['compare', 'a.json', 'a.json', '--format', 'json']) == 0\n"
        "heavy = {'pytest', 'requests', 'jinja2', 'pexpect', 'rich', 'elftools', 'harness.machines.pool'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    succeeds(program, tmp_path)


def test_a_check_loads_little_before_its_machine_starts(tmp_path: Path) -> None:
    (tmp_path / "words.o").write_text("no object")
    program = (
        "import sys; from harness.cli import main\n"
        "assert main(['check', 'words.o']) == 2\n"
        "early = {'rich', 'msgspec', 'harness.check.kernels', 'harness.kernel.providers.debian'} & set(sys.modules)\n"
        "assert not early, early\n"
        "import harness.check.kernels\n"
        "early = {'rich', 'msgspec', 'tarfile', 'harness.check.trials', 'harness.check.record'} & set(sys.modules)\n"
        "assert not early, early\n"
    )
    succeeds(program, tmp_path)


def test_a_process_that_ends_does_not_look_for_cycles(tmp_path: Path) -> None:
    program = (
        "import atexit, gc, os; from harness.cli import main\n"
        "atexit.register(lambda: gc.get_freeze_count() or os._exit(7))\n"
        "main(['check'])\n"
    )
    succeeds(program, tmp_path)


def in_shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -c 'import sys; from harness.cli import main; sys.exit(main())'"
    return subprocess.run(
        ["sh", "-c", words.replace("harness", program, 1)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str) -> None:
    done = in_shell(f"harness matrix --kernel=6.1 --help {closed}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_full_disk_behind_the_output_is_one_error(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record(result("t::a", "6.1")))
    done = in_shell(f"harness compare {tmp_path}/a.json {tmp_path}/a.json --format json > /dev/full")
    assert done.returncode == 3
    assert done.stderr == "harness: error: the output cannot be written: No space left on device\n"


def test_pytest_runs_without_stdout(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pytest -q -p no:cacheprovider {tmp_path} >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_letter_that_the_output_cannot_hold_is_escaped() -> None:
    code = "from harness.util import streams; streams.allow_every_letter(); print('✓')"
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **ascii_only}
    )
    assert done.stdout == "\\u2713\n"
