"""Tests of calls.bpf.c, through libbpf, through our own loaders, and of what users other than root see."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.testing import NOEXIST, Bpf, Guest, Libbpf

HERE = Path(__file__).parent
GETPPID = 110


@pytest.fixture(scope="session")
def calls(bpf_object: Callable[..., Path]) -> Path:
    return bpf_object(HERE / "calls.bpf.c")


def call_as(user: int, times: int) -> None:
    os.setresuid(user, user, user)
    for _ in range(times):
        os.getppid()


def test_calls_of_a_watched_user_are_counted(bpf: Bpf, guest: Guest, libbpf: Libbpf, calls: Path) -> None:
    with libbpf.open(calls) as obj:
        obj.load()
        mine = bpf.map("array", value_size=8, max_entries=512)
        obj.map("by_user").update(1000, mine, NOEXIST)
        with obj.attach("count_call"):
            guest.call(call_as, 1000, 3)
            guest.call(call_as, 1001, 4)
        assert mine[GETPPID] == 3


def test_the_loader_in_python_sees_its_own_calls(guest: Guest, calls: Path) -> None:
    script = guest.push(HERE / "loader.py", "/opt/loader.py")
    ran = guest.run(["/usr/bin/python3", script, guest.push(calls, "/opt/calls.bpf.o")])
    assert (ran.status, ran.stdout, ran.stderr) == (0, "seen 5\n", "")


def test_the_loader_in_c_sees_its_own_calls(guest: Guest, calls: Path, tmp_path: Path) -> None:
    program = tmp_path / "loader"
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / "loader.c", "-l:libbpf.so.1"], check=True)
    ran = guest.run([guest.push_program(program), guest.push(calls, "/opt/calls.bpf.o")])
    assert (ran.status, ran.stdout, ran.stderr) == (0, "seen 5\n", "")


def test_a_loader_says_what_it_cannot_load(guest: Guest) -> None:
    guest.push(b"nothing", "/opt/calls.bpf.o")
    script = guest.push(HERE / "loader.py", "/opt/loader.py")
    ran = guest.run(["/usr/bin/python3", script, "/opt/calls.bpf.o"])
    assert ran.status == 1
    assert "cannot load /opt/calls.bpf.o" in ran.stderr


@pytest.mark.kernel(">=99.0")
def test_for_kernels_to_come(guest: Guest) -> None:
    raise AssertionError("no kernel of that version was asked for")
