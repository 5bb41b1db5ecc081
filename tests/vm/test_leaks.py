"""The leak check finds what tests leave behind: every seeded leak is found and named, and nothing else is."""

from __future__ import annotations

import ast
import mmap
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.errors import GuestProcessDied
from harness.guest import calls
from harness.guest.api import bpf as raw
from harness.guest.api import uapi
from harness.kernel.types import Choice
from harness.remote import pickling
from harness.vm.machine import Machine
from tests.plugin.inner import Result, inner_runs, properties_of

# Before them the kernel tells neither ids nor, for some time, names: see tests/vm/test_leaks_on_old_kernels.py.
pytestmark = pytest.mark.kernel(">=4.18")

SEEDS = '''
import _thread
import ctypes
import os
import signal
import struct

import pytest

from harness.guest.api import bpf as raw
from harness.guest.api import hooks
from harness.testing import Bpf


def churn(rounds, forget_at):
    """Insert and delete inner maps; forget to close one of them."""
    hooks.expedite()
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create("hash_of_maps", 4, 4, 16, inner_map_fd=template)
    os.close(template)
    for number in range(rounds):
        inner = raw.map_create("hash", 4, 4, 8)
        if number != forget_at:
            os.close(inner)
    os.close(outer)


def test_one_fd_in_ten_thousand(guest):
    guest.call(churn, 10000, 6789, timeout=200)


def make_outer():
    template = raw.map_create("hash", 4, 4, 8)
    outer = raw.map_create("hash_of_maps", 4, 4, 16, inner_map_fd=template)
    os.close(template)
    return outer


def insert(outer, key):
    inner = raw.map_create("hash", 4, 4, 8, map_name="inner")
    raw.map_update(outer, struct.pack("=I", key), struct.pack("=i", inner))
    return inner


def forget_inner():
    outer = make_outer()
    insert(outer, 3)
    raw.map_delete(outer, struct.pack("=I", 3))
    os.close(outer)


def test_inner_kept_by_a_forgotten_fd(guest):
    guest.call(forget_inner)


def pin_inner():
    outer = make_outer()
    inner = insert(outer, 3)
    raw.obj_pin(inner, "/sys/fs/bpf/inner")
    os.close(inner)
    os.close(outer)


def test_inner_kept_by_a_pin(guest):
    guest.call(pin_inner)


def pin_outer():
    outer = make_outer()
    os.close(insert(outer, 3))
    raw.obj_pin(outer, "/sys/fs/bpf/outer")
    os.close(outer)


def test_inner_kept_by_an_outer_map(guest):
    guest.call(pin_outer)


def pin_program():
    outer = make_outer()
    os.close(insert(outer, 3))
    code = struct.pack("=BBhiBBhi", 0x18, 0x11, 0, outer, 0, 0, 0, 0)
    code += struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    program = raw.command("PROG_LOAD", prog_type="socket_filter", insns=code, insn_cnt=4, license="GPL")
    raw.obj_pin(program, "/sys/fs/bpf/program")
    os.close(program)
    os.close(outer)


def test_inner_kept_by_a_program(guest):
    guest.call(pin_program)


def forget_template():
    template = raw.map_create("hash", 4, 4, 8, map_name="template")
    outer = raw.map_create("hash_of_maps", 4, 4, 16, inner_map_fd=template)
    os.close(outer)


def test_a_template_not_closed(guest):
    guest.call(forget_template)


def await_word(pipe):
    """Wait for a process to say that it has left the group that ends with the test."""
    os.read(pipe[0], 1)
    for end in pipe:
        os.close(end)


def leave_daemon():
    inner = raw.map_create("hash", 4, 4, 8)
    pipe = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(pipe[1], b"!")
        signal.pause()
    await_word(pipe)
    os.close(inner)


def test_a_map_kept_by_a_process_that_still_runs(guest):
    guest.call(leave_daemon)


def leave_grandchild():
    pipe = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setsid()
            os.write(pipe[1], b"!")
            signal.pause()
        os._exit(0)
    os.waitpid(child, 0)
    await_word(pipe)


def test_a_daemon_whose_parent_has_ended(guest):
    guest.call(leave_grandchild)


def leave_stopped():
    child = os.fork()
    if child == 0:
        os.setsid()
        os.kill(os.getpid(), signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)


def test_a_process_that_is_stopped(guest):
    guest.call(leave_stopped)


def leave_thread():
    pipe = os.pipe()
    if os.fork() == 0:
        os.setsid()
        _thread.start_new_thread(signal.pause, ())
        os.write(pipe[1], b"!")
        ctypes.CDLL(None).syscall(60, 0)
    await_word(pipe)


def test_a_process_whose_first_thread_has_ended(guest):
    guest.call(leave_thread)


def leave_namespace():
    assert ctypes.CDLL(None).unshare(0x20000000) == 0
    pipe = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.fork()
        os.write(pipe[1], b"!")
        signal.pause()
    await_word(pipe)


def test_processes_in_a_namespace(guest):
    guest.call(leave_namespace)


def test_a_pin_of_the_hosts(bpf):
    bpf.map("hash").pin("/sys/fs/bpf/of-the-host")


@pytest.mark.leaks("the pin is the point of it")
def test_a_leak_on_purpose(bpf):
    bpf.map("hash").pin("/sys/fs/bpf/wanted")


def forget_socket():
    import socket

    kept.append(socket.socket().detach())


kept = []


def test_a_socket_not_closed(guest):
    guest.call(forget_socket)


def test_a_failure_says_what_leaked_as_well(bpf):
    bpf.map("hash").pin("/sys/fs/bpf/failed")
    assert bpf.ids("map") == []


@pytest.fixture
def lost(bpf):
    return bpf.map("hash")


def test_what_is_not_closed_on_the_host_is_no_leak(lost, bpf, guest):
    outer = bpf.map("hash_of_maps", inner=lost)
    outer[1] = lost
    Bpf(guest.process).map("array")


def tidy():
    outer = make_outer()
    for key in range(16):
        os.close(insert(outer, key))
    os.close(outer)


def test_what_is_given_back_late_is_no_leak(guest):
    guest.call(tidy)


def test_a_program_that_was_started_and_not_ended_is_no_leak(guest):
    script = "import ctypes, time; print('up', flush=True); time.sleep(600)"
    guest.start(["/usr/bin/python3", "-c", script]).wait_for("up")
'''


