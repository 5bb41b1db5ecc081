"""What becomes of a test when its guest is in trouble, and of the test after it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.results.file import read
from tests.plugin.inner import KERNEL, Inner, Result, properties_of

TESTS = """
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import pytest


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


def stop_agent():
    # PTRACE_SEIZE, PTRACE_INTERRUPT: nobody answers the host.
    for request in (0x4206, 0x4207):
        ctypes.CDLL(None).ptrace(request, 1, 0, 0)
    time.sleep(1000)


def test_kernel_stops(guest):
    guest.call(stop_agent, timeout=3)


def test_after_kernel_stops(guest):
    pass


def test_end_is_handled(guest):
    with pytest.raises(Exception):
        guest.call(panic)


@pytest.mark.expects_fault("panic", reason="the test does it")
def test_end_is_expected(guest):
    with pytest.raises(Exception):
        guest.call(panic)


def test_qemu_stopped(guest, vm):
    os.kill(vm.process.pid(), signal.SIGSTOP)
    guest.call(release, timeout=0.5)


def test_after_qemu_stopped(guest):
    pass


attempts = []


def test_machine_lost_once(guest, vm):
    attempts.append(None)
    if len(attempts) == 1:
        os.kill(vm.process.pid(), signal.SIGKILL)
    guest.call(release)


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
    folder: Path
    properties: dict[str, dict[str, str]]

    def section(self, test: str) -> str:
        """Return the part of the output that is about a test."""
        return self.result.section(test)

    def outcome(self, test: str) -> str:
        """Return the word in which -rA shows a test's outcome."""
        found = self.result.outcomes(test)
        assert found, f"no outcome of {test} in\n{self.result.out}"
        return found[0]


@pytest.fixture(scope="module", params=["vm", "fork"])
def trouble(request: pytest.FixtureRequest, new_inner: Callable[[], Inner]) -> Trouble:
    inner: Inner = new_inner()
    inner.write(test_trouble=TESTS)
    result = inner.run(
        *(f"--kernel={KERNEL}", f"--isolation={request.param}", "--accel=tcg", "-rA", "--verdicts"),
        *("--junit-xml=j.xml", "--record=r.json"),
    )
    return Trouble(result, inner.folder, properties_of(inner.folder / "j.xml"))


def test_the_run_continues_to_its_end_and_fails(trouble: Trouble) -> None:
    assert trouble.result.status == 1
    last = trouble.result.last
    assert re.search(r"^=+ 10 failed, 8 passed, 2 errors, 3 retried in .*=+$", last), trouble.result.out


@pytest.mark.parametrize("cause", ["panic", "hang", "kernel_stops", "process_killed", "qemu_killed", "qemu_stopped"])
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


def test_a_test_that_handles_the_end_of_its_guest_fails_unless_it_expects_it(trouble: Trouble) -> None:
    assert trouble.outcome("test_end_is_handled") == "FAILED"
    assert "sysrq triggered crash; the test handled that error and passed" in trouble.section("test_end_is_handled")
    assert trouble.properties[f"test_end_is_handled[{KERNEL}]"]["trouble"] == "crashed"
    assert trouble.outcome("test_end_is_expected") == "PASSED"


def test_a_guest_process_that_is_killed_fails_the_test(trouble: Trouble) -> None:
    assert trouble.outcome("test_process_killed") == "FAILED"
    assert "GuestProcessDied: the guest process ended (killed by signal 9)" in trouble.section("test_process_killed")


def test_a_lost_qemu_is_not_a_failure_of_the_kernel(trouble: Trouble) -> None:
    assert trouble.outcome("test_qemu_killed") == "INFRASTRUCTURE"
    section = trouble.section("test_qemu_killed")
    assert "LinkBroken: QEMU was killed by SIGKILL" in section
    assert "next step:" in section
    assert trouble.properties[f"test_qemu_killed[{KERNEL}]"]["trouble"] == "infrastructure"


