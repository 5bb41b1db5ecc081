"""Tests that share a machine: who gets which, and who is blamed for what is found in it."""

from __future__ import annotations

import re

import pytest

from harness.results import file
from tests.plugin.inner import KERNEL, Inner, properties_of

TESTS = """
import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm(scope="module")
WITH = os.environ.get("WITH", "")


def been_here():
    path = Path("/tmp/been_here")
    found = path.exists()
    path.touch()
    return found


def test_first(guest):
    guest.call(been_here)
    if WITH == "failure":
        assert guest.call(been_here) is None


def test_second(guest):
    assert WITH in ("panic", "leak") or guest.call(been_here)


@pytest.mark.skipif(WITH != "leak", reason="not asked for")
def test_leaks(bpf):
    bpf.map("array").pin("/sys/fs/bpf/left")


def panic():
    Path("/proc/sysrq-trigger").write_text("c")


@pytest.mark.skipif(WITH != "panic", reason="not asked for")
def test_panics(guest):
    guest.call(panic)


def test_after(guest):
    guest.call(been_here)


@pytest.mark.vm(scope="function")
def test_alone(guest):
    assert not guest.call(been_here)


class TestOfOneClass:
    pytestmark = pytest.mark.vm(scope="class")

    def test_one(self, guest):
        assert not guest.call(been_here)

    def test_two(self, guest):
        assert guest.call(been_here)
"""


