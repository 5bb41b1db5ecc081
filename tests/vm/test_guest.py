"""Functions, programs and files in the guest."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestCallError, GuestProcessDied, UsageError
from harness.testing import Guest
from harness.vm.machine import Machine
from tests.needs import needs_program

PYTHON = "/usr/bin/python3"


def who_and_where() -> tuple[int, int, str]:
    print("on standard output")
    print("on standard error", file=sys.stderr)
    return os.getpid(), os.getuid(), str(Path.cwd())


def fails(what: str) -> None:
    raise RuntimeError(f"no {what} here")


def returns_an_object() -> dict[str, object]:
    return {"found": [1, object()]}


def test_each_function_runs_in_a_process_of_its_own(guest: Guest) -> None:
    first, second = guest.call(who_and_where), guest.call(who_and_where)
    assert first[0] != second[0]
    assert first[1:] == second[1:] == (0, "/")
    assert [(one.function, one.stdout, one.stderr) for one in guest.outputs] == [
        ("who_and_where", "on standard output\n", "on standard error\n")
    ] * 2


def ends_itself() -> None:
    os._exit(3)


def is_there(path: str) -> bool:
    return Path(path).exists()


def test_a_call_is_one_request_and_its_process_is_gone_after_it(
    guest: Guest, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    request = vm.request

    def counted(process: int, *given: Any, **named: Any) -> Any:
        asked.append(process)
        return request(process, *given, **named)

    monkeypatch.setattr(vm, "request", counted)
    pid, *_ = guest.call(who_and_where)
    with pytest.raises(GuestCallError):
        guest.call(fails, "luck")
    with pytest.raises(GuestProcessDied, match=r"exit status 3.* during ends_itself\(\)"):
        guest.call(ends_itself)
    assert len(asked) == len(set(asked)) == 3
    assert not guest.call(is_there, f"/proc/{pid}")


def test_an_exception_comes_with_the_traceback_of_the_guest(guest: Guest) -> None:
    with pytest.raises(GuestCallError) as caught:
        guest.call(fails, "luck")
    assert caught.value.type_name == "RuntimeError"
    assert "RuntimeError: no luck here" in str(caught.value)
    line = fails.__code__.co_firstlineno + 1
    assert f'test_guest.py", line {line}, in fails' in caught.value.traceback


def test_values_that_cannot_cross_are_named(guest: Guest) -> None:
    with pytest.raises(UsageError, match=r"argument 1 of fails cannot go to the guest: .*pathlib"):
        guest.call(fails, Path("/"))
    with pytest.raises(UsageError, match="argument what of fails"):
        guest.call(fails, what=object())
    with pytest.raises(GuestCallError, match=r"what returns_an_object returned .*value\['found'\]\[1\]"):
        guest.call(returns_an_object)


def test_a_program_runs_to_its_end(guest: Guest) -> None:
    script = "import os, sys; print(sys.stdin.read().upper(), os.getcwd()); print(os.environ['A'], file=sys.stderr)"
    ran = guest.run([PYTHON, "-c", f"{script}; sys.exit(7)"], stdin=b"hello", env={"A": "b"}, cwd="/tmp")
    assert (ran.status, ran.signal, ran.timed_out) == (7, 0, False)
    assert (ran.stdout, ran.stderr) == ("HELLO /tmp\n", "b\n")


def test_a_program_runs_as_another_user(guest: Guest) -> None:
    ran = guest.run([PYTHON, "-c", "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"], user=1000)
    assert ran.stdout == "(1000, 1000, 1000) (1000, 1000, 1000) []\n"


def test_a_signal_and_a_time_out_are_distinguished(guest: Guest) -> None:
    ran = guest.run([PYTHON, "-c", "import os; os.kill(os.getpid(), 15)"])
    assert (ran.status, ran.signal, ran.timed_out) == (None, 15, False)
    with guest.start([PYTHON, "-c", "print('begun', flush=True); import time; time.sleep(600)"]) as running:
        running.wait_for("begun")
        ran = running.wait(timeout=0.1)
    assert (ran.status, ran.signal, ran.timed_out) == (None, 9, True)
    assert ran.stdout == "begun\n"


def test_output_is_bounded(guest: Guest) -> None:
    ran = guest.run([PYTHON, "-c", "print('x' * 300000)"], limit=1000)
    assert (ran.status, len(ran.stdout), ran.cut) == (0, 1000, True)


def test_a_program_runs_beside_the_test(guest: Guest) -> None:
    script = "import sys; print('ready', flush=True); sys.exit(len(sys.stdin.readline()))"
    with guest.start([PYTHON, "-c", script], stdin=b"12345") as running:
        running.wait_for("ready")
        assert running.wait().status == 5
    with guest.start([PYTHON, "-c", script]) as running, pytest.raises(AssertionError, match="ended with status 0"):
        running.wait_for("never")
    with guest.start([PYTHON, "-c", "import time; print('up', flush=True)\nwhile True: time.sleep(0.1)"]) as running:
        running.wait_for("up")
        assert running.output().status is None
        running.send_signal(2)
        assert running.wait().status == 1 or running.wait().signal == 2


def test_a_program_that_is_not_there_is_a_clear_error(guest: Guest) -> None:
    with pytest.raises(UsageError, match="push_program"):
        guest.run(["/bin/no-such-program"])


def test_a_program_of_the_host_comes_with_its_libraries(guest: Guest, vm: Machine) -> None:
    found = shutil.which("gzip")
    assert found is not None
    if not vm.spec.architecture.is_own:
        with pytest.raises(UsageError, match=f"the guest of {vm.label} is"):
            guest.push_program(found)
        found = f"{vm.spec.image.userland}/usr/lib/{vm.spec.architecture.triplet}/libz.so.1"
        assert guest.push_program(found) == "/usr/local/bin/libz.so.1"
        return
    program = guest.push_program(found)
    ran = guest.run([program, "--version"])
    assert ran.stdout.startswith("gzip ")
    packed = guest.run([program, "-c"], stdin=b"hello " * 100)
    assert packed.status == 0


def asks_a_shell() -> tuple[int, str]:
    return os.system("test -d /proc && ls / | grep -q proc"), os.uname().machine


def test_scripts_and_system_have_a_shell_and_its_tools(guest: Guest, vm: Machine) -> None:
    needs_program("busybox-static")
    assert guest.call(asks_a_shell) == (0, vm.spec.architecture.machine)
    guest.push(b"#!/bin/sh\nuname -m | tr a-z A-Z\n", "/tmp/script", mode=0o755)
    assert guest.run(["/tmp/script"]).stdout == f"{vm.spec.architecture.machine.upper()}\n"


def test_files_and_folders_go_to_and_fro(guest: Guest, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    guest.push(content, "/tmp/data")
    assert guest.read("/tmp/data") == content
    (tmp_path / "source" / "below").mkdir(parents=True)
    (tmp_path / "source" / "below" / "file").write_text("text")
    guest.push(tmp_path / "source", "/tmp/folder")
    assert guest.run([PYTHON, "-c", "print(open('/tmp/folder/below/file').read())"]).stdout == "text\n"
    pulled = guest.pull("/tmp/folder", tmp_path / "back")
    assert (pulled / "below" / "file").read_text() == "text"
    guest.pull("/tmp/data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == content


def test_the_kernels_own_files_are_read_and_written(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/hostname", "renamed")
    assert guest.read("/proc/sys/kernel/hostname") == b"renamed\n"
    with pytest.raises(UsageError, match="cannot be pulled"):
        guest.pull("/no/such/file", Path("x"))
