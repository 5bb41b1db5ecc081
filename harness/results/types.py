"""The content of a run record. The JSON schema of the package is generated from these classes.

A field with a default may be missing in JSON. A new field must have a default; any other change of a field's meaning or
shape increases VERSION.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from harness.results.outcomes import Outcome

FORMAT: Literal["kernel-harness run record"] = "kernel-harness run record"
VERSION: Literal[1] = 1


class Host(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine on which pytest was started.

    Attributes:
        name: Its host name.
        system: Its distribution.
        kernel: Its `uname -r`.
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


class RecordedRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of pytest.

    Attributes:
        id: Unique for each run.
        started: When it started, in UTC: "2026-11-22T00:23:20Z".
        seconds: Duration, including the preparation of kernels.
        complete: Whether every collected test ran and the run ended normally.
        exit_status: pytest's exit status; null when the run was killed.
        arguments: pytest's command line.
        revision: `git describe --always --dirty` of the tests' folder; "" without a repository.
        shard: Which part of a larger run this is ("2/5"); "" for a complete run.
        isolation: "vm", "fork" or "boot".
        loaders: The loaders of bpf(2) calls.
        workers: Processes of pytest-xdist; 0 without it.
        accelerator: "kvm" or "tcg"; "" when no kernel ran.
        accelerator_reason: Why this accelerator was used.
        host: The machine.
        tools: Versions, by name: "kernel-harness", "python", "pytest", "pytest-xdist", "virtme-ng", "qemu".
        problems: What could not be recorded, as text for the user.
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
        label: Its name in test ids and in this record; unique in a record.
        version: Upstream version.
        release: Its `uname -r`; "" when it never ran.
        provider: Its provider: "debian", "built", "local", ...
        key: The provider's name for it.
        flavour: "cloud", "generic", "minimal", "debug", ...
        origin: Where it came from, as text for the user.
        digest: sha256 of the booted image; "" when the kernel was unavailable.
        config_digest: sha256 of its configuration file; "" without one.
        architecture: "amd64", "arm64", ...; "" in records from before there was a choice: amd64.
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
    architecture: str = ""


VerdictWord = Literal["as expected", "differs", "observed", "not asked"]
"""What an answer is, compared with the expected one; "observed" when nothing was known for this kernel."""


class Observation(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer that a test observed, with the expectation.

    Attributes:
        sentence: The contract's sentence.
        observed: The answer.
        contract: Id of the contract; "" for none.
        takes: The kind of answer: "errno", "value", "count" or "time".
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
        """Whether there is an answer; else the note says why not."""
        return self.verdict != "not asked"


class Leak(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kernel object that existed after a test and not before.

    Attributes:
        kind: "fd", "map", "program", "link", "btf", "pin", "memory" and the like.
        text: All that follows in one line.
        id: Its number; null when it has none.
        type: The map's or program's type.
        name: Its name in the kernel.
        made: Where it was created: the stack in the guest, if known.
        holder: What holds it.
    """

    kind: str
    text: str
    id: int | None = None
    type: str = ""
    name: str = ""
    made: str = ""
    holder: str = ""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fault in the kernel log.

    Attributes:
        kind: "WARN", "oops", "KASAN", "RCU stall" and the like.
        title: The line that names the fault.
        fingerprint: Its kind and top frames: equal for the same fault on another boot.
        excerpt: The lines of its report, as far as it is shown.
    """

    kind: str
    title: str
    fingerprint: str = ""
    excerpt: str = ""


class ExcusedFault(Fault, frozen=True):
    """A complaint that is known and does not count. It is not in the record.

    Attributes:
        reason: Why it does not fail tests.
        origin: The entry in a list of known faults.
    """

    reason: str = ""
    origin: str = ""


class RecordedResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One test on one kernel.

    Attributes:
        test: pytest's id of the test without its kernel; equal on all kernels.
        kernel: The kernel's label.
        run: The run's id.
        outcome: The outcome.
        nodeid: pytest's id, usable on pytest's command line.
        contract: Id of its contract; "" for none.
        loader: The loader of bpf(2) calls; "" when the test does not choose.
        trouble: What ended it when no assertion did: values of :class:`harness.results.outcomes.Trouble`.
        reason: One line: why it was skipped, or the failure's message.
        setup: Seconds until the test began, including the start of its machine.
        call: Seconds of the test itself.
        teardown: Seconds after it.
        start: Seconds, as part of `setup`, for the start of its machine; null without a machine.
        boot: Seconds from QEMU's start to a guest that answers, in the boot of this clone's template (possibly in an
            earlier run); null when unknown.
        attempts: Number of attempts; all other fields are about the last attempt.
        lost: Why an earlier attempt was lost with its machine.
        observations: Its observations.
        leaks: Kernel objects that it left behind.
        faults: Faults that the kernel reported.
        cost: What the verification of a program cost, by the names of :data:`harness.results.cost.FIGURES`.
        failure: Text of the failure; the middle of a long text is omitted.
        output: Output of a failed test in host and guest; the middle of a long text is omitted.
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
    lost: tuple[str, ...] = ()
    observations: tuple[Observation, ...] = ()
    leaks: tuple[Leak, ...] = ()
    faults: tuple[Fault, ...] = ()
    cost: dict[str, int] = {}
    failure: str = ""
    output: str = ""

    @property
    def seconds(self) -> float:
        """The total duration."""
        return self.setup + self.call + self.teardown


class Deselected(msgspec.Struct, frozen=True):
    """A test that is not for a kernel.

    Attributes:
        test: As in :class:`RecordedResult`.
        kernel: The kernel's label.
        condition: The versions that it is for.
    """

    test: str
    kernel: str
    condition: str


class NotRun(msgspec.Struct, frozen=True):
    """A test that should have run on a kernel, but the run ended earlier.

    Attributes:
        test: As in :class:`RecordedResult`.
        kernel: The kernel's label.
    """

    test: str
    kernel: str


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run, or several merged runs. Tests without a kernel are not in it.

    Attributes:
        format: The format's name.
        version: The format's version.
        runs: The runs, in the order of their start.
        kernels: The kernels, oldest first.
        results: Each test on each kernel, once.
        left_out: Tests that are not for some of the kernels.
        not_run: Tests that should have run and did not.
    """

    format: Literal["kernel-harness run record"]
    version: Literal[1]
    runs: tuple[RecordedRun, ...] = ()
    kernels: tuple[RecordedKernel, ...] = ()
    results: tuple[RecordedResult, ...] = ()
    left_out: tuple[Deselected, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every test that should run did."""
        return bool(self.runs) and all(run.complete for run in self.runs) and not self.not_run