def test_tests_of_a_scope_share_a_machine_and_no_others_do(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    record, junit = inner.folder / "run.json", inner.folder / "junit.xml"
    result = inner.run(f"--kernel={KERNEL}", f"--record={record}", f"--junit-xml={junit}", "-v")
    assert "6 passed, 2 skipped" in result.out, result.out
    results = {one.test.rpartition("::")[2]: one for one in file.read(record).results}
    assert [name for name, one in results.items() if one.start] == ["test_first", "test_alone", "test_one"]
    assert len(results) == 8
    assert "leak_count" in properties_of(junit)[f"test_after[{KERNEL}]"]
    assert "leak_count" not in properties_of(junit)[f"test_first[{KERNEL}]"]


@pytest.mark.parametrize("isolation", ["vm", "fork", "boot"])
def test_a_leak_is_reported_on_the_test_that_leaks(inner: Inner, isolation: str) -> None:
    inner.write(test_it=TESTS)
    record, junit = inner.folder / "run.json", inner.folder / "junit.xml"
    result = inner.run(
        *(f"--kernel={KERNEL}", f"--isolation={isolation}", f"--record={record}", f"--junit-xml={junit}", "-rA"),
        *("-k", "not alone and not Class"),
        env={"WITH": "leak"},
    )
    assert "1 failed, 3 passed, 1 skipped" in result.last, result.out
    assert "4 tests shared; they run again one by one" in result.out
    assert "held by pin /sys/fs/bpf/left" in result.section("test_leaks")
    outcomes = {one.test.rpartition("::")[2]: one.outcome.value for one in file.read(record).results}
    assert outcomes == {
        **dict.fromkeys(("test_first", "test_second", "test_after"), "passed"),
        "test_leaks": "leaked",
        "test_panics": "unsupported",
    }
    assert len(re.findall("<testcase ", junit.read_text())) == 5
    assert "leak" in properties_of(junit)[f"test_leaks[{KERNEL}]"]


def test_after_a_panic_the_next_test_has_a_new_machine_and_earlier_ones_run_again(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "-rA", "-k", "not alone and not Class", env={"WITH": "panic"})
    assert "1 failed, 3 passed, 1 skipped" in result.last, result.out
    assert "sysrq triggered crash" in result.section("test_panics")
    assert "3 tests shared; they run again one by one" in result.out


TWO = """
import pytest

pytestmark = pytest.mark.vm(group="pins")


def test_leaves_nothing_when_alone(shared_guest, bpf):
    shared_guest.write("/proc/sys/kernel/panic", "77")


def test_leaves_a_pin_after_the_other(guest, bpf):
    if guest.read("/proc/sys/kernel/panic").strip() == b"77":
        bpf.map("array").pin("/sys/fs/bpf/left")
"""


def test_what_no_test_leaves_by_itself_is_a_failure_all_the_same(inner: Inner) -> None:
    inner.write(test_it=TWO)
    result = inner.run(f"--kernel={KERNEL}", "-rA")
    assert "1 failed, 1 passed" in result.last, result.out
    section = result.section("test_leaves_a_pin_after_the_other")
    assert "held by pin /sys/fs/bpf/left" in section
    assert "after none of them on its own" in section


def test_a_run_that_stops_at_a_failure_looks_at_the_machine_first(inner: Inner) -> None:
    inner.write(test_it=TWO + "\n\ndef test_fails(guest):\n    assert False\n\n\ndef test_last(guest):\n    pass\n")
    result = inner.run(f"--kernel={KERNEL}", "-x", "-rA")
    assert "1 failed, 2 passed" in result.last, result.out
    assert "held by pin /sys/fs/bpf/left" in result.section("test_fails")


def test_workers_share_machines_each_with_itself(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "-n", "2", "-rA", "-k", "not alone and not Class", env={"WITH": "leak"})
    assert "1 failed, 3 passed, 1 skipped" in result.last, result.out
    assert "held by pin /sys/fs/bpf/left" in result.section("test_leaks")


def test_a_guest_process_is_shared_until_it_dies(inner: Inner) -> None:
    inner.write(
        test_it="""
        import pytest

        from harness.errors import GuestProcessDied
        from harness.guest import calls

        pytestmark = pytest.mark.vm(scope="module")
        seen = []

        @pytest.mark.parametrize("number", range(4))
        def test_it(shared_guest, number):
            shared_guest.process.ask(calls.Descriptors.descriptors)
            seen.append(shared_guest.process.number)
            if number == 1:
                shared_guest.process.close()
                with pytest.raises(GuestProcessDied):
                    shared_guest.process.ask(calls.Descriptors.descriptors)
            if number == 3:
                assert seen[0] == seen[1] != seen[2] == seen[3]
        """.replace("\n        ", "\n")
    )
    result = inner.run(f"--kernel={KERNEL}")
    assert "4 passed" in result.last, result.out


@pytest.mark.parametrize("marked", ["scope='session'", "scope=3", "group=3", "scope='module', group=['a']"])
def test_another_scope_is_a_clear_error(inner: Inner, marked: str) -> None:
    inner.write(test_it=f"import pytest\n\n@pytest.mark.vm({marked})\ndef test_it(guest):\n    pass\n")
    result = inner.run("--kernel=6.1")
    assert "test_it.py::test_it: the marker vm takes scope='function' or 'class' or 'module', or group=" in result.out
    assert result.status == pytest.ExitCode.INTERRUPTED


def test_a_failed_test_is_tried_again_by_its_name(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    options = (f"--kernel={KERNEL}", "-p", "cacheprovider", "-o", f"cache_dir={inner.folder / 'cache'}")
    first = inner.run(*options, "-k", "not alone and not Class", env={"WITH": "leak"})
    again = inner.run(*options, "--lf", "-rA", env={"WITH": "leak"})
    assert "1 failed" in again.last, first.out + again.out
    assert "held by pin" in again.section("test_leaks")


def test_a_failure_in_a_shared_machine_pauses_there(inner: Inner) -> None:
    inner.write(test_it=TESTS)
    result = inner.run(f"--kernel={KERNEL}", "--pause-on-failure", "--pause-timeout=0.1", env={"WITH": "failure"})
    assert result.out.count("nobody attached; continuing") == 1
    assert "1 failed, 5 passed, 2 skipped" in result.last, result.out
