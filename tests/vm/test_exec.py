"""`harness exec`: programs of this machine on fresh guests, with their files, streams, signals and results."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.checks.kernel_log import KernelLog
from harness.checks.known_faults import load
from harness.cli import main
from harness.exec.parcel import pack
from harness.exec.run import Done, Results, Wishes, run_on
from harness.exec.streams import Writer
from harness.image.rootfs import Rootfs
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.results.file import read
from harness.results.outcomes import Outcome
from harness.vm.machine import Machine
from tests.pinning import PINS_A_MAP
from tests.vm.provoke import provoke


class Words:
    """Standard input of some pieces; `look` is called each time with what the program has printed so far."""

    def __init__(self, *pieces: bytes, look: Callable[[bytes], None] | None = None) -> None:
        self._pieces = list(pieces)
        self._look = look
        self.printed = bytearray()

    def take(self) -> tuple[bytes, bool]:
        if self._look is not None:
            self._look(bytes(self.printed))
        piece = self._pieces.pop(0) if self._pieces else b""
        return piece, not self._pieces


class Ran:
    """A program that was run on a machine.

    Attributes:
        done: How it ended.
        out: Its standard output.
        err: Its standard error.
    """

    def __init__(
        self,
        machine: Machine,
        folder: Path,
        words: Sequence[str],
        wishes: Wishes,
        source: Words,
        rootfs: Rootfs | None = None,
        log: KernelLog | None = None,
    ) -> None:
        parcel = pack(words, (), cwd=folder, memory=256, rootfs=rootfs)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            out, err = Writer(nowhere, keep=1 << 24), Writer(nowhere, keep=1 << 24)
            source.printed = out.kept
            self.done: Done = run_on(machine, parcel, wishes, source, out, err, log)
        finally:
            os.close(nowhere)
        self.out, self.err = out.kept.decode(), err.kept.decode()


def run(machine: Machine, folder: Path, *words: str, source: Words | None = None, wishes: Wishes = Wishes({})) -> Ran:  # noqa: B008 - frozen
    return Ran(machine, folder, words, wishes, source or Words())


def program(folder: Path, text: str, name: str = "program") -> str:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return f"./{name}"


def test_files_arguments_environment_and_streams_arrive_unchanged(vm: Machine, tmp_path: Path) -> None:
    (tmp_path / "testdata").mkdir()
    (tmp_path / "testdata/d.txt").write_text("of the project\n")
    (tmp_path / "away").symlink_to("/none")
    made = program(
        tmp_path,
        '#!/bin/sh\necho "$# <$1> <$2> <$3>"; cat testdata/d.txt; pwd; readlink away\n'
        'echo "$QUOTED" >&2; cat; exit 7\n',
    )
    ran = run(
        vm, tmp_path, made, "a  b", "", "ü", source=Words(b"one\n", b"two"), wishes=Wishes({"QUOTED": "a \"b\" 'c'"})
    )
    assert ran.done.status == 7
    assert ran.done.outcome is Outcome.FAILED
    assert ran.out == f"3 <a  b> <> <ü>\nof the project\n{tmp_path}\n/none\none\ntwo"
    assert ran.err == "a \"b\" 'c'\n"


def test_no_line_of_many_is_lost(vm: Machine, tmp_path: Path) -> None:
    ran = run(vm, tmp_path, "python3", "-c", "for i in range(10000): print(i)")
    assert ran.out == "".join(f"{number}\n" for number in range(10000))


def test_much_input_passes_through_a_program_that_also_prints(vm: Machine, tmp_path: Path) -> None:
    data = bytes(range(256)) * 2048
    ran = run(vm, tmp_path, "/bin/sh", "-c", "md5sum; echo done", source=Words(*[data] * 4))
    assert ran.out == f"{hashlib.md5(data * 4, usedforsecurity=False).hexdigest()}  -\ndone\n"


@pytest.mark.parametrize(
    ("code", "status"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("os.kill(0, 15)", 143)]
)
def test_the_exit_status_is_the_programs(vm: Machine, tmp_path: Path, code: str, status: int) -> None:
    assert run(vm, tmp_path, "python3", "-c", f"import os; {code}").done.status == status


@pytest.mark.parametrize("words", [("python3", "-c"), ("/bin/sh", "-c", 'python3 -c "$0"; exit 3')])
def test_a_program_that_the_kernel_kills_for_want_of_memory_says_so(
    vm: Machine, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Also where it is a child of the program that was started, which has a status of its own."""
    done = run(vm, tmp_path, *words, "kept = [bytes([1]) * (1 << 24) for _ in range(64)]").done
    assert done.status == (137 if len(words) == 2 else 3)
    (said,) = done.said
    assert said.endswith("so the kernel killed python3: it has 256 MiB, see --memory")


def test_loopback_is_up_and_the_user_is_who_was_asked_for(vm: Machine, tmp_path: Path) -> None:
    code = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