def test_a_qemu_that_does_not_run_is_not_a_hang_of_the_kernel(trouble: Trouble) -> None:
    assert trouble.outcome("test_qemu_stopped") == "INFRASTRUCTURE"
    assert "QemuStalled: no answer to release() within 0.5 s: QEMU is stopped" in trouble.section("test_qemu_stopped")


def test_lost_infrastructure_is_an_error_in_junits_file(trouble: Trouble) -> None:
    root = ET.parse(trouble.folder / "j.xml").getroot()
    cases = {case.attrib["name"]: [one.tag for one in case] for case in root.iter("testcase")}
    assert len(cases) == 20
    lost = [name for name, tags in cases.items() if "error" in tags]
    assert sorted(lost) == [f"test_qemu_killed[{KERNEL}]", f"test_qemu_stopped[{KERNEL}]"]
    (suite,) = root.iter("testsuite")
    counts = {name: suite.attrib[name] for name in ("tests", "errors", "failures", "skipped")}
    # The end that was handled is found when the test is over, and is the kernel's all the same.
    assert counts == {"tests": "20", "errors": "2", "failures": "10", "skipped": "0"}


def test_a_lost_machine_is_replaced_once_and_both_attempts_are_told(trouble: Trouble) -> None:
    assert trouble.outcome("test_machine_lost_once") == "PASSED"
    assert trouble.result.out.count("it runs again on a fresh machine") == 3
    told = trouble.result.out.partition("tests that ran again, for their machine was lost =")[2]
    killed = f"LinkBroken: QEMU was killed by SIGKILL under the guest of {KERNEL}"
    assert f"test_trouble.py::test_machine_lost_once[{KERNEL}]: {killed}" in told
    assert trouble.properties[f"test_machine_lost_once[{KERNEL}]"]["retried_after"] == killed
    results = {result.test.partition("::")[2]: result for result in read(trouble.folder / "r.json").results}
    lost = {name: (result.outcome.value, result.attempts) for name, result in results.items() if result.lost}
    assert lost == {
        "test_qemu_killed": ("infrastructure", 2),
        "test_qemu_stopped": ("infrastructure", 2),
        "test_machine_lost_once": ("passed", 2),
    }
    assert results["test_machine_lost_once"].lost == (killed,)
    assert {result.attempts for name, result in results.items() if name not in lost} == {1}


def test_a_failure_says_how_to_run_it_alone_and_on_what_it_ran(trouble: Trouble) -> None:
    section = trouble.section("test_plain_assert")
    where = re.escape(str(trouble.folder))
    alone = rf"^cd {where} && pytest 'test_trouble\.py::test_plain_assert\[6\.1\]' .*--kernel=6\.1$"
    assert re.search(alone, section, re.MULTILINE), section
    assert "--record" not in section
    assert "--junit-xml" not in section
    assert re.search(r"^kernel 6\.1: 6\.1\.\S+-cloud-amd64 \(debian .*\), sha256 [0-9a-f]{64}$", section, re.MULTILINE)
    assert re.search(r"^guest image: sha256 [0-9a-f]{64}$", section, re.MULTILINE)
    assert re.search(r"^QEMU: \S*qemu-system-x86_64 .*-m 256M", section, re.MULTILINE)


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
    assert len(trouble.properties) == 20
    releases = {properties["release"] for properties in trouble.properties.values()}
    assert len(releases) == 1
    assert re.fullmatch(r"6\.1\.\d+-\d+-cloud-amd64", releases.pop())
    assert {properties["kernel"] for properties in trouble.properties.values()} == {KERNEL}


def test_the_table_gives_each_behaviour_its_word(trouble: Trouble) -> None:
    table = trouble.result.out.partition(" verdicts =")[2]
    words = dict(re.findall(r"^  (\S.*?)  +(?:\S )?(passed|FAILED|CRASHED|HUNG|no verdict)$", table, re.MULTILINE))
    assert words["panic"] == "CRASHED"
    assert words["hang"] == words["kernel stops"] == "HUNG"
    assert words["qemu killed"] == words["qemu stopped"] == "no verdict"
    assert words["end is handled"] == "CRASHED"
    assert words["machine lost once"] == "passed"
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
