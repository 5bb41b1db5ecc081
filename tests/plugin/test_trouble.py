"""What becomes of a test when its guest is in trouble, and of the test after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.plugin.inner import KERNEL, Inner, Result, properties_of

TESTS = """
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from harness.guest import calls


def release():
    return os.uname().release


@pytest.fixture(autouse=True)
def the_guest_is_fresh(guest):
    assert guest.call(release) == guest.release


def panic():
    Path("/proc/sysrq-trigger").write_text("c")


def test_panic(guest, bpf):
    with bpf.map("hash"):  # whose end is asked of a machine that is gone
        guest.call(panic)


def test_after_panic(guest):
    pass


def sleep():
    time.sleep(1000)


def test_hang(guest):
    guest.call(sleep, timeout=0.5)


def test_after_hang(guest):
    pass


def test_kernel_stops(guest, vm):
    guest.process.ask(calls.Process.close)
    os.kill(vm.process.pid(), signal.SIGSTOP)
    guest.process.ask_within(0.5, calls.Process.close)


def test_after_kernel_stops(guest):
    pass


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def test_process_killed(guest):
    guest.call(kill_self)


def test_after_process_killed(guest):
    pass


def test_qemu_killed(guest, vm):
    os.kill(vm.process.pid(), signal.SIGKILL)
    guest.call(release)


def test_after_qemu_killed(guest):
    pass


def fail_deep_down(number):
    print("a line on standard output")
    print("a line on standard error", file=sys.stderr)
    if number == 0:
        raise LookupError("nothing down here")
    fail_deep_down(number - 1)


def test_exception(guest):
    guest.call(fail_deep_down, 1)


def test_wrong_errno(bpf):
    from harness.testing import raises_errno

    with raises_errno(1):
        bpf.map("hash_of_maps", value_size=3)


def test_refused(bpf):
    bpf.map("hash_of_maps", value_size=3)


def test_plain_assert(bpf):
    assert bpf.map("hash").info()["key_size"] == 5


UNSHIPPABLE = object()


def use_unshippable():
    return UNSHIPPABLE


def test_unshippable(guest):
    guest.call(use_unshippable)
"""


@dataclass(frozen=True)
class Trouble:
    """The inner run of TESTS."""

    result: Result
    properties: dict[str, dict[str, str]]

    def section(self, test: str) -> str:
        """Return the part of the output that is about a test."""
        return self.result.section(test)

    def outcome(self, test: str) -> str:
        """Return the word in which -rA tells a test's outcome."""
        found = self.result.outcomes(test)
        assert found, f"no outcome of {test} in\n{self.result.out}"
        return found[0]


@pytest.fixture(scope="module", params=["vm", "fork"])
def trouble(request: pytest.FixtureRequest, new_inner: Callable[[], Inner]) -> Trouble:
    inner: Inner = new_inner()
    inner.write(test_trouble=TESTS)
    result = inner.run(
        f"--kernel={KERNEL}", f"--isolation={request.param}", "--accel=tcg", "-rA", "--verdicts", "--junit-xml=j.xml"
    )
    return Trouble(result, properties_of(inner.folder / "j.xml"))


def test_the_run_continues_to_its_end_and_fails(trouble: Trouble) -> None:
    assert trouble.result.status == 1
    assert re.search(r"^=+ 9 failed, 5 passed, 1 error in .*=+$", trouble.result.last), trouble.result.out


@pytest.mark.parametrize("cause", ["panic", "hang", "kernel_stops", "process_killed", "qemu_killed"])
def test_the_next_test_has_a_machine_that_works(trouble: Trouble, cause: str) -> None:
    assert trouble.outcome(f"test_after_{cause}") == "PASSED"


def test_a_panic_fails_the_test_with_the_consoles_last_lines(trouble: Trouble) -> None:
    assert trouble.outcome("test_panic") == "FAILED"
    section = trouble.section("test_panic")
    assert "KernelCrashed: the kernel 6.1." in section
    assert "crashed: Kernel panic - not syncing: sysrq triggered crash" in section
    assert re.search(r"\| \[ *\d+\.\d+\] +entry_SYSCALL_64_after_hwframe", section)
    assert trouble.properties[f"test_panic[{KERNEL}]"]["trouble"] == "crashed"


def test_a_function_that_hangs_is_killed_and_named(trouble: Trouble) -> None:
    assert trouble.outcome("test_hang") == "FAILED"
    section = trouble.section("test_hang")
    assert "GuestHung: no answer to sleep() within 0.5 s" in section
    assert "is alive, the guest process was killed" in section
    assert trouble.properties[f"test_hang[{KERNEL}]"]["trouble"] == "hung"


