"""The table of faults: what each test of provocations.py is to be called, and who is to blame in words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.results.outcomes import Outcome, Trouble

_CRASHED = r"KernelCrashed: the kernel \S+ crashed: "
_BROKE = "ProtocolBroken: the guest broke the protocol: "
_RESET = "GuestEnded: the guest reset its machine; its kernel was "
_SILENT = r"within 3 s; the kernel \S+ stopped answering completely"
_ALIVE = r"within 1 s; the kernel \S+ is alive, the guest process was killed"
_HANDLED = "; the test handled that error and passed$"
_FATAL = r"\(Kernel panic - not syncing: Fatal exception\)"
_SYSRQ = (
    "(Kernel panic - not syncing: sysrq triggered crash"
    # An old kernel crashes itself by a wild write.
    rf"|BUG: unable to handle kernel NULL pointer dereference at +\(null\) {_FATAL})"
)
_SPINS = r"the process \d+ still runs and uses the processor: forked by a function"


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: The test, without "test_".
        outcome: What the record calls its end.
        message: Regular expression of the reason in the record: what happened, and who did it.
        trouble: What it is that ended the test; None for a failure of its own, or for none.
        printed: Text that the record's output of the test has.
        attempts: How often the test ran.
        is_long: Whether it takes long, or its kernel much time: run with `-m long`.
        only_on: The architecture whose machine alone can have it; "" for all.
        instead: Other ends that it comes to where its guest is slower or has less memory, each with its message.
    """

    name: str
    outcome: Outcome
    message: str = ""
    trouble: Trouble | None = None
    printed: str = ""
    attempts: int = 1
    is_long: bool = False
    only_on: str = ""
    instead: tuple[tuple[Outcome, str], ...] = ()


def _of_a_pc(fault: Fault) -> Fault:
    return replace(fault, only_on="amd64")


def _crashed(name: str, cause: str) -> Fault:
    return Fault(name, Outcome.CRASHED, _CRASHED + cause, Trouble.CRASHED)


def _ended(name: str, message: str) -> Fault:
    return Fault(name, Outcome.FAILED, message, Trouble.ENDED)


def _hung(name: str, message: str, printed: str = "", *, is_long: bool = False) -> Fault:
    return Fault(name, Outcome.HUNG, f"GuestHung: no answer to .*{message}", Trouble.HUNG, printed, is_long=is_long)


def _broke(name: str, how: str) -> Fault:
    return Fault(name, Outcome.PROTOCOL, _BROKE + how, Trouble.PROTOCOL)


def _lost(name: str, message: str) -> Fault:
    return Fault(name, Outcome.INFRASTRUCTURE, message, Trouble.INFRASTRUCTURE, attempts=2)


def _leaked(name: str, message: str, *, is_long: bool = False) -> Fault:
    return Fault(name, Outcome.LEAKED, f"^leaked: {message}", Trouble.LEAK, is_long=is_long)


def _faulted(name: str, title: str, *, is_long: bool = False) -> Fault:
    return Fault(name, Outcome.FAULTED, f"^the kernel complained: {title}", Trouble.FAULT, is_long=is_long)


_PRINTED = "last words before "

