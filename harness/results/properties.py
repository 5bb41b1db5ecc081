"""Properties of a test besides its outcome: the `user_properties` of its reports, which xdist transports.

Owns the names, and the shape of what is in them and not in a run record. What a record has is declared in
:mod:`harness.results.types`; here it is a dictionary of the same fields, since values cross from worker to controller.
Pure; imports the outcomes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from harness.results.outcomes import Trouble

KERNEL = "kernel"
"""Label of the kernel that a test ran on."""
RELEASE = "release"
"""Its `uname -r`."""
LOADER = "loader"
"""The loader that made the bpf(2) calls."""
TROUBLE = "trouble"
"""What ended the test, when it was not an assertion: the value of a :class:`harness.results.outcomes.Trouble`."""
LOST = "lost"
"""Why this attempt at the test was lost with its machine; the test runs again."""
RETRIED = "retried_after"
"""Why the earlier attempt at this test was lost."""
MACHINE = "machine"
"""Start time of the test's machine: a :class:`Started`."""
OBSERVATION = "observation"
"""One thing that the test observed: an :class:`harness.results.types.Observation`."""
CONTRACT = "contract"
"""Id of the test's contract, for readers of JUnit's file."""
LEAK = "leak"
"""One kernel object that the test left behind: a :class:`harness.results.types.Leak`."""
FAULT = "fault"
"""One complaint of the kernel's own while the test ran: a :class:`harness.results.types.Fault`."""
PART = "part"
"""One subtest of a foreign program's test: a :class:`Part`."""
THROUGHPUT = "throughput"
"""Speed of repeated work: a :class:`Throughput`."""
LEAK_COUNT = "leak_count"
"""What the kernel held when the test was over: a :class:`LeakCount`."""
BOOT_FAULT = "boot_fault"
"""One complaint of a kernel's own before any test ran on it: a :class:`BootFault`."""
KNOWN_FAULT = "known_fault"
"""One complaint that is known and does not count: a :class:`harness.results.types.ExcusedFault`."""

NOT_BOOTED = "not_booted"
"""Why the test's machine did not boot: a :class:`NotBooted`."""
NOT_RUN = "not_run"
"""Why the test was not run: another test's :data:`NOT_BOOTED`."""

OF_AN_ATTEMPT = frozenset(
    {
        RELEASE,
        TROUBLE,
        LOST,
        MACHINE,
        OBSERVATION,
        LEAK,
        FAULT,
        PART,
        THROUGHPUT,
        LEAK_COUNT,
        BOOT_FAULT,
        KNOWN_FAULT,
        NOT_BOOTED,
        NOT_RUN,
    }
)
"""Properties that are about one attempt of a test."""


class Started(TypedDict):
    """The start of a test's machine.

    Attributes:
        start: Seconds from the request to the machine.
        boot: Boot time in seconds of the template of this clone, in this run or an earlier one; None when unknown.
    """

    start: float
    boot: float | None


class BootFault(TypedDict):
    """A complaint of a kernel before any test ran on it.

    Attributes:
        kernel: Label of the kernel, of a test with two machines either's.
        fault: A :class:`harness.results.types.Fault`, as a dictionary.
    """

    kernel: str
    fault: dict[str, Any]


class NotBooted(TypedDict):
    """Why a machine did not boot.

    Attributes:
        kernel: Label of the kernel that does not boot; "" when no kernel boots on this machine.
        what: What happened, in one sentence.
        hint: The next step for the user.
    """

    kernel: str
    what: str
    hint: str


class Part(TypedDict):
    """A subtest that a foreign program reports of the test that pytest runs.

    Attributes:
        name: Its name.
        outcome: The value of an :class:`harness.results.outcomes.Outcome`.
        seconds: How long it took; 0 where the program does not say.
        reason: One line: why it failed or was skipped.
        failure: The failure's text.
    """

    name: str
    outcome: str
    seconds: float
    reason: str
    failure: str


class LeakCount(TypedDict):
    """What the leak check counted around a test.

    Attributes:
        settled_ms: Milliseconds until the kernel held the same objects as before, or stopped changing.
        grace_periods: RCU grace periods that were waited for.
        memory_kib: Totals of the kernel's memory before and after, by their names in /proc/meminfo; not judged.
        unchecked: What this kernel does not show, one line each.
    """

    settled_ms: int
    grace_periods: int
    memory_kib: dict[str, list[int]]
    unchecked: list[str]


def values(properties: Iterable[tuple[str, object]], name: str) -> list[Any]:
    """Return the values of all properties with a name, in order."""
    return [value for known, value in properties if known == name]


def troubles(properties: Iterable[tuple[str, object]]) -> list[Trouble]:
    """Return what ended a test, each once, in order; a project may have a property of that name with other words."""
    words = values(properties, TROUBLE)
    return list(dict.fromkeys(trouble for word in words for trouble in Trouble if trouble.value == word))
