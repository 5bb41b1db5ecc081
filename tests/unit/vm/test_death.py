"""Who is to blame for the end of a guest: by QEMU's word first, then the console's."""

from __future__ import annotations

import signal

import pytest

from harness.errors import GuestEnded, HarnessError, KernelCrashed, LinkBroken
from harness.vm.death import QemuEnd, is_out_of_memory, killed_for_memory, why_it_ended

PANIC = "[   18.1] Kernel panic - not syncing: sysrq triggered crash"
INIT = "[   18.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
TERM = "qemu-system-x86_64: terminating on signal 15 from pid 42 (/usr/bin/killer)"


def why(*lines: str, shutdown: str = "", status: int | None = 0) -> HarnessError:
    return why_it_ended("6.1", "6.1.0-57", QemuEnd(list(lines), shutdown, status, "the channel closed"))


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (
            why(PANIC, shutdown="guest-reset"),
            KernelCrashed,
            "the kernel 6.1.0-57 crashed: Kernel panic - not syncing: s",
        ),
        (why("Triple fault", shutdown="guest-reset"), KernelCrashed, "the kernel 6.1.0-57 crashed: triple fault"),
        (why(shutdown="guest-reset"), GuestEnded, "the guest reset its machine"),
        (why(shutdown="guest-shutdown"), GuestEnded, "the guest powered off"),
        (why(INIT, shutdown="guest-reset"), LinkBroken, "the agent in the guest of 6.1 ended by itself"),
        (why(status=-signal.SIGKILL), LinkBroken, "QEMU was killed by SIGKILL under the guest of 6.1"),
        (why(status=-signal.SIGSEGV), LinkBroken, "QEMU was killed by SIGSEGV under the guest of 6.1"),
        (why(TERM, shutdown="host-signal"), LinkBroken, "a program of this machine ended QEMU"),
        (why(status=1), LinkBroken, "which had not asked for it, exit status 1 (the channel closed)"),
        (why(status=None), LinkBroken, "which had not asked for it (the channel closed)"),
    ],
)
def test_each_end_has_its_culprit(error: HarnessError, kind: type[HarnessError], what: str) -> None:
    assert type(error) is kind
    assert what in error.what


def test_a_guest_that_powers_off_does_not_pass_for_a_panic() -> None:
    """A panic resets the machine; the console's words are the guest's."""
    assert isinstance(why(PANIC, shutdown="guest-shutdown"), GuestEnded)
    assert isinstance(why("Triple fault", shutdown="guest-shutdown"), GuestEnded)


def test_a_signal_says_who_sent_it_and_what_to_look_at() -> None:
    assert why(TERM, shutdown="host-signal").hint.endswith("terminating on signal 15 from pid 42 (/usr/bin/killer)")
    assert "dmesg" in why(status=-signal.SIGKILL).hint
    assert "dmesg" not in why(status=-signal.SIGSEGV).hint


def test_a_process_that_the_guests_kernel_killed_for_memory_is_told_from_one_that_was_killed() -> None:
    lines = ["[   39.3] Out of memory: Killed process 81 (init) total-vm:163308kB"]
    assert is_out_of_memory(9, lines)
    assert is_out_of_memory(9, ["Out of memory: Kill process 33 (init) score 772 or sacrifice child"])  # 4.14
    assert not is_out_of_memory(9, [])
    assert not is_out_of_memory(11, lines)
    assert not is_out_of_memory(0x300, lines)
    assert killed_for_memory(lines) == "init"
    assert killed_for_memory([*lines, "Out of memory: Killed process 9 (a (b) total-vm:1kB"]) == "a (b"
    assert killed_for_memory(["Killed process 9"]) == ""
