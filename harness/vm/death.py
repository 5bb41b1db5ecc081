"""Why a guest ended or fell silent: who is to blame, in an error.

Pure: what console, monitor and QEMU's exit say in, errors out. QEMU's own word counts more than the console's, which
the guest writes.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from harness.errors import GuestEnded, HarnessError, KernelCrashed, LinkBroken
from harness.vm.console import agent_exited, cause_of_death, tail_of

_TRIPLE_FAULT = "Triple fault"
"""QEMU's log, in software emulation."""
_POWERED_OFF, _RESET, _BY_SIGNAL = "guest-shutdown", "guest-reset", "host-signal"
_TERMINATED = "terminating on signal"
_OUT_OF_MEMORY = re.compile(r"Out of memory: Kill(?:ed)? process \d+ \((?P<name>.*?)\)")
"""What the kernel says when it kills a process; "Kill" up to 5.2."""


@dataclass(frozen=True)
class QemuEnd:
    """The end of a QEMU.

    Attributes:
        lines: The console's last lines, then QEMU's.
        shutdown: The reason that QEMU gave; "" for none.
        status: Its exit status, negative for a signal; None when unknown.
        symptom: What was seen first.
    """

    lines: list[str]
    shutdown: str
    status: int | None
    symptom: str


def why_it_ended(label: str, release: str, end: QemuEnd) -> HarnessError:
    """Return the error for a guest whose QEMU has ended.

    Args:
        label: The kernel's name in messages.
        release: Its `uname -r`.
        end: What is known.
    """
    if agent_exited(end.lines):
        return LinkBroken(
            f"the agent in the guest of {label} ended by itself",
            expected="an agent that runs as long as its machine",
            hint="this is a defect of kernel-harness; report it with the lines below",
            detail=tail_of(end.lines, 60),
        )
    tail = tail_of(end.lines)
    if end.shutdown == _POWERED_OFF:
        return GuestEnded(f"the guest powered off; its kernel was {release}", detail=tail)
    if _TRIPLE_FAULT in end.lines and end.shutdown == _RESET:
        return KernelCrashed(f"the kernel {release} crashed: triple fault", detail=tail)
    cause = cause_of_death(end.lines)
    if cause is not None:
        return KernelCrashed(f"the kernel {release} crashed: {cause}", detail=tail)
    if end.shutdown == _RESET:
        return GuestEnded(
            f"the guest reset its machine; its kernel was {release}",
            hint="it was a reboot, or a panic that the console does not show (/proc/sys/kernel/printk)",
            detail=tail,
        )
    return _lost(label, end, tail)


def is_out_of_memory(status: int, lines: list[str]) -> bool:
    """Return whether a guest process ended because the guest had no memory left.

    Args:
        status: Its wait status.
        lines: The console's last lines.
    """
    return status & 0x7F == signal.SIGKILL and killed_for_memory(lines) != ""


def killed_for_memory(lines: list[str]) -> str:
    """Return the name of the last process that the kernel killed because the guest had no memory left; "" for none.

    Args:
        lines: The console's last lines.
    """
    found = [match["name"] for line in lines if (match := _OUT_OF_MEMORY.search(line))]
    return found[-1] if found else ""


def _lost(label: str, end: QemuEnd, tail: str) -> LinkBroken:
    """Return the error for a QEMU that ended although its guest did nothing."""
    expected = "QEMU to run until the test is over"
    said = next((line for line in reversed(end.lines) if _TERMINATED in line), "")
    if said or end.shutdown == _BY_SIGNAL:
        return LinkBroken(
            f"a program of this machine ended QEMU under the guest of {label}",
            expected=expected,
            hint=f"QEMU's words: {said.rpartition(': ')[2] or end.shutdown}",
            detail=tail,
        )
    if end.status is not None and end.status < 0:
        name = signal.Signals(-end.status).name if -end.status in list(signal.Signals) else f"signal {-end.status}"
        return LinkBroken(
            f"QEMU was killed by {name} under the guest of {label}",
            expected=expected,
            hint="did this machine's kernel run out of memory? `dmesg` says so; else another program sent the signal"
            if end.status == -signal.SIGKILL
            else "QEMU itself failed; report its version with the lines below",
            detail=tail,
        )
    how = "" if end.status is None else f", exit status {end.status}"
    return LinkBroken(
        f"QEMU ended under the guest of {label}, which had not asked for it{how} ({end.symptom})",
        expected=expected,
        hint="the reason may be in the lines below, or in this machine's log; then run the test again",
        detail=tail,
    )
