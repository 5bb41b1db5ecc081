"""The kernel's own complaints fail tests: real faults, provoked on a running kernel, in inner runs of pytest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugin.conftest import new_inner
from tests.plugin.inner import KERNEL, Inner, Result

__all__ = ["new_inner"]

HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}

TESTS = """
import os
from pathlib import Path

import pytest

from harness.guest import calls
from tests.vm.provoke import provoke


def nothing():
    pass


def test_quiet(guest):
    guest.call(nothing)


def test_warn(vm):
    provoke(vm, "warn")


def test_after_warn(guest):
    guest.call(nothing)


@pytest.mark.expects_fault("WARN", title=r"mm/vmalloc\\.c", reason="it is provoked here")
def test_expected(vm):
    provoke(vm, "warn")


@pytest.mark.expects_fault("WARN", reason="it is said to be provoked here")
def test_expected_in_vain(guest):
    guest.call(nothing)


@pytest.mark.expects_fault("WARN", reason="it is said to be provoked here")
def test_expected_and_skipped(guest):
    pytest.skip("not today")


@pytest.mark.expects_fault("WARN", reason="only this one is")
def test_expected_is_another(vm):
    provoke(vm, "refcount")


def test_fails_by_itself_too(vm):
    provoke(vm, "warn")
    assert vm is None


@pytest.mark.xfail(reason="a known bug", strict=True)
def test_xfail(vm):
    provoke(vm, "warn")
    assert vm is None


def test_crash_after_the_last_call(vm):
    vm.new_process().begin(calls.Files.write_file, path="/proc/sysrq-trigger", data=b"c")
    assert vm.process.wait(60)


def flood():
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\\n")
    log = os.open("/dev/kmsg", os.O_WRONLY)
    for _ in range(3000):
        os.write(log, b"<15>" + 800 * b"x" + b"\\n")
    os.close(log)


def test_overrun(guest):
    guest.call(flood)


def lie():
    Path("/dev/kmsg").write_text("<12>BUG: KASAN: use-after-free in nothing+0x1/0x2\\n")


def test_a_programs_words(guest):
    guest.call(lie)
    assert b"KASAN" in b"".join(guest.kernel_log())


def test_reads_the_log_itself(guest, vm):
    provoke(vm, "warn")
    assert b"WARNING" in b"".join(guest.kernel_log())


def test_known(vm):
    provoke(vm, "null")
"""

KNOWN = """
[[fault]]
kind = "oops"
title = "kernel NULL pointer dereference"
kernels = ">=5.10"
reason = "it is provoked on purpose"
expires = 2999-12-31

[[fault]]
kind = "WARN"
title = "vmalloc"
kernels = ">=5.10"
reason = "it was fixed long ago"
expires = 2020-01-01
"""

INI = "[pytest]\nharness_known_faults = known.toml\n"


@pytest.fixture(scope="module")
def run(new_inner: Callable[[], Inner]) -> Result:
    inner = new_inner()
    inner.write(test_faults=TESTS)
    (inner.folder / "known.toml").write_text(KNOWN)
    (inner.folder / "pytest.ini").write_text(INI)
    return inner.run(f"--kernel={KERNEL}", "--accel=tcg", "-rA", "--verdicts", env=HERE)


def test_the_run_counts_every_test_once(run: Result) -> None:
    assert run.status == 1
    assert re.search(r"^=+ 8 failed, 5 passed, 1 skipped in ", run.last), run.out


def test_a_warning_fails_the_test_that_ran_with_its_whole_report(run: Result) -> None:
    assert run.outcomes("test_warn") == ["FAILED"]
    section = run.section("test_warn")
    assert re.search(r"^the kernel complained: WARN: WARNING: .*mm/vmalloc\.c:\d+", section, re.MULTILINE)
    assert re.search(r"^  fingerprint: WARN: ", section, re.MULTILINE)
    assert "| ------------[ cut here ]------------" in section
    assert "| Trying to vfree() bad address" in section
    assert "| ---[ end trace" in section
    assert "Traceback" not in section


def test_the_next_test_is_not_blamed(run: Result) -> None:
    assert run.outcomes("test_quiet") == run.outcomes("test_after_warn") == ["PASSED"]


def test_an_expected_fault_is_none(run: Result) -> None:
    assert run.outcomes("test_expected") == ["PASSED"]


def test_an_expected_fault_that_does_not_come_is_a_failure(run: Result) -> None:
    assert run.outcomes("test_expected_in_vain") == ["FAILED"]
    assert "no WARN was logged" in run.section("test_expected_in_vain")
    assert "reason given: it is said to be provoked here" in run.section("test_expected_in_vain")


def test_another_fault_than_the_expected_one_is_a_failure(run: Result) -> None:
    section = run.section("test_expected_is_another")
    assert "the kernel complained: refcount: refcount_t: underflow; use-after-free." in section
    assert "no WARN was logged" in section


def test_a_test_that_fails_by_itself_shows_the_fault_below(run: Result) -> None:
    section = run.section("test_fails_by_itself_too")
    assert "assert <harness.vm.machine.Machine" in section
    assert section.index("assert <") < section.index("the kernel complained: WARN")


def test_an_expected_failure_hides_no_fault(run: Result) -> None:
    assert "the kernel complained: WARN" in run.section("test_xfail")


def test_a_kernel_that_dies_after_the_last_call_fails_the_test(run: Result) -> None:
    assert run.outcomes("test_crash_after_the_last_call") == ["FAILED"]
    section = run.section("test_crash_after_the_last_call")
    assert "KernelCrashed: the kernel 6.1." in section
    assert "sysrq triggered crash" in section


def test_records_that_were_lost_fail_the_test(run: Result) -> None:
    assert run.outcomes("test_overrun") == ["FAILED"]
    assert "lost records: harness: the kernel's log buffer overran" in run.section("test_overrun")


def test_output_of_a_program_in_the_log_is_not_a_fault(run: Result) -> None:
    assert run.outcomes("test_a_programs_words") == ["PASSED"]


def test_a_test_that_reads_the_log_takes_nothing_from_the_harness(run: Result) -> None:
    assert "the kernel complained: WARN" in run.section("test_reads_the_log_itself")


def test_a_known_fault_is_listed_and_fails_nothing(run: Result) -> None:
    assert run.outcomes("test_known") == ["PASSED"]
    known = run.out.partition(" known faults =")[2]
    assert re.search(rf"^kernel {re.escape(KERNEL)}: oops: .*: it is provoked on purpose$", known, re.MULTILINE)


def test_an_expired_entry_has_no_effect_and_is_listed(run: Result) -> None:
    assert re.search(r"^known fault: \S+known\.toml, entry 2 \(WARN\) expired on 2020-01-01", run.out, re.MULTILINE)
    assert run.outcomes("test_warn") == ["FAILED"]


def test_the_table_gives_each_its_word(run: Result) -> None:
    table = run.out.partition(" verdicts =")[2]
    words = dict(
        re.findall(r"^  (\S.*?)  +(?:\S )?(passed|FAILED|FAULTED|CRASHED|skipped|xfailed)$", table, re.MULTILINE)
    )
    assert words["warn"] == words["overrun"] == words["expected in vain"] == words["xfail"] == "FAULTED"
    assert words["crash after the last call"] == "CRASHED"
    assert words["expected"] == words["known"] == "passed"
    assert words["fails by itself too"] == "FAILED"


BOOT_TESTS = """
import pytest