@dataclass(frozen=True)
class Seeded:
    """The inner run of SEEDS."""

    result: Result
    kernel: str
    properties: dict[str, dict[str, str]]

    def section(self, test: str) -> str:
        """Return the part of the output that is about a test."""
        return re.split(r"^-+ How to run this test alone", self.result.section(test, self.kernel), flags=re.MULTILINE)[
            0
        ]

    def outcome(self, test: str) -> str:
        """Return the words in which -rA shows a test's outcomes, the worst first."""
        found = self.result.outcomes(test, self.kernel)
        assert found, f"no outcome of {test} in\n{self.result.out}"
        return " ".join(sorted(found))


@pytest.fixture(scope="module", params=["vm", "fork"])
def seeded(
    request: pytest.FixtureRequest, kernel_choice: Choice, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeded]:
    with inner_runs(tmp_path_factory) as new_inner:
        inner = new_inner()
        inner.write(test_seeds=SEEDS)
        isolation = f"--isolation={request.param}"
        result = inner.run(f"--kernel={kernel_choice.label}", isolation, "-rA", "--verdicts", "--junit-xml=j.xml")
        print(result.out)
        yield Seeded(result, kernel_choice.label, properties_of(inner.folder / "j.xml"))


def line_of(text: str, function: str) -> str:
    """Return where in the inner module a line stands, as the report says it."""
    lines = SEEDS.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"def {function}("))
    return re.escape(f"test_seeds.py:{lines.index(f'    {text}', begin) + 1} in {function}")


