"""Tries objects on kernels, several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import kernel
from harness.check import loaders
from harness.check.object_file import ObjectFile, initial_values, read_object
from harness.check.plan import Plan
from harness.check.record import CheckRecord
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.trials import Trials
from harness.errors import GuestError, InfrastructureError, UsageError
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings, available_mib
from harness.results.kernels import chosen_kernel, recorded_kernel
from harness.results.types import RecordedKernel
from harness.util import clang, workers
from harness.vm.machine import Machine
from harness.vm.spec import Acceleration, MachineSpec, Needs


def compiled(path: Path, flags: Sequence[str] = ()) -> Path:
    """Return the object to try: the file itself, or what a C source compiles to.

    Args:
        path: The file.
        flags: More flags for clang.

    Raises:
        UsageError: There is no such file, or it does not compile.
    """
    return clang.build(clang.find_source(path), flags=flags) if path.suffix == ".c" else path


class PoolMachines:
    """Fresh machines of one kernel, from a pool.

    Args:
        pool: The pool.
        choice: The kernel.
        needs: What the plan asks of a machine.
    """

    def __init__(self, pool: Pool, choice: Choice, needs: Needs) -> None:
        self._pool = pool
        self._spec: MachineSpec = pool.prepare(choice, needs)

    def take(self) -> Machine:
        """Return a machine that nothing ran on."""
        return self._pool.take(self._spec)

    def give_back(self, machine: Machine) -> None:
        """Take a machine back, which may be dead."""
        self._pool.spoil(machine)
        self._pool.give_back(self._spec, machine)


_GUEST_OVERHEAD_MIB = 128
"""Memory that a guest costs beside its own: QEMU, its translated code, a worker."""


def check(pool: Pool, choice: Choice, plan: Plan, file: ObjectFile, loader: loaders.Found | None) -> list[Result]:
    """Try everything on one kernel; a kernel that cannot be run is a result too.

    Args:
        pool: Where machines come from.
        choice: The kernel.
        plan: The plan.
        file: The object.
        loader: The user's loader; None for none.

    Raises:
        UsageError: The object has no such program or map.
    """
    results: list[Result] = []
    try:
        machines = PoolMachines(pool, choice, Needs(memory=plan.memory, modules=plan.modules))
        results += Trials(machines, plan, file, choice.label).all()
        if loader is not None:
            results.append(loaders.run(machines, plan, loader, choice.label))
    except (InfrastructureError, GuestError) as error:
        # What came before it stands, and the other kernels have something to say all the same.
        name = loader.program.name if results and loader is not None else plan.name
        kind = Kind.LOADER if results else Kind.OBJECT
        results.append(
            Result(choice.label, plan.name, name, kind, Verdict.LOST, "start", 0, Author.HARNESS, "harness", error.what)
        )
    return results


def check_on_kernels(
    plans: Sequence[Plan],
    selectors: Sequence[str],
    *,
    accel: str,
    say: Callable[[str], None],
    record: CheckRecord | None = None,
) -> list[Result]:
    """Try objects on kernels. What can be judged on this machine is judged before anything boots.

    Args:
        plans: What to try, one for each object.
        selectors: The kernels.
        accel: "auto", "kvm" or "tcg".
        say: Prints a line of progress.
        record: The run record to write; the caller finishes it.

    Raises:
        UsageError: An object or a loader cannot be tried on any kernel, or two objects have one name.
        SelectorError: A selector names no kernel.
    """
    names = [plan.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"several objects are called {', '.join(twice)}", expected="objects with names of their own")
    tries = []
    for plan in plans:
        file = read_object(plan.path)
        initial_values(file, plan)
        tries.append(_Try(plan, file, loaders.find(plan.loader) if plan.loader.words else None))
    at_once = _at_once(max(plan.memory for plan in plans))
    jobs = _jobs(kernel.resolve(list(selectors), progress=say), range(len(tries)), at_once)

    def work(job: tuple[Choice, Sequence[int]], say: Callable[[str], None]) -> Iterator[_Tried]:
        choice, numbers = job
        pool = Pool(Settings(accel=accel), say)
        try:
            for number in numbers:
                one = tries[number]
                results = check(pool, choice, one.plan, one.file, one.loader)
                spec = pool.known(choice, Needs())
                if spec is None:
                    yield _Tried(number, results, chosen_kernel(choice), None)
                else:
                    known = recorded_kernel(choice, spec.kernel, spec.kernel.release)
                    yield _Tried(number, results, known, spec.acceleration)
        finally:
            pool.close()

    found: dict[tuple[int, int], list[Result]] = {}
    count = sum(len(numbers) for _, numbers in jobs)
    with contextlib.closing(workers.do(jobs, work, at_once=at_once, say=say)) as done:
        for at, tried in done:
            found[tried.number, at] = tried.results
            bad = sum(not result.is_good for result in tried.results)
            of = f" ({len(found)} of {count})" if count > 1 else ""
            where = f"{plans[tried.number].name} on {tried.kernel.label}"
            say(f"harness: {where}: {len(tried.results)} rows, {bad or 'none'} refused{of}")
            if record is not None:
                record.add(tried.kernel, tried.results, tried.acceleration)
    return [result for key in sorted(found) for result in found[key]]


@dataclass(frozen=True)
class _Try:
    """What is tried on each kernel.

    Attributes:
        plan: The plan.
        file: The object.
        loader: The user's loader; None for none.
    """

    plan: Plan
    file: ObjectFile
    loader: loaders.Found | None


@dataclass(frozen=True)
class _Tried:
    """The results of an object on a kernel.

    Attributes:
        number: The object's position.
        results: The results.
        kernel: The kernel, as records have it.
        acceleration: How it was run; None when it was not.
    """

    number: int
    results: list[Result]
    kernel: RecordedKernel
    acceleration: Acceleration | None


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