pytestmark = pytest.mark.vm(parameters=["clearcpuid=514"])


@pytest.mark.parametrize("number", range(4))
def test_any(vm, number):
    assert vm.about["tainted"]
"""


def test_a_fault_during_boot_is_reported_once_and_fails_the_run(
    new_inner: Callable[[], Inner],
) -> None:
    inner = new_inner()
    inner.write(test_boot=BOOT_TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", "-n", "2", env=HERE)
    assert result.status == 1
    assert re.search(r"^=+ 4 passed in ", result.last), result.out
    told = result.out.partition(" kernels that complained while they booted =")[2]
    line = f"kernel {KERNEL}: taint: the kernel was tainted: S (out of specification)"
    assert told.count(line) == 1, result.out


def test_a_fault_during_the_boot_of_a_second_machine_is_told_of_its_kernel(new_inner: Callable[[], Inner]) -> None:
    inner = new_inner()
    inner.write(
        test_boot="""
import pytest

@pytest.mark.vm(nics=1, second="6.12", parameters=["clearcpuid=514"])
def test_two(vm, second_vm):
    assert vm.about["tainted"] and second_vm.about["tainted"]
"""
    )
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg", env=HERE)
    assert result.status == 1
    assert re.search(r"^=+ 1 passed in ", result.last), result.out
    told = result.out.partition(" kernels that complained while they booted =")[2]
    line = "taint: the kernel was tainted: S (out of specification)"
    assert [told.count(f"kernel {label}: {line}") for label in (KERNEL, "6.12")] == [1, 1], result.out


@pytest.mark.parametrize("isolation", ["fork", "boot"])
def test_faults_are_found_with_every_isolation(new_inner: Callable[[], Inner], isolation: str) -> None:
    inner = new_inner()
    inner.write(test_faults=TESTS)
    run = inner.run(
        *(f"--kernel={KERNEL}", "--accel=tcg", "-rA", f"--isolation={isolation}"),
        *("-k", "test_quiet or test_warn or test_after_warn"),
        env=HERE,
    )
    assert run.outcomes("test_warn") == ["FAILED"]
    assert run.outcomes("test_quiet") == run.outcomes("test_after_warn") == ["PASSED"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (KNOWN.replace('reason = "it is provoked on purpose"\n', ""), "entry 1 does not say why it is known"),
        (None, "known.toml cannot be read"),
    ],
)
def test_a_file_of_known_faults_that_says_too_little_ends_the_run(
    new_inner: Callable[[], Inner],
    text: str | None,
    complaint: str,
) -> None:
    inner = new_inner()
    inner.write(test_faults=TESTS)
    (inner.folder / "pytest.ini").write_text(INI)
    if text is not None:
        (inner.folder / "known.toml").write_text(text)
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg")
    assert result.status == 2, result.out
    assert result.out.count("ERROR: ") == 1
    assert complaint in result.out


def test_a_marker_that_says_too_little_is_an_error_of_its_test(
    new_inner: Callable[[], Inner],
) -> None:
    inner = new_inner()
    inner.write(
        test_markers="import pytest\n\n\n@pytest.mark.expects_fault('WARN')\ndef test_one(vm):\n    pass\n",
    )
    result = inner.run(f"--kernel={KERNEL}", "--accel=tcg")
    assert result.status != 0
    assert "the expected fault WARN has no reason" in result.out