SIZES = r"\(key 4, value 4, \d+ entries, memlock \d+\)"
CHURNED = line_of('    inner = raw.map_create("hash", 4, 4, 8)', "churn")
INSERTED = line_of('inner = raw.map_create("hash", 4, 4, 8, map_name="inner")', "insert")
OUTER = line_of('outer = raw.map_create("hash_of_maps", 4, 4, 16, inner_map_fd=template)', "make_outer")

# What is said of each, as patterns of the report's lines.
FOUND = {
    "test_one_fd_in_ten_thousand": (
        rf"leaked: hash map \d+ {SIZES} was left open as fd \d+ when churn\(\) returned",
        f"  opened at {CHURNED}",
    ),
    "test_inner_kept_by_a_forgotten_fd": (
        rf"leaked: hash map \d+ 'inner' {SIZES} was left open as fd \d+ when forget_inner\(\) returned",
        f"  opened at {INSERTED} < {line_of('insert(outer, 3)', 'forget_inner')}",
    ),
    "test_inner_kept_by_a_pin": (
        rf"leaked: hash map \d+ 'inner' {SIZES} is still there",
        "  held by pin /sys/fs/bpf/inner",
        f"  made at {INSERTED} < {line_of('inner = insert(outer, 3)', 'pin_inner')}",
    ),
    "test_inner_kept_by_an_outer_map": (
        rf"leaked: hash_of_maps map \d+ {SIZES} is still there",
        "  held by pin /sys/fs/bpf/outer",
        f"  made at {OUTER} < test_seeds.py:\\d+ in pin_outer",
        "",
        rf"leaked: hash map \d+ 'inner' {SIZES} is still there",
        r"  held by outer map \d+ at key 3",
        f"  made at {INSERTED} < test_seeds.py:\\d+ in pin_outer",
    ),
    "test_inner_kept_by_a_program": (
        rf"leaked: hash_of_maps map \d+ {SIZES} is still there",
        r"  held by program \d+",
        f"  made at {OUTER} < test_seeds.py:\\d+ in pin_program",
        "",
        rf"leaked: hash map \d+ 'inner' {SIZES} is still there",
        r"  held by outer map \d+ at key 3",
        f"  made at {INSERTED} < test_seeds.py:\\d+ in pin_program",
        "",
        r"leaked: socket_filter program \d+ is still there",
        "  held by pin /sys/fs/bpf/program",
        r"  made at test_seeds.py:\d+ in pin_program",
    ),
    "test_a_template_not_closed": (
        rf"leaked: hash map \d+ 'template' {SIZES} was left open as fd \d+ when forget_template\(\) returned",
        "  opened at " + line_of('template = raw.map_create("hash", 4, 4, 8, map_name="template")', "forget_template"),
    ),
    "test_a_map_kept_by_a_process_that_still_runs": (
        rf"leaked: hash map \d+ {SIZES} is still there",
        r"  held by fd \d+ of process \d+ \(forked by a function\)",
        r"  made at test_seeds.py:\d+ in leave_daemon",
        "",
        r"leaked: the process \d+ still runs: forked by a function",
    ),
    "test_a_daemon_whose_parent_has_ended": (r"leaked: the process \d+ still runs: forked by a function",),
    "test_a_process_that_is_stopped": (r"leaked: the process \d+ still runs: forked by a function",),
    "test_a_process_whose_first_thread_has_ended": (r"leaked: the process \d+ still runs: .+",),
    "test_processes_in_a_namespace": (
        r"leaked: the process \d+ still runs: forked by a function",
        "",
        r"leaked: the process \d+ still runs: forked by a function",
    ),
    "test_a_pin_of_the_hosts": (
        rf"leaked: hash map \d+ {SIZES} is still there",
        "  held by pin /sys/fs/bpf/of-the-host",
        "  made at " + line_of('bpf.map("hash").pin("/sys/fs/bpf/of-the-host")', "test_a_pin_of_the_hosts"),
    ),
    "test_a_socket_not_closed": (
        r"leaked: socket \(socket:\[\d+\]\) was left open as fd \d+ when forget_socket\(\) returned",
    ),
}


