"""What is in a run record. The JSON schema that the package publishes is made from these classes.

A field with a default may be left out in JSON. Whoever adds a field gives it one; whatever else changes a field's
meaning or shape raises VERSION. Imports msgspec and :mod:`harness.results.outcomes`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from harness.results.outcomes import Outcome

FORMAT: Literal["kernel-harness run record"] = "kernel-harness run record"
VERSION: Literal[1] = 1


class Host(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine that tests were started on.

    Attributes:
        name: Its host name.
        system: Its distribution.
        kernel: What `uname -r` prints on it.
        machine: Its architecture.
        processor: Model name of its processor.
        cpus: Processors that this run could use.
        memory: MiB.
    """

    name: str
    system: str = ""
    kernel: str = ""
    machine: str = ""
    processor: str = ""
    cpus: int = 0
    memory: int = 0


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of pytest.

    Attributes:
        id: Different for every run.
        started: When it started, in UTC: "2026-11-22T00:23:20Z".
        seconds: How long it took, preparing kernels included.
        complete: Whether every collected test ran and the run came to its own end.
        exit_status: pytest's exit status; null when the run was killed.
        arguments: The words on pytest's command line.
        revision: `git describe --always --dirty` of the tests' folder; "" where there is none.
        shard: Which part of a larger run this is ("2/5"); "" for a whole one.
        isolation: "vm", "fork" or "boot".
        loaders: Who made the bpf(2) calls.
        workers: Processes of pytest-xdist; 0 without it.
        accelerator: "kvm" or "tcg"; "" when no kernel was run.
        accelerator_reason: Why it was that one.
        host: The machine.
        tools: Versions, by name: "kernel-harness", "python", "pytest", "pytest-xdist", "virtme-ng", "qemu".
        problems: What could not be recorded, for people.
    """

    id: str
    started: str
    host: Host
    seconds: float = 0.0
    complete: bool = False
    exit_status: int | None = None
    arguments: tuple[str, ...] = ()
    revision: str = ""
    shard: str = ""
    isolation: str = ""
    loaders: tuple[str, ...] = ()
    workers: int = 0
    accelerator: str = ""
    accelerator_reason: str = ""
    tools: dict[str, str] = {}
    problems: tuple[str, ...] = ()


class RecordedKernel(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exact kernel.

    Attributes:
        label: What test ids and the other parts of this record call it; different for each kernel of a record.
        version: Upstream version.
        release: What `uname -r` printed on it; "" when it never ran.
        provider: Who brought it: "debian", "built", "local", ...
        key: What its provider knows it by.
        flavour: "cloud", "generic", "minimal", "debug", ...
        origin: Where it came from, for people.
        digest: sha256 of the image that was booted; "" when it could not be had.
        config_digest: sha256 of its configuration file; "" when none came with it.
    """

    label: str
    version: str
    release: str = ""
    provider: str = ""
    key: str = ""
    flavour: str = ""
    origin: str = ""
    digest: str = ""
    config_digest: str = ""


VerdictWord = Literal["as expected", "differs", "observed", "not asked"]
"""What an answer is, compared with the expected one; "observed" when nothing was known for this kernel."""


class Observation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a test saw, and what was known beforehand.

    Attributes:
        sentence: What is promised, for a reader.
        observed: The answer.
        contract: Id of the contract; "" for none.
        takes: What sort of answer it is: "errno", "value", "count" or "time".
        expected: The answer that the contract names for this kernel; null when it names none.
        source: RecordedKernel commit or function that the expectation rests on.
        verdict: "as expected", "differs", "observed" when nothing was known for this kernel, or "not asked".
        note: What else is to be said, that version and probe disagree for instance, or why it was not asked; "" for
            nothing.
    """

    sentence: str
    observed: Any
    contract: str = ""
    takes: str = "value"
    expected: Any = None
    source: str = ""
    verdict: VerdictWord = "observed"
    note: str = ""

    @property
    def was_asked(self) -> bool:
        """Whether there is an answer; the note says why there is none."""
        return self.verdict != "not asked"


class Leak(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kernel object that was there after a test and not before.

    Attributes:
        kind: "fd", "map", "program", "link", "btf", "pin", "memory" and the like.
        text: All that follows in one line.
        id: Its number; null when it has none.
        type: The map's or program's type.
        name: Its name in the kernel.
        made: How it was made: the stack of its creation in the guest where that is known.
        holder: What still holds it.
    """

    kind: str
    text: str
    id: int | None = None
    type: str = ""
    name: str = ""
    made: str = ""
    holder: str = ""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """A complaint in the kernel's log.

    Attributes:
        kind: "WARN", "oops", "KASAN", "RCU stall" and the like.
        title: The line that says what it is.
        fingerprint: The same for the same fault on another boot: its kind and top frames.
        excerpt: The lines of its report, as far as it is shown.
    """

    kind: str
    title: str
    fingerprint: str = ""
    excerpt: str = ""