FAULTS = (
    # The kernel, or what a guest does to itself.
    _crashed("panic", _SYSRQ),
    _crashed("panic_after_the_last_call", _SYSRQ),
    _crashed("panic_that_is_handled", _SYSRQ + _HANDLED),
    Fault("panic_that_is_expected", Outcome.PASSED),
    _crashed("panic_that_waits", _SYSRQ),
    _ended("panic_with_a_silent_console", _RESET),
    _ended("restart_by_sysrq", _RESET),
    _ended("reboot", _RESET),
    _ended("power_off", "GuestEnded: the guest powered off"),
    _of_a_pc(_ended("chipset_reset", _RESET)),
    _of_a_pc(_ended("keyboard_controller_reset", _RESET)),
    _ended("forged_panic", "GuestEnded: the guest powered off"),
    _hung("agent_stopped", _SILENT),
    _hung("agent_stopped_and_handled", _SILENT + _HANDLED),
    _crashed("agent_destroyed", "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000[45b]"),
    # A function in the guest.
    _hung("hang", rf"sleep\(\) {_ALIVE}", f"{_PRINTED}the hang"),
    _hung("process_stopped", _ALIVE),
    Fault("process_dies", Outcome.FAILED, r"the guest process ended \(exit status 3\) during die\(\)$", None, _PRINTED),
    Fault("out_of_memory", Outcome.FAILED, r"during eat\(\): the guest has no memory left$", None, _PRINTED),
    _leaked("process_left_spinning", _SPINS),
    Fault("much_is_printed", Outcome.FAILED, r"AssertionError: 10486\d\d characters were kept"),
    Fault("exception_without_text", Outcome.FAILED, r"WithoutText: \(its __str__ raised LookupError\)"),
    Fault("value_that_contains_itself", Outcome.FAILED, "what return_itself returned cannot cross to the host"),
    # This machine.
    _lost("qemu_killed", "LinkBroken: QEMU was killed by SIGKILL"),
    _lost("qemu_terminated", "LinkBroken: a program of this machine ended QEMU"),
    _lost("qemu_crashed", "LinkBroken: QEMU was killed by SIGSEGV"),
    _lost("qemu_stopped", r"QemuStalled: no answer to pid\(\) within 1 s: QEMU is stopped \(state T"),
    Fault("qemu_killed_once", Outcome.PASSED, attempts=2),
    # A hostile guest.
    _broke("noise", "not a frame: "),
    _broke("frame_that_announces_too_much", "a frame announces 4294967295 bytes"),
    _broke("ring_that_claims_too_much", "a ring of 1048576 bytes claims to hold 2147483647"),
    _broke("answer_that_cannot_be_read", r"its answer to answer\(\) cannot be read: unknown type code"),
    _broke("answer_to_nothing", "it answered request 9 to process 9, which was not made"),
    _broke("event_of_nothing", "its event is None"),
    _broke(
        "answer_that_swells", r"its answer to swell\(\) cannot be read: a message of 60000005 bytes takes more than"
    ),
    _hung("endless_bell", _SILENT),
    _hung("frame_without_end", _SILENT),
    # Faults in the kernel's code.
    _faulted("oops", "oops: (BUG: (unable to handle )?|Unable to handle )kernel NULL pointer dereference"),
    _faulted("bug", r"BUG: kernel BUG at (/\S+/)?kernel/cred.c"),
    # arm64's idle task warns after it, and grace periods may take a minute.
    _of_a_pc(_faulted("list_corruption", r"list corruption: list_add (double add|corruption)")),
    # Without CONFIG_VMAP_STACK there is no guard page, and no stack for the report. The last words are arm64's.
    _crashed(
        "stack_overflow",
        r"((BUG: (TASK )?stack guard page was hit at .* \()?Kernel panic - not syncing: Fatal exc"
        r"|triple fault$|Kernel panic - not syncing: kernel stack overflow)",
    ),
    _of_a_pc(_crashed("triple_fault", "triple fault$")),
    _of_a_pc(_faulted("nmi", "NMI: (Uhhuh. )?NMI received for unknown reason")),
    _of_a_pc(_crashed("nmi_that_panics", "Kernel panic - not syncing: NMI: Not continuing")),
    Fault("nothing_goes_wrong", Outcome.PASSED),
    # What takes long.
    _hung("hard_lockup", r"within 5 s; the kernel \S+ stopped answering completely", is_long=True),
    _faulted("soft_lockup", "soft lockup: watchdog: BUG: soft lockup - CPU#0 stuck for", is_long=True),
    _faulted("rcu_stall", r"RCU stall: rcu: INFO: rcu_\w+ (self-detected stall|detected stalls)", is_long=True),
    _faulted("hung_task", r"hung task: INFO: task \S+ blocked for more than 1 second", is_long=True),
    _faulted("log_overrun", "lost records: harness: the kernel's log buffer overran", is_long=True),
    Fault("root_is_full", Outcome.FAILED, "OSError|MemoryError|GuestProcessDied|GuestCallError", is_long=True),
    # Seen on 5.10: the memory is gone before the time is.
    replace(
        _hung("fork_bomb", r"fork_without_end\(\) within 8 s; the kernel", is_long=True),
        instead=((Outcome.HUNG, r"during fork_without_end\(\): the guest has no memory left"),),
    ),
    # Seen on 6.12: the kernel complains of it too. Seen on 7.2: it answers no more.
    replace(
        _leaked("fork_bomb_left_behind", _SPINS, is_long=True),
        instead=(
            (Outcome.FAULTED, f"^leaked: {_SPINS}"),
            (Outcome.HUNG, r"GuestHung: no answer to .* within 60 s; the kernel \S+ stopped answering completely"),
        ),
    ),
    _hung("spins_at_the_highest_priority", r"within 3 s; the kernel \S+ (is alive|stopped)", is_long=True),
)


def matches(fault: Fault, reason: str) -> bool:
    """Return whether a reason in a record is that of the table."""
    return re.search(fault.message, reason) is not None if fault.message else reason == ""
