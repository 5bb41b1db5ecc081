"""What a console says about how a kernel died, on logs of real guests (Debian 6.1.192 under QEMU 7.2)."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest

from harness.vm.console import Console, agent_exited, cause_of_death, clean, tail_of

LOGS = Path(__file__).parents[1] / "data" / "console"


def lines_of(name: str) -> list[str]:
    return [clean(line).rstrip() for line in (LOGS / f"{name}.log").read_bytes().decode().split("\n")]


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("sysrq-panic", "Kernel panic - not syncing: sysrq triggered crash"),
        ("init-killed", "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"),
        ("agent-exited", "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"),
        ("no-init", "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
        ("kvm-error", None),
        (
            "bug-riscv64",
            "kernel BUG at kernel/cred.c:103! (Kernel panic - not syncing: Fatal exception in interrupt)",
        ),
        (
            "oops-riscv64",
            "Oops - illegal instruction [#1] (Kernel panic - not syncing: Fatal exception in interrupt)",
        ),
    ],
)
def test_the_cause_of_death_is_the_kernels_own_line(log: str, cause: str | None) -> None:
    assert cause_of_death(lines_of(log)) == cause


@pytest.mark.parametrize(
    ("log", "exited"),
    [("agent-exited", True), ("init-killed", False), ("sysrq-panic", False), ("no-init", False), ("kvm-error", False)],
)
def test_an_agent_that_exits_is_distinguished_from_a_killed_one(log: str, exited: bool) -> None:
    assert agent_exited(lines_of(log)) is exited


def test_a_line_is_freed_of_what_terminals_act_upon() -> None:
    assert clean("\x1bc\x1b[?7l\x1b[2J\x1b[0mready\x07\r") == "ready"


def test_the_tail_leaves_empty_lines_out() -> None:
    assert tail_of(["a", "", "b", "", "c", ""], 2) == "b\nc"
    assert tail_of([""]) == "(the console is empty)"


def console_of(code: str, log: Path) -> tuple[pexpect.spawn[bytes], Console]:
    child: pexpect.spawn[bytes] = pexpect.spawn(sys.executable, ["-c", code], timeout=None, encoding=None, echo=False)
    return child, Console(child, log)


def test_a_console_keeps_every_byte_in_its_file_and_the_last_lines_at_hand(tmp_path: Path) -> None:
    # Far more than a terminal holds: whoever does not drain it stops the guest.
    child, console = console_of("for n in range(20000): print('line', n)\nprint('the end', end='')", tmp_path / "log")
    assert console.ended.wait(60)
    child.close()
    lines = console.lines()
    assert lines[-2:] == ["line 19999", "the end"]
    assert len(lines) == 2000
    kept = (tmp_path / "log").read_bytes().replace(b"\r", b"").decode()
    assert kept == "".join(f"line {n}\n" for n in range(20000)) + "the end"


def test_a_line_that_is_not_finished_is_shown(tmp_path: Path) -> None:
    child, console = console_of("print('boot: ', end='', flush=True); input()", tmp_path / "log")
    while not console.lines():
        assert not console.ended.wait(0.05)
    assert console.lines() == ["boot: "]
    child.close(force=True)
    assert console.ended.wait(60)


def test_an_exception_that_a_panic_ends_is_the_cause() -> None:
    lines = [
        "[    3.0] BUG: TASK stack guard page was hit at 0000000012345678",
        "[    3.1] stack guard page: 0000 [#1] PREEMPT SMP NOPTI",
        "[    3.2] Kernel panic - not syncing: Fatal exception in interrupt",
    ]
    panic = "Kernel panic - not syncing: Fatal exception in interrupt"
    assert cause_of_death(lines) == f"BUG: TASK stack guard page was hit at 0000000012345678 ({panic})"
    assert cause_of_death([lines[0], "Kernel panic - not syncing: sysrq triggered crash"]) == (
        "Kernel panic - not syncing: sysrq triggered crash"
    )


def test_the_line_that_says_what_was_wrong_counts_before_the_oops_that_follows_it() -> None:
    bug, panic = (
        "BUG: unable to handle kernel NULL pointer dereference at (null)",
        "Kernel panic - not syncing: Fatal exception",
    )
    assert cause_of_death([bug, "IP: sysrq_handle_crash+0x12/0x20", "Oops: 0002 [#1] SMP", panic]) == f"{bug} ({panic})"
    assert cause_of_death(["Oops - BUG [#1]", panic]) == f"Oops - BUG [#1] ({panic})"
