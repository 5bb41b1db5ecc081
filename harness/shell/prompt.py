"""A Python prompt in a guest on the test image, the machine that tests run on."""

from __future__ import annotations

from harness.kernel.types import Choice
from harness.machines.pool import Pool
from harness.remote.prompt import GuestPrompt
from harness.shell.console import interact
from harness.vm.spec import Needs


def open_prompt(pool: Pool, choice: Choice, needs: Needs) -> int:
    """Take a machine, and give it back when the person leaves.

    Args:
        pool: Has the machines.
        choice: The kernel.
        needs: The machine's memory, CPUs and modules.

    Returns:
        The exit status, as :func:`harness.shell.console.interact` has it.
    """
    spec = pool.prepare(choice, needs)
    machine = pool.take(spec)
    try:
        return interact(GuestPrompt(machine))
    finally:
        pool.give_back(spec, machine)
