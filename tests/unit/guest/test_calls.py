"""The table of calls: mypy holds the host's methods and the guest's functions to it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from harness.guest import agent, calls, process

ROOT = Path(harness.__file__).parents[1]

HOST = """
from harness.guest import calls
from harness.vm.guest_process import GuestProcess
from harness.vm.machine import Machine
from harness.remote.command import Commands

def right(process: GuestProcess, machine: Machine, commands: Commands) -> bytes:
    machine.ask_agent(calls.Agent.signal, process.number, 9)
    commands.ask("perf_event_open", calls.Hooks.kprobe, prog_fd=3, symbol="vfs_read", at_return=False)
    return process.ask_within(2.5, calls.Files.read, "/proc/version", 0, 4096)

def wrong(process: GuestProcess, machine: Machine, commands: Commands) -> None:
"""

GUEST = """
from harness.guest import calls
from harness.guest.api import hooks as right_hooks
import spoiled

right: calls.Hooks = right_hooks
wrong: calls.Hooks = spoiled
"""


def parts() -> Iterator[type]:
    return (one for one in vars(calls).values() if inspect.isclass(one) and one.__module__ == calls.__name__)


def declared(part: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(one) for name, one in vars(part).items() if inspect.isfunction(one)}


def mypy(path: Path) -> list[str]:
    """Return the lines that mypy prints about a file, configured as for this project."""
    argv = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty", str(path)]
    done = subprocess.run(argv, cwd=ROOT, env={"MYPYPATH": str(path.parent)}, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if Path(line.partition(":")[0]).name == path.name]


def test_a_host_that_asks_otherwise_than_declared_is_a_type_error(tmp_path: Path) -> None:
    wrong = {
        'process.ask(calls.Files.raed, "/proc/version", 0, 4096)': 'has no attribute "raed"',
        'process.ask(calls.Files.read, "/proc/version", "0", 4096)': 'incompatible type "str"; expected "int"',
        'process.ask(calls.Files.read, "/proc/version", 0)': "Too few arguments",
        'commands.ask("", calls.Hooks.kprobe, fd=3, symbol="f", at_return=False)': 'Unexpected keyword argument "fd"',
        'commands.ask("", calls.Hooks.kprobe, 3, "vfs_read", False)': "Too many positional arguments",
        "machine.ask_agent(calls.Agent.signal, signum=9)": 'Unexpected keyword argument "signum"',
        "found: str = process.ask(calls.Process.part)": 'expression has type "bool", variable has type "str"',
        "process.begin(calls.Prompt.last).value + 1": "Unsupported",
        'process.ask("files.read", "/proc/version", 0, 4096)': 'incompatible type "str"',
    }
    path = tmp_path / "host.py"
    path.write_text(HOST + "".join(f"    {line}\n" for line in wrong))
    errors = mypy(path)
    first = HOST.count("\n") + 1
    for number, (line, expected) in enumerate(wrong.items(), first):
        found = [error for error in errors if f"host.py:{number}: error: " in error]
        assert any(expected in error for error in found), f"{line}: {found}"
    assert not [error for error in errors if int(error.split(":")[1]) < first]


@pytest.mark.parametrize(
    ("declared", "answered", "expected"),
    [
        ("def expedite() -> None:", "def hurry() -> None:", "note:     expedite"),
        ("def socket_close(fd: int)", "def socket_close(number: int)", "(number: int)"),
        ("def socket_close(fd: int)", "def socket_close(fd: str)", "fd: str"),
        ("def socket_close(fd: int)", "def socket_close(fd: int, how: int)", "how: int"),
        ("def possible_cpus() -> int:", "def possible_cpus() -> str:", "-> str"),
    ],
)
def test_a_guest_that_answers_otherwise_than_declared_is_a_type_error(
    tmp_path: Path, declared: str, answered: str, expected: str
) -> None:
    text = (ROOT / "harness/guest/api/hooks.py").read_text()
    assert declared in text
    (tmp_path / "spoiled.py").write_text(text.replace(declared, answered))
    path = tmp_path / "guest.py"
    path.write_text(GUEST)
    wrong = GUEST.splitlines().index("wrong: calls.Hooks = spoiled") + 1
    errors = mypy(path)
    assert any(f"guest.py:{wrong}: error: Incompatible types in assignment" in error for error in errors), errors
    assert any(expected in error for error in errors), errors
    assert all(f"guest.py:{wrong}: " in error for error in errors), errors


def test_every_part_that_is_declared_answers() -> None:
    for part in parts():
        answers = (
            agent.Agent if part is calls.Agent else getattr(process.Handlers, part.__name__.lower(), process.Process)
        )
        for name in declared(part):
            assert callable(getattr(answers, name))


def test_arguments_go_by_position_alone_or_by_name_alone() -> None:
    for part in parts():
        for name, signature in declared(part).items():
            for one in list(signature.parameters.values())[1:]:
                assert one.kind is not one.POSITIONAL_OR_KEYWORD, f"{part.__name__}.{name}: {one}"


def test_the_name_of_a_call_is_that_of_its_part_and_function() -> None:
    assert calls.name_of(calls.Files.read) == "files.read"
    assert calls.request(calls.Process.close, "t.py:3 in f", 4, 5) == ("process.close", (4, 5), {}, "t.py:3 in f")