class ExcusedFault(Fault, frozen=True):
    """A complaint that is known and does not count. It is not in the record.

    Attributes:
        reason: Why it does not count.
        origin: The entry that says so.
    """

    reason: str = ""
    origin: str = ""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One test on one kernel.

    Attributes:
        test: pytest's id of the test without its kernel, so the same on all kernels.
        kernel: The kernel's label.
        run: The run's id.
        outcome: What became of it.
        nodeid: pytest's id, as it can be given to pytest again.
        contract: Id of the contract that it is about; "" for none.
        loader: Who made the bpf(2) calls; "" where the test does not choose.
        trouble: What ended it when no assertion did: values of :class:`harness.results.outcomes.Trouble`.
        reason: One line: why it was skipped, or the failure's message.
        setup: Seconds until the test began, its machine included.
        call: Seconds of the test itself.
        teardown: Seconds after it.
        start: Seconds that its machine took to start, of those in `setup`; null when it had none.
        boot: Seconds from QEMU's start to a guest that answers, when the kernel was booted that its machine is a
            clone of (which an earlier run may have done); null when that is not known.
        attempts: How often it was run; the rest is about the last time.
        observations: What it saw.
        leaks: What it left behind.
        faults: What the kernel complained of.
        failure: Text of the failure, its middle left out when it is long.
        output: What was printed meanwhile, in host and guest, of a test that failed; its middle left out likewise.
    """

    test: str
    kernel: str
    run: str
    outcome: Outcome
    nodeid: str = ""
    contract: str = ""
    loader: str = ""
    trouble: tuple[str, ...] = ()
    reason: str = ""
    setup: float = 0.0
    call: float = 0.0
    teardown: float = 0.0
    start: float | None = None
    boot: float | None = None
    attempts: int = 1
    observations: tuple[Observation, ...] = ()
    leaks: tuple[Leak, ...] = ()
    faults: tuple[Fault, ...] = ()
    failure: str = ""
    output: str = ""

    @property
    def seconds(self) -> float:
        """How long all of it took."""
        return self.setup + self.call + self.teardown


class Deselected(msgspec.Struct, frozen=True):
    """A test that is not for a kernel.

    Attributes:
        test: As in :class:`Result`.
        kernel: The kernel's label.
        condition: The versions that it is for.
    """

    test: str
    kernel: str
    condition: str


class NotRun(msgspec.Struct, frozen=True):
    """A test that was to run on a kernel and did not, because the run ended before.

    Attributes:
        test: As in :class:`Result`.
        kernel: The kernel's label.
    """

    test: str
    kernel: str


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run, or several that were merged. Tests that run on no kernel are not in it.

    Attributes:
        format: What this is.
        version: Of the format.
        runs: The runs, in the order of their start.
        kernels: The kernels, oldest first.
        results: Each test on each kernel, once.
        left_out: Tests that are not for some of the kernels.
        not_run: Tests that were not reached.
    """

    format: Literal["kernel-harness run record"]
    version: Literal[1]
    runs: tuple[Run, ...] = ()
    kernels: tuple[RecordedKernel, ...] = ()
    results: tuple[Result, ...] = ()
    left_out: tuple[Deselected, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every test that was to run did."""
        return bool(self.runs) and all(run.complete for run in self.runs) and not self.not_run
