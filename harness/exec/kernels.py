"""Runs a command on one kernel after the other."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kernel
from harness.checks.kernel_log import KernelLog
from harness.checks.known_faults import load
from harness.errors import InfrastructureError, KernelFileError
from harness.exec.parcel import Parcel
from harness.exec.run import Done, Wishes, lost, run_on
from harness.exec.streams import Input, Replayed, Writer, flush
from harness.image.rootfs import Rootfs
from harness.kernel.catalog import policy
from harness.kernel.selection import Policy, meets
from harness.kernel.selector import parse_condition
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.results.outcomes import Outcome, counted
from harness.util import architecture
from harness.util.architecture import Architecture
from harness.vm.spec import Needs

if TYPE_CHECKING:
    from harness.exec.record import ExecRecord

Packer = Callable[[Architecture, Path | None, Rootfs | None], Parcel]

_KEPT = 64 << 20
"""Bytes of output that are searched for results."""


def exec_on_kernels(
    pack_for: Packer,
    wishes: Wishes,
    selectors: Sequence[str],
    needs: Needs,
    *,
    settings: Settings,
    say: Callable[[str], None],
    record: ExecRecord | None = None,
    known_faults: Sequence[Path] = (),
) -> int:
    """Run it, each time on a machine of its own.

    Args:
        pack_for: Returns the command and its files for a guest of an architecture, with its userland and the root file
            system.
        wishes: How to run it.
        selectors: The kernels.
        needs: What is asked of the machines.
        settings: How machines are run.
        say: Prints a line of progress.
        record: The run record to write.
        known_faults: Files with known faults, besides the package's list.

    Returns:
        The exit status of this command: the program's with one kernel, 0 or 1 with several, 3 when one was lost.

    Raises:
        SelectorError: A selector names no kernel.
        UsageError: The program cannot be started.
    """
    choices = kernel.resolve(list(selectors), progress=say)
    pool = Pool(settings, say)

    def parcel_for(name: str, userland: Path | None = None) -> Parcel:
        return pack_for(architecture.require(name), userland, pool.rootfs(needs.rootfs, name))

    # What cannot run is refused before anything is downloaded.
    parcels = {name: parcel_for(name) for name in {one.architecture for one in choices}}
    for note in next(iter(parcels.values())).notes:
        say(f"harness: {note}")
    known, expired = load(known_faults)
    for line in expired:
        say(f"harness: known fault: {line}")
    of_data = policy()
    source = Replayed(Input())
    width = max(len(choice.label) for choice in choices)
    dones: list[Done] = []
    try:
        for choice in choices:
            prefix = f"{choice.label:{width}} | " if len(choices) > 1 else ""
            source.rewind()
            began = time.monotonic()
            spec, release = None, ""
            try:
                spec = pool.prepare(choice, needs)
                parcel = parcels[choice.architecture]
                if spec.image.userland is not None:
                    parcel = parcel_for(choice.architecture, spec.image.userland)
                machine = pool.take(spec)
                release = machine.release
                try:
                    flush()
                    log = KernelLog((), known, functools.partial(is_for, choice, of_data))
                    out = Writer(1, prefix, keep=_KEPT if wishes.results is not None else 0)
                    done = run_on(machine, parcel, wishes, source, out, Writer(2, prefix), log)
                finally:
                    pool.give_back(spec, machine)
            except (InfrastructureError, KernelFileError) as error:
                # The other kernels have something to say all the same.
                done = lost(str(error))
            dones.append(done)
            seconds = time.monotonic() - began
            for text in (*done.excused, *done.said):
                say(f"harness: {choice.label}: {text}")
            if prefix:
                how = "could not be run" if done.outcome is Outcome.INFRASTRUCTURE else f"exit status {done.status}"
                say(f"harness: {choice.label:{width}}  {how}{_counts(done)}  {seconds:.1f} s")
            if record is not None:
                record.add_choice(choice, spec, release)
                record.add(choice.label, Path(parcels[choice.architecture].argv[0]).name, done, seconds)
    finally:
        pool.close()
    status = _status(dones)
    if record is not None:
        record.finish(status)
    return status


def is_for(choice: Choice, of_data: Policy, condition: str) -> bool:
    """Return whether a condition, as the marker `kernel` takes it, matches a kernel."""
    return meets(choice, parse_condition(condition), of_data)


def _status(dones: Sequence[Done]) -> int:
    if any(done.outcome is Outcome.INFRASTRUCTURE for done in dones):
        return InfrastructureError.exit_status
    return dones[0].status if len(dones) == 1 else int(any(done.status for done in dones))


def _counts(done: Done) -> str:
    if done.suite is None:
        return ""
    return "  " + (counted(case.outcome for case in done.suite.cases) or "no tests")
