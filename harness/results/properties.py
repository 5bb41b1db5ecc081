"""What a test tells of itself beside its outcome: the `user_properties` of its reports, which xdist carries along.

Owns the names and the shape of what is in them. Pure; imports the outcomes beside it. Values are plain data, since
they cross from worker to controller and end in files of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from harness.results.outcomes import Trouble

KERNEL = "kernel"
"""Label of the kernel that a test ran on."""
RELEASE = "release"
"""What `uname -r` printed there."""
LOADER = "loader"
"""Who made the bpf(2) calls."""
TROUBLE = "trouble"
"""What ended the test, when it was not an assertion: the value of a :class:`harness.results.outcomes.Trouble`."""
MACHINE = "machine"
"""How long the test's machine took to be there: a :class:`Started`."""
OBSERVATION = "observation"
"""One thing that the test observed: an :class:`Observation`."""
CONTRACT = "contract"
"""Id of the contract that a test is about, for readers of JUnit's file."""
LEAK = "leak"
"""One kernel object that the test left behind: a :class:`Leak`."""
FAULT = "fault"
"""One complaint of the kernel's own while the test ran: a :class:`Fault`."""
THROUGHPUT = "throughput"
"""How fast a test repeated something: a :class:`Throughput`."""
LEDGER = "ledger"
"""What the kernel held when the test was over: an :class:`Account`."""
BOOT_FAULT = "boot_fault"
"""One complaint of the kernel's own before any test ran: a :class:`Fault`."""
KNOWN_FAULT = "known_fault"
"""One complaint that is known and does not count: a :class:`KnownFault`."""

NOT_BOOTED = "not_booted"
"""Why the test's machine did not boot: a :class:`NotBooted`."""
NOT_RUN = "not_run"
"""Why the test was not run: what another test's :data:`NOT_BOOTED` says."""


class Started(TypedDict):
    """What it took until a test had its machine.

    Attributes:
        start: Seconds from the demand until it was there.
        boot: Seconds that the boot took which the machine is a clone of, by this run or an earlier one; None when it
            is not known.
    """

    start: float
    boot: float | None


class NotBooted(TypedDict):
    """Why a machine did not boot.

    Attributes:
        kernel: Label of the kernel that does not boot; "" where no kernel does on this machine.
        what: What happened, one sentence.
        hint: What the user can do next.
    """

    kernel: str
    what: str
    hint: str


class Observation(TypedDict):
    """What a test saw, and what was known beforehand.

    Attributes:
        contract: Id of the contract; "" for none.
        sentence: What is promised, for a reader.
        takes: What sort of answer it is: "errno", "value", "count" or "time".
        observed: The answer.
        expected: The answer that the contract names for this kernel; None when it names none.
        source: Kernel commit or function that the expectation rests on.
        verdict: "as expected", "differs", "observed" when nothing was known for this kernel, or "not asked".
        note: What else is to be said, that version and probe disagree for instance, or why it was not asked; "" for
            nothing.
    """

    contract: str
    sentence: str
    takes: str
    observed: Any
    expected: Any
    source: str
    verdict: str
    note: str


class Leak(TypedDict):
    """A kernel object that was there after a test and not before.

    Attributes:
        kind: "fd", "map", "program", "link", "btf", "pin", "memory" and the like.
        id: Its number; None when it has none.
        type: The map's or program's type.
        name: Its name in the kernel.
        made: How it was made: the stack of its creation in the guest where that is known.
        holder: What still holds it.
        text: All that in one line.
    """

    kind: str
    id: int | None
    type: str
    name: str
    made: str
    holder: str
    text: str


class Throughput(TypedDict):
    """How fast something was repeated in the guest.

    Attributes:
        rounds: How often it was done.
        seconds: How long that took, as the guest measured it.
        per_second: How often in one second.
    """

    rounds: int
    seconds: float
    per_second: int


class Account(TypedDict):
    """What the ledger counted around a test.

    Attributes:
        settled_ms: Milliseconds until the kernel held what it had held before, or did not change any more.
        grace_periods: RCU grace periods waited for.
        memory_kib: Totals of the kernel's memory before and after, by their names in /proc/meminfo; not judged.
        unchecked: What this kernel does not tell, a line each.
    """

    settled_ms: int
    grace_periods: int
    memory_kib: dict[str, list[int]]
    unchecked: list[str]


class Fault(TypedDict):
    """A complaint in the kernel's log.

    Attributes:
        kind: "WARN", "oops", "KASAN", "RCU stall" and the like.
        fingerprint: The same for the same fault: its kind and top frames.
        title: Its first line.
        excerpt: The lines of the log.
    """

    kind: str
    fingerprint: str
    title: str
    excerpt: str


class KnownFault(Fault):
    """A complaint that does not count.

    Attributes:
        reason: Why it does not.
        origin: The entry that says so.
    """

    reason: str
    origin: str


def values(properties: Iterable[tuple[str, object]], name: str) -> list[Any]:
    """Return the values of all properties of a name, in order."""
    return [value for known, value in properties if known == name]


def troubles(properties: Iterable[tuple[str, object]]) -> list[Trouble]:
    """Return what ended a test, each once, in order; a project may have a property of that name with other words."""
    words = values(properties, TROUBLE)
    return list(dict.fromkeys(trouble for word in words for trouble in Trouble if trouble.value == word))
