"""The seam for what is looked at around each test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from harness.checks.base import Checks, Complaint
from harness.checks.kernel_log import KernelLog
from harness.checks.known_faults import expect
from harness.errors import (
    GuestEnded,
    GuestHung,
    HarnessError,
    InfrastructureError,
    KernelCrashed,
    LinkBroken,
    UsageError,
)
from harness.results import properties
from harness.results.outcomes import Trouble
from harness.vm.machine import Machine, State

WARNING = b"4,900,5000000,-;WARNING: CPU: 0 PID: 7 at kernel/bpf/syscall.c:1 bpf_map_put+0x1/0x2"
CUT = b"4,899,4999999,-;------------[ cut here ]------------"
END = b"4,901,5000001,-;---[ end trace 0000000000000000 ]---"


class FakeConsole:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def console(self) -> list[str]:
        return self._lines


class FakeMachine:
    """What of a machine the checks look at."""

    def __init__(self, *records: bytes, tainted: int = 0, state: State = State.READY, console: str = "") -> None:
        self.about = {"tainted": 0}
        self.boot_log: list[bytes] = []
        self.state = state
        self.process = FakeConsole(console.splitlines())
        self.release = "6.1.0"
        self.end: HarnessError | None = KernelCrashed("it died") if state is State.DEAD else None
        self.answers: dict[str, Any] = {
            "log_since": {"records": list(records), "tainted": tainted},
            "jiffies": None,
        }

    def ask_agent(self, call: Callable[..., Any]) -> Any:
        return self.answers[call.__name__]

    def ask_agent_within(self, _timeout: float, call: Callable[..., Any]) -> Any:
        return self.answers[call.__name__]


def look(machine: FakeMachine, log: KernelLog | None = None) -> list[Complaint]:
    checks = Checks([log or KernelLog()])
    checks.begin(cast("Machine", machine))
    return checks.end(cast("Machine", machine))


def test_a_quiet_kernel_gives_no_complaint() -> None:
    assert look(FakeMachine(b"6,900,5000000,-;random: crng init done")) == []


def test_a_fault_is_a_complaint_with_plain_data() -> None:
    (complaint,) = look(FakeMachine(CUT, WARNING, END, tainted=512))
    assert complaint.trouble == Trouble.FAULT
    assert complaint.name == properties.FAULT
    assert complaint.data["kind"] == "WARN"
    assert complaint.data["fingerprint"] == "WARN: bpf_map_put"
    assert "cut here" in complaint.data["excerpt"]
    assert "the kernel complained: WARN: WARNING: CPU: 0" in complaint.text


def test_a_taint_that_nothing_explains_is_a_complaint() -> None:
    (complaint,) = look(FakeMachine(tainted=512))
    assert complaint.data["kind"] == "taint"
    assert "W (a warning)" in complaint.text


def test_a_taint_beside_a_fault_that_does_not_explain_it_is_another_complaint() -> None:
    kinds = [complaint.data["kind"] for complaint in look(FakeMachine(CUT, WARNING, END, tainted=512 | 1 << 2))]
    assert kinds == ["WARN", "taint"]


def test_the_console_of_a_dead_machine_is_read() -> None:
    console = "[    5.000000] Kernel panic - not syncing: sysrq triggered crash\na line of a program's\n"
    (complaint,) = look(FakeMachine(state=State.DEAD, console=console))
    assert complaint.data["kind"] == "panic"


def test_a_machine_that_the_test_closed_is_not_asked() -> None:
    assert look(FakeMachine(CUT, WARNING, END, state=State.CLOSED)) == []


def test_an_expected_fault_is_not_a_complaint_and_explains_the_taint() -> None:
    assert look(FakeMachine(CUT, WARNING, END, tainted=512), KernelLog([expect("WARN", "", "provoked")])) == []


def test_an_expected_fault_that_did_not_come_is_a_complaint_for_a_test_that_passed() -> None:
    (complaint,) = look(FakeMachine(), KernelLog([expect("WARN", "vfree", "provoked")]))
    assert complaint.only_if_passed
    assert "no WARN with 'vfree' was logged" in complaint.text
    assert "provoked" in complaint.text


def test_a_fault_that_repeats_is_one_complaint() -> None:
    (complaint,) = look(FakeMachine(CUT, WARNING, END, CUT, WARNING, END, tainted=512))
    assert "(2 times)" in complaint.text


def test_an_unreadable_log_is_not_a_clean_log() -> None:
    with pytest.raises(InfrastructureError, match="cannot be searched for faults"):
        look(FakeMachine(b"something else"))


LEAKED = 'unreferenced object 0xffff888003a5b000 (size 4096):\n  comm "{}", pid 1, jiffies {} (age 9.1s)\n'


def test_memory_lost_during_the_test_is_one_complaint_without_another_for_its_count() -> None:
    machine = FakeMachine(b"6,1,5,-;kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)")
    machine.answers |= {"jiffies": 1000, "kmemleak": LEAKED.format("swapper", 900) + LEAKED.format("init", 1100)}
    (complaint,) = look(machine, KernelLog(kmemleak=True))
    assert 'unreferenced object of 4096 bytes, allocated by "init"' in complaint.text
    assert look(machine, KernelLog([expect("kmemleak", "4096", "provoked")], kmemleak=True)) == []


def test_a_kernel_without_kmemleak_cannot_be_asked_for_it() -> None:
    with pytest.raises(UsageError, match="has no kmemleak"):
        look(FakeMachine(), KernelLog(kmemleak=True))


class Failing:
    def __init__(self, error: Exception | None, *complaints: Complaint) -> None:
        self.error = error
        self.complaints = complaints
        self.asked = False

    def begin(self, machine: Machine) -> None:
        pass

    def end(self, machine: Machine) -> list[Complaint]:
        self.asked = True
        if self.error is not None:
            raise self.error
        return list(self.complaints)


def test_a_check_that_cannot_be_made_hides_nothing_that_others_found() -> None:
    found = Complaint(Trouble.LEAK, "", {}, "a map was leaked")
    first, second, last = Failing(None, found), Failing(KernelCrashed("it died")), Failing(LinkBroken("gone"))
    with pytest.raises(KernelCrashed) as raised:
        Checks([first, second, last]).end(cast("Machine", FakeMachine()))
    assert last.asked
    assert "a map was leaked" in str(raised.value)


def test_lines_of_the_sources_are_behind_what_the_report_names() -> None:
    asked: list[tuple[str, bool]] = []

    def line_of(place: str, returns: bool) -> str:
        asked.append((place, returns))
        return "kernel/bpf/syscall.c:4" if returns else "kernel/bpf/syscall.c:1"

    trace = (
        b"4,900,5000000,-;Call Trace:",
        b"4,900,5000000,-; map_create+0x10/0x20",
        b"4,900,5000000,-; up+0x1/0x22 [m]",
    )
    machine = FakeMachine(CUT, WARNING, *trace, END)
    (complaint,) = look(machine, KernelLog(line_of=line_of))
    assert "at kernel/bpf/syscall.c:1 bpf_map_put+0x1/0x2 (kernel/bpf/syscall.c:1)\n" in complaint.text
    assert "|  map_create+0x10/0x20 (kernel/bpf/syscall.c:4)\n" in complaint.text
    assert "|  up+0x1/0x22 [m]\n" in complaint.text
    assert asked == [("bpf_map_put+0x1/0x2", False), ("map_create+0x10/0x20", True)]
    assert "syscall.c:4" in complaint.data["excerpt"]
    assert "syscall.c" not in complaint.data["fingerprint"]


def test_a_report_without_lines_is_still_a_report() -> None:
    def line_of(place: str, returns: bool) -> str:
        raise UsageError("the file is damaged")

    (complaint,) = look(FakeMachine(CUT, WARNING, END), KernelLog(line_of=line_of))
    assert "bpf_map_put+0x1/0x2" in complaint.text
    assert "(without source lines: the file is damaged)" in complaint.text


@pytest.mark.parametrize(
    ("end", "kind"),
    [(KernelCrashed("it died"), "panic"), (GuestHung("silence"), "hung"), (GuestEnded("it powered off"), "ended")],
)
def test_an_end_of_the_guest_is_expected_by_its_kind_alone(end: HarnessError, kind: str) -> None:
    for expected in ("panic", "hung", "ended", "WARN"):
        log = KernelLog([expect(expected, "", "the test does it")])
        machine = FakeMachine(state=State.DEAD)
        machine.end = end
        look(machine, log)
        assert log.is_end_expected is (expected == kind)


def test_lost_infrastructure_is_never_expected() -> None:
    log = KernelLog([expect(kind, "", "the test does it") for kind in ("panic", "hung", "ended")])
    machine = FakeMachine(state=State.DEAD)
    machine.end = LinkBroken("QEMU was killed")
    look(machine, log)
    assert not log.is_end_expected


def test_the_fault_on_a_dead_kernels_console_may_be_the_expected_one() -> None:
    console = "[    5.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000"
    log = KernelLog([expect("oops", "", "the test does it")])
    assert look(FakeMachine(state=State.DEAD, console=console), log) == []
    assert log.is_end_expected