def test_a_kernel_that_stops_answering_fails_the_test(trouble: Trouble) -> None:
    assert trouble.outcome("test_kernel_stops") == "FAILED"
    assert "stopped answering completely" in trouble.section("test_kernel_stops")


def test_a_guest_process_that_is_killed_fails_the_test(trouble: Trouble) -> None:
    assert trouble.outcome("test_process_killed") == "FAILED"
    assert "GuestProcessDied: the guest process ended (killed by signal 9)" in trouble.section("test_process_killed")


def test_a_lost_qemu_is_not_a_failure_of_the_kernel(trouble: Trouble) -> None:
    assert trouble.outcome("test_qemu_killed") == "INFRASTRUCTURE"
    section = trouble.section("test_qemu_killed")
    assert "LinkBroken: QEMU ended" in section
    assert "next step:" in section
    assert trouble.properties[f"test_qemu_killed[{KERNEL}]"]["trouble"] == "infrastructure"


def test_an_exception_in_the_guest_shows_its_traceback_and_what_was_printed(trouble: Trouble) -> None:
    assert trouble.outcome("test_exception") == "FAILED"
    section = trouble.section("test_exception")
    assert "GuestCallError: LookupError: nothing down here" in section
    line = TESTS.splitlines().index('        raise LookupError("nothing down here")') + 1
    assert f'test_trouble.py", line {line}, in fail_deep_down' in section
    assert "Guest stdout of fail_deep_down" in section
    assert "a line on standard output\na line on standard output\n" in section
    assert "Guest stderr of fail_deep_down" in section


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "test_refused",
            "MAP_CREATE(map_type='hash_of_maps', key_size=4, value_size=3, max_entries=1) failed with EINVAL",
        ),
        ("test_wrong_errno", "AssertionError: expected EPERM; MAP_CREATE("),
        ("test_plain_assert", "assert 4 == 5"),
        ("test_unshippable", "use_unshippable cannot run in the guest: it uses UNSHIPPABLE"),
    ],
)
def test_a_failure_says_why_at_the_tests_own_line(trouble: Trouble, test: str, message: str) -> None:
    assert trouble.outcome(test) == "FAILED"
    assert message in trouble.section(test)


def test_no_frame_of_the_harness_is_in_the_way(trouble: Trouble) -> None:
    # What was printed in the guest tells of frames there; those of this side have no place in a report.
    assert not re.search(r"^\S*harness/\S+\.py:\d+:", trouble.result.out, re.MULTILINE)
    assert "During handling of the above" not in trouble.result.out
    assert "direct cause of the following" not in trouble.result.out


def test_every_report_names_the_kernel_and_its_exact_release(trouble: Trouble) -> None:
    assert len(trouble.properties) == 15
    releases = {properties["release"] for properties in trouble.properties.values()}
    assert len(releases) == 1
    assert re.fullmatch(r"6\.1\.\d+-\d+-cloud-amd64", releases.pop())
    assert {properties["kernel"] for properties in trouble.properties.values()} == {KERNEL}


def test_the_table_gives_each_behaviour_its_word(trouble: Trouble) -> None:
    table = trouble.result.out.partition(" verdicts =")[2]
    words = dict(re.findall(r"^  (\S.*?)  +(?:\S )?(passed|FAILED|CRASHED|HUNG|no verdict)$", table, re.MULTILINE))
    assert words["panic"] == "CRASHED"
    assert words["hang"] == words["kernel stops"] == "HUNG"
    assert words["qemu killed"] == "no verdict"
    assert words["exception"] == "FAILED"
    assert words["after panic"] == "passed"


MANY = """
import os
from pathlib import Path

import pytest

HELD = Path("held")


def pid():
    return os.getpid()


@pytest.mark.parametrize("number", range(12))
def test_it(guest, number):
    assert guest.call(pid)
    with HELD.open("a") as file:
        print(len(os.listdir("/proc/self/fd")), file=file)
"""


def test_a_test_that_is_over_keeps_nothing_open(inner: Inner) -> None:
    inner.write(test_many=MANY)
    result = inner.run(f"--kernel={KERNEL}", "-q")
    assert result.status == 0, result.out
    held = [int(line) for line in (inner.folder / "held").read_text().split()]
    assert len(held) == 12
    assert max(held[2:]) <= held[1], held