socket.socket().connect(server.getsockname())
print(os.getuid(), os.getgid())
"""
    assert run(vm, tmp_path, "python3", "-c", code, wishes=Wishes({}, user=1000)).out == "1000 1000\n"


def test_a_program_that_runs_out_of_time_is_asked_to_end(vm: Machine, tmp_path: Path) -> None:
    script = "trap 'echo asked >&2; exit 1' TERM; while :; do sleep 0.2; done"
    ran = run(vm, tmp_path, "/bin/sh", "-c", script, wishes=Wishes({}, timeout=4))
    assert ran.done.status == 124
    assert ran.err.endswith("asked\n"), ran.err  # the shell may say before that its sleep was ended too
    assert "--timeout" in ran.done.said[0]


def test_an_interrupt_reaches_the_program_and_the_second_ends_it(vm: Machine, tmp_path: Path) -> None:
    sent: list[bytes] = []

    def interrupt(printed: bytes) -> None:
        if printed.count(b"\n") > len(sent) and len(sent) < 2:
            sent.append(printed)
            os.kill(os.getpid(), signal.SIGINT)

    script = "trap 'echo got it' INT; echo up; while :; do sleep 0.2; done"
    ran = run(vm, tmp_path, "/bin/sh", "-c", script, source=Words(look=interrupt))
    assert (ran.done.status, ran.out) == (137, "up\ngot it\n")


@pytest.mark.expects_fault("panic", reason="the program crashes the kernel on purpose")
def test_a_crash_of_the_kernel_fails_the_program(vm: Machine, tmp_path: Path) -> None:
    ran = run(vm, tmp_path, "/bin/sh", "-c", "echo before; echo c > /proc/sysrq-trigger; sleep 60")
    assert (ran.done.status, ran.done.outcome) == (1, Outcome.CRASHED)
    # An old kernel crashes itself by a wild write, and names the function.
    assert re.search(r"sysrq triggered crash|sysrq_handle_crash", "\n".join(ran.done.said))


KNOWN = """
[[fault]]
kind = "WARN"
title = "vmalloc"
kernels = ">=4.12"
reason = "it is provoked on purpose"
expires = 2999-01-01
"""


@pytest.mark.parametrize("is_known", [True, False])
def test_a_known_fault_does_not_fail_the_program(kernel_choice: Choice, tmp_path: Path, is_known: bool) -> None:
    (tmp_path / "known.toml").write_text(KNOWN)
    known, _ = load([tmp_path / "known.toml"] if is_known else [])
    pool = Pool(Settings(), lambda _: None)  # the kernel is tainted afterwards, which the checks of `vm` report
    try:
        machine = pool.take(pool.prepare(kernel_choice))
        provoke(machine, "warn")
        ran = Ran(machine, tmp_path, ["/bin/true"], Wishes({}), Words(), log=KernelLog((), known))
    finally:
        pool.close()
    if is_known:
        assert (ran.done.status, ran.done.outcome, ran.done.said) == (0, Outcome.PASSED, ())
        assert "it is provoked on purpose" in ran.done.excused[0]
    else:
        assert (ran.done.status, ran.done.outcome) == (1, Outcome.FAULTED)


@pytest.mark.leaks("the program leaves a pinned map on purpose")
@pytest.mark.kernel(">=4.14")
def test_what_is_left_behind_counts_where_it_is_asked_for(vm: Machine, tmp_path: Path) -> None:
    ran = run(vm, tmp_path, "python3", "-c", PINS_A_MAP, wishes=Wishes({}, leaks=True))
    assert (ran.done.status, ran.done.outcome) == (1, Outcome.LEAKED)
    assert "held by pin /sys/fs/bpf/kept" in ran.done.said[0]


def test_results_of_a_compiled_program_with_its_libraries(vm: Machine, tmp_path: Path) -> None:
    source = tmp_path / "t.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("1..2\\nok 1 a\\nnot ok 2 b"); return 0; }\n')
    subprocess.run(["gcc", "-o", tmp_path / "t", source], check=True)
    ran = run(vm, tmp_path, "./t", wishes=Wishes({}, results=Results("tap")))
    assert ran.done.suite is not None
    assert [(case.name, case.outcome) for case in ran.done.suite.cases] == [
        ("a", Outcome.PASSED),
        ("b", Outcome.FAILED),
    ]
    assert ran.done.status == 1


def test_results_from_a_file_that_the_program_writes(vm: Machine, tmp_path: Path) -> None:
    write = "echo '<testsuite><testcase name=\"one\"/></testsuite>' > /tmp/r.xml"
    ran = run(vm, tmp_path, "/bin/sh", "-c", write, wishes=Wishes({}, results=Results("junit", "/tmp/r.xml")))
    assert ran.done.suite is not None
    assert [case.name for case in ran.done.suite.cases] == ["one"]


def test_the_command_writes_a_record(
    tmp_path: Path, kernel_choice: Choice, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "exec"])
    made = program(tmp_path, "#!/bin/sh\necho 1..2; echo ok 1 a; echo ok 2 b '# SKIP none'\n", "suite")
    record = tmp_path / "r.json"
    words = ["exec", "--kernel", kernel_choice.label, "--results", "tap", "--record", str(record), made]
    assert main(words) == 0
    assert capfd.readouterr().out == "1..2\nok 1 a\nok 2 b # SKIP none\n"
    found = read(record)
    assert [(one.test, one.outcome) for one in found.results] == [
        ("suite::a", Outcome.PASSED),
        ("suite::b", Outcome.UNSUPPORTED),
        ("suite", Outcome.PASSED),
    ]
    assert (found.complete, found.kernels[0].label) == (True, kernel_choice.label)
    assert found.kernels[0].release != ""
