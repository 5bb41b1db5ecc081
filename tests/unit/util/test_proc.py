"""Programs the harness runs: how they are found, bounded and ended."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from harness.errors import InfrastructureError, ToolMissing
from harness.util import architecture, proc
from harness.vm.process import find_qemu, find_vng
from tests.processes import has_ended, wait_until


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_missing_qemu_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="qemu-system-x86_64 is not installed") as caught:
        find_qemu()
    assert caught.value.hint == "apt-get install qemu-system-x86"
    qemu = program(tmp_path / architecture.own().qemu)
    assert find_qemu() == qemu


def test_vng_is_the_one_beside_the_interpreter_or_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(ToolMissing, match="vng is not installed") as caught:
        find_vng()
    assert "pip install virtme-ng" in str(caught.value)
    on_path = program(tmp_path / "path" / "vng")
    assert find_vng() == on_path
    beside = program(tmp_path / "venv" / "bin" / "vng")
    assert find_vng() == beside


def test_a_program_gives_what_it_printed_and_its_status() -> None:
    done = proc.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], timeout=30, stdin=b"said\xff\n")
    assert (done.status, done.stdout, done.stderr) == (3, "said\ufffd\n", "wrong\n")
    assert done.tail() == "wrong"


def test_a_program_that_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = [tmp_path / "pid", tmp_path / "child"]
    script = f"echo $$ > {tmp_path}/pid; (sleep 1000; :) & echo $! > {tmp_path}/child; wait"
    for timeout in (0.5, 5, 50):  # on a busy machine the program takes long to get as far as its child
        with pytest.raises(InfrastructureError, match=rf"did not end within {timeout} s") as caught:
            proc.run(["sh", "-c", script], timeout=timeout)
        if all(path.is_file() and path.read_text().endswith("\n") for path in pids):
            break
    assert "sh -c" in caught.value.hint
    for path in pids:
        # A process that was killed is there until the kernel has let it go.
        wait_until(partial(has_ended, int(path.read_text())))


def test_all_that_a_program_started_ends_with_a_harness_that_is_killed(tmp_path: Path) -> None:
    script = f"(sleep 1000; :) & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; echo $$; wait"
    code = f"from harness.util import proc; proc.run(['sh', '-c', {script!r}], timeout=1000)"
    with subprocess.Popen([sys.executable, "-c", code]) as harness:
        wait_until((tmp_path / "child").exists)
        harness.kill()
    wait_until(partial(has_ended, int((tmp_path / "child").read_text())))


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ToolMissing, match="no-such-program cannot be started"):
        proc.run(["no-such-program"], timeout=1)


def test_a_command_line_can_be_pasted() -> None:
    argv: list[str | Path] = ["prog", "a b", "$HOME", "it's", "", Path("/x y")]
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s|' {proc.quote(argv)}"], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "prog|a b|$HOME|it's||/x y|"
