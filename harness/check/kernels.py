"""Tries objects on kernels, several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness import kernel
from harness.check.object_file import ObjectFile, initial_values, read_object
from harness.check.plan import Plan
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.table import tally
from harness.errors import GuestError, InfrastructureError, UsageError
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings, available_mib
from harness.util import architecture, clang, tables, workers
from harness.util.architecture import Architecture
from harness.vm.machine import Machine
from harness.vm.spec import Acceleration, MachineSpec, Needs

if TYPE_CHECKING:
    from harness.check.loaders import Found
    from harness.check.record import CheckRecord
    from harness.check.trials import Trials
    from harness.results.types import RecordedKernel


@dataclass(frozen=True)
class Try:
    """What is tried on the kernels of one architecture.

    Attributes:
        plan: The plan. Its path is that of the object, also when the user gave a C source.
        file: The object.
        loader: The user's loader; None for none.
        wanted: The architecture.
    """

    plan: Plan
    file: ObjectFile
    loader: Found | None
    wanted: Architecture

    @property
    def mismatch(self) -> str:
        """Why no kernel of the architecture can load the object; "" when one can."""
        its, wanted = self.file.byte_order, self.wanted
        return "" if its == wanted.byte_order else f"the object is {its}-endian, and {wanted.title} {wanted.byte_order}"

    @property
    def loader_mismatch(self) -> str:
        """Why no guest of the architecture can run the user's loader; "" when one can."""
        its = self.loader.architecture if self.loader is not None else None
        if its is None or its is self.wanted:
            return ""
        return f"the loader is for {its.title}, and the guest is {self.wanted.title}"

    @property
    def hint(self) -> str:
        """What to do about an object of the other byte order."""
        return f"compile it with -target {clang.target(self.wanted)}, or give the C source"


def prepare(plan: Plan, wanted: Architecture) -> Try:
    """Compile a plan's source for an architecture, and judge on this machine what can be judged here.

    Args:
        plan: The plan.
        wanted: The architecture of the kernels.

    Raises:
        UsageError: There is no such file, it does not compile, or it, a variable's value or the loader cannot be tried.
    """
    if plan.path.suffix == ".c":
        made = clang.build(clang.find_source(plan.path), flags=plan.flags, wanted=None if wanted.is_own else wanted)
        plan = replace(plan, path=made)
    file = read_object(plan.path)
    initial_values(file, plan)
    return Try(plan, file, _found(plan), wanted)


def _found(plan: Plan) -> Found | None:
    """Return the user's loader; None for none."""
    if not plan.loader.words:
        return None
    from harness.check import loaders

    return loaders.find(plan.loader)


class PoolMachines:
    """Fresh machines of one kernel, from a pool. The first one starts in the background.

    Args:
        pool: The pool.
        choice: The kernel.
        needs: What the plan asks of a machine.
    """

    def __init__(self, pool: Pool, choice: Choice, needs: Needs) -> None:
        self._pool = pool
        self._spec: MachineSpec = pool.prepare(choice, needs)
        pool.save(choice, needs)
        pool.expect(choice, needs)

    def take(self) -> Machine:
        """Return a machine that nothing ran on."""
        return self._pool.take(self._spec)

    def give_back(self, machine: Machine) -> None:
        """Take a machine back, which may be dead."""
        self._pool.spoil(machine)
        self._pool.give_back(self._spec, machine)


_GUEST_OVERHEAD_MIB = 128
"""Memory that a guest costs beside its own: QEMU, its translated code, a worker."""


def _trials() -> type[Trials]:
    """Return the class, and load what prints results too: while a machine starts, this process has time."""
    from harness.check.trials import Trials

    tables.load()
    return Trials


def check(pool: Pool, choice: Choice, one: Try) -> list[Result]:
    """Try everything on one kernel; a kernel that cannot be run is a result too.

    Args:
        pool: Where machines come from.
        choice: The kernel.
        one: What is tried: what :func:`prepare` returned for the kernel's architecture.

    Raises:
        UsageError: The object has no such program or map.
    """
    plan, loader = one.plan, one.loader
    if one.mismatch:
        return [_refused(choice, plan.name, plan.name, Kind.OBJECT, "open", one.mismatch, one.hint)]
    results: list[Result] = []
    try:
        machines = PoolMachines(pool, choice, Needs(memory=plan.memory, modules=plan.modules))
        results += _trials()(machines, plan, one.file, choice.label).all()
        if loader is not None and one.loader_mismatch:
            name = loader.program.name
            results.append(_refused(choice, plan.name, name, Kind.LOADER, "run", one.loader_mismatch))
        elif loader is not None:
            from harness.check import loaders

            results.append(loaders.run(machines, plan, loader, choice.label))
    except (InfrastructureError, GuestError) as error:
        # What came before it stands, and the other kernels have something to say all the same.
        name = loader.program.name if results and loader is not None else plan.name
        kind = Kind.LOADER if results else Kind.OBJECT
        results.append(
            Result(choice.label, plan.name, name, kind, Verdict.LOST, "start", 0, Author.HARNESS, "harness", error.what)
        )
    return results


def _refused(choice: Choice, file: str, row: str, kind: Kind, step: str, line: str, hint: str = "") -> Result:
    """Return the row of what is refused on this machine."""
    author = Author.HARNESS
    return Result(choice.label, file, row, kind, Verdict.REFUSED, step, 0, author, author.value, line, hint)


