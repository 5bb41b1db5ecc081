"""The `harness` command as a whole: which commands there are, and what they cost to start."""

from __future__ import annotations

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


def test_a_comparison_starts_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record(result("t::a", "6.1")))
    program = (
        "import sys; from harness.cli import main\n"
        "assert main(['compare', 'a.json', 'a.json', '--format', 'json']) == 0\n"
        "heavy = {'pytest', 'requests', 'jinja2', 'pexpect', 'rich', 'elftools', 'harness.machines.pool'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
