"""Tries an object on one kernel after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import kernel
from harness.check.objects import Plan, check, lost
from harness.check.table import Result
from harness.errors import GuestError, InfrastructureError
from harness.machines.pool import Pool, Settings
from harness.util import clang


def compiled(path: Path) -> Path:
    """Return the object to try: the file itself, or what a C source compiles to."""
    return clang.build(clang.find_source(path)) if path.suffix == ".c" else path


def check_on_kernels(plan: Plan, selectors: Sequence[str], *, accel: str, say: Callable[[str], None]) -> list[Result]:
    """Try it; a kernel that cannot be run is a result too.

    Args:
        plan: What to try.
        selectors: The kernels.
        accel: "auto", "kvm" or "tcg".
        say: Prints a line of progress.

    Raises:
        SelectorError: A selector names no kernel.
    """
    pool = Pool(Settings(accel=accel), say)
    results: list[Result] = []
    try:
        for choice in kernel.resolve(list(selectors), progress=say):
            try:
                spec = pool.prepare(choice)
                machine = pool.take(spec)
                try:
                    results += check(machine, plan, choice.label)
                finally:
                    pool.give_back(spec, machine)
            except (InfrastructureError, GuestError) as error:
                # The other kernels have something to say all the same.
                say(f"harness: {choice.label}: {error}")
                results.append(lost(choice.label, plan, error))
    finally:
        pool.close()
    return results