@pytest.mark.parametrize("test", FOUND)
def test_a_seeded_leak_is_found_and_named(seeded: Seeded, test: str) -> None:
    assert re.fullmatch("\n".join(FOUND[test]), seeded.section(test).rstrip()), seeded.section(test)
    assert seeded.outcome(test) == "FAILED"
    assert f"  {test.removeprefix('test_').replace('_', ' ')} " in seeded.result.out
    assert seeded.properties[f"{test}[{seeded.kernel}]"]["trouble"] == "leak"


@pytest.mark.parametrize(
    "test",
    [
        "test_a_leak_on_purpose",
        "test_what_is_not_closed_on_the_host_is_no_leak",
        "test_what_is_given_back_late_is_no_leak",
        "test_a_program_that_was_started_and_not_ended_is_no_leak",
    ],
)
def test_nothing_else_is_a_leak(seeded: Seeded, test: str) -> None:
    assert seeded.outcome(test) == "PASSED"


def test_a_failure_says_what_leaked_as_well(seeded: Seeded) -> None:
    section = seeded.section("test_a_failure_says_what_leaked_as_well")
    assert "assert [" in section
    assert "  held by pin /sys/fs/bpf/failed\n" in section
    assert seeded.outcome("test_a_failure_says_what_leaked_as_well") == "FAILED"


def test_leaks_are_counted_as_failures_and_once(seeded: Seeded) -> None:
    assert seeded.result.status == 1
    assert re.search(rf"^=+ {len(FOUND) + 1} failed, 4 passed in .*=+$", seeded.result.last)
    assert len(re.findall(r" LEAKED$", seeded.result.out, re.MULTILINE)) == len(FOUND)


def test_what_was_counted_is_in_every_report(seeded: Seeded) -> None:
    test = f"test_what_is_given_back_late_is_no_leak[{seeded.kernel}]"
    count = ast.literal_eval(seeded.properties[test]["leak_count"])
    assert count["settled_ms"] >= 0
    assert all(size > 0 for size in count["memory_kib"]["Slab"])


UNREASONED = """
import pytest


@pytest.mark.leaks
def test_without_a_reason(bpf):
    pass


def test_beside_it(bpf):
    pass
"""


def test_a_marker_without_a_reason_is_an_error_of_its_own_test(
    kernel_choice: Choice, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with inner_runs(tmp_path_factory) as new_inner:
        inner = new_inner()
        inner.write(test_unreasoned=UNREASONED)
        result = inner.run(f"--kernel={kernel_choice.label}")
    assert "test_unreasoned.py::test_without_a_reason: the marker leaks takes the reason" in result.out
    assert result.status == 2


def test_what_has_closed_all_lives_on_where_the_machine_does_not(vm: Machine) -> None:
    process = vm.new_process()
    process.ask(calls.Bpf.map_create, "hash", 4, 4, 1)
    assert not vm.leak_snapshot(is_last=True)["beyond"]
    assert process.alive
    assert not vm.leak_snapshot()["beyond"]
    with pytest.raises(GuestProcessDied):
        process.ask(calls.Process.close)


def map_it(flags: int) -> None:
    """Keep a map by nothing but memory of this process."""
    fd = raw.map_create("array", 4, 4, 1024, map_flags=flags)
    sys.kept = mmap.mmap(fd, 4096)  # type: ignore[attr-defined]
    os.close(fd)


@pytest.mark.kernel(">=5.5")
def test_what_holds_a_map_by_its_memory_alone_is_ended(vm: Machine) -> None:
    process = vm.new_process()
    mapped = pickling.pack(map_it)
    pickled = (mapped.code, mapped.names, mapped.imports)
    process.ask(calls.Process.run_function, *pickled, (uapi.MMAPABLE,), {}, False, False)
    assert not vm.leak_snapshot(is_last=True)["beyond"]
    with pytest.raises(GuestProcessDied):
        process.ask(calls.Process.close)