def check_on_kernels(
    plans: Sequence[Plan],
    selectors: Sequence[str],
    settings: Settings,
    *,
    say: Callable[[str], None],
    record: CheckRecord | None = None,
) -> list[Result]:
    """Try objects on kernels. What can be judged on this machine is judged before anything boots.

    Args:
        plans: What to try, one for each object.
        selectors: The kernels.
        settings: How machines are run.
        say: Prints a line of progress.
        record: The run record to write; the caller finishes it.

    Raises:
        UsageError: An object or a loader cannot be tried on any of the kernels, or two objects have one name.
        SelectorError: A selector names no kernel.
    """
    # An error in a source is reported before a package source is asked for kernels.
    tries = {name: _prepared(plans, name) for name in kernel.named_architectures(selectors)}
    choices = kernel.resolve(list(selectors), progress=say)
    for choice in choices:
        if choice.architecture not in tries:
            tries[choice.architecture] = _prepared(plans, choice.architecture)
    for number in range(len(plans)):
        _require_a_kernel([(choice.label, tries[choice.architecture][number]) for choice in choices])
    at_once = _at_once(max(plan.memory for plan in plans))
    jobs = _jobs(choices, range(len(plans)), at_once)
    if len(jobs) > 1:
        _trials()  # before the processes are forked, not in each of them

    def work(job: tuple[Choice, Sequence[int]], say: Callable[[str], None]) -> Iterator[_Tried]:
        choice, numbers = job
        pool = Pool(settings, say)
        try:
            for number in numbers:
                results = check(pool, choice, tries[choice.architecture][number])
                if record is None:
                    yield _Tried(number, results, choice.label)
                else:
                    yield _recorded(number, results, choice, pool.known(choice, Needs()))
        finally:
            pool.close()

    found: dict[tuple[int, int], list[Result]] = {}
    count = sum(len(numbers) for _, numbers in jobs)
    with contextlib.closing(workers.do(jobs, work, at_once=at_once, say=say)) as done:
        for at, tried in done:
            found[tried.number, at] = tried.results
            progress = f" ({len(found)} of {count} done)" if count > 1 else ""
            say(f"harness: {tried.results[0].object} on {tried.label}: {tally(tried.results)}{progress}")
            if record is not None and tried.kernel is not None:
                record.add(tried.kernel, tried.results, tried.acceleration)
    return [result for key in sorted(found) for result in found[key]]


def _prepared(plans: Sequence[Plan], name: str) -> list[Try]:
    """Prepare plans for an architecture of this name; errors as for :func:`prepare`, and when two have one name."""
    tries = [prepare(plan, architecture.require(name)) for plan in plans]
    names = [one.plan.name for one in tries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"several objects are called {', '.join(twice)}", expected="objects with names of their own")
    return tries


def _require_a_kernel(tries: Sequence[tuple[str, Try]]) -> None:
    """Refuse what can be tried on none of the kernels.

    Args:
        tries: What is tried, for each kernel's label.
    """
    _, first = tries[0]
    labels = ", ".join(label for label, _ in tries)
    if all(one.mismatch for _, one in tries):
        raise UsageError(
            f"{first.plan.path} is a {first.file.byte_order}-endian object, and no kernel of {labels} is",
            expected=f"a {first.wanted.byte_order}-endian object, or a kernel of another architecture",
            hint=first.hint,
        )
    if first.loader is not None and all(one.loader_mismatch for _, one in tries):
        raise UsageError(
            f"the loader {first.loader.program} cannot run on {labels}: {first.loader_mismatch}",
            expected=f"a program for {first.wanted.title}, or a script in Python",
        )


@dataclass(frozen=True)
class _Tried:
    """The results of an object on a kernel.

    Attributes:
        number: The object's position.
        results: The results.
        label: The kernel's name in results.
        kernel: The kernel, as records have it; None when no record is written.
        acceleration: How it was run; None when it was not.
    """

    number: int
    results: list[Result]
    label: str
    kernel: RecordedKernel | None = None
    acceleration: Acceleration | None = None


def _recorded(number: int, results: list[Result], choice: Choice, spec: MachineSpec | None) -> _Tried:
    """Return results with what a record has of the kernel.

    Args:
        number: The object's position.
        results: The results.
        choice: The kernel.
        spec: Its machine; None when it could not be run.
    """
    from harness.results.kernels import recorded_kernel

    known = recorded_kernel(choice, spec, spec.kernel.release if spec else "")
    return _Tried(number, results, choice.label, known, spec.acceleration if spec else None)


def _at_once(memory: int) -> int:
    """Return how many kernels are tried at once: one for each processor, as far as the memory suffices.

    Args:
        memory: MiB of a guest.
    """
    return max(1, min(workers.processors(), available_mib() // (memory + _GUEST_OVERHEAD_MIB)))


def _jobs(choices: Sequence[Choice], tries: Sequence[int], at_once: int) -> list[tuple[Choice, Sequence[int]]]:
    """Return what each process does: all objects on one kernel, or a part of them where processors would be idle."""
    shares = min(len(tries), -(-at_once // len(choices)))
    return [(choice, tries[share::shares]) for choice in choices for share in range(shares)]
