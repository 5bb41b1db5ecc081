"""Tries an object on one kernel after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import kernel
from harness.check import loaders
from harness.check.object_file import ObjectFile, initial_values, read_object
from harness.check.plan import Plan
from harness.check.results import Author, Kind, Result, Verdict
from harness.check.trials import Trials
from harness.errors import GuestError, InfrastructureError, UsageError
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.util import clang
from harness.vm.machine import Machine
from harness.vm.spec import MachineSpec, Needs


def compiled(path: Path, flags: Sequence[str] = ()) -> Path:
    """Return the object to try: the file itself, or what a C source compiles to.

    Args:
        path: The file.
        flags: More flags for clang.

    Raises:
        UsageError: There is no such file, or it does not compile.
    """
    return clang.build(clang.find_source(path), flags=flags) if path.suffix == ".c" else path


class Machines:
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
        machines = Machines(pool, choice, Needs(memory=plan.memory, modules=plan.modules))
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
    plans: Sequence[Plan], selectors: Sequence[str], *, accel: str, say: Callable[[str], None]
) -> list[Result]:
    """Try objects on kernels. What can be judged on this machine is judged before anything boots.

    Args:
        plans: What to try, one for each object.
        selectors: The kernels.
        accel: "auto", "kvm" or "tcg".
        say: Prints a line of progress.

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
        tries.append((plan, file, loaders.find(plan.loader) if plan.loader.words else None))
    pool = Pool(Settings(accel=accel), say)
    by_object: dict[str, list[Result]] = {plan.name: [] for plan in plans}
    try:
        for choice in kernel.resolve(list(selectors), progress=say):
            for plan, file, loader in tries:
                found = check(pool, choice, plan, file, loader)
                bad = sum(not one.is_good for one in found)
                say(f"harness: {plan.name} on {choice.label}: {len(found)} rows, {bad or 'none'} refused")
                by_object[plan.name] += found
    finally:
        pool.close()
    return [one for results in by_object.values() for one in results]
