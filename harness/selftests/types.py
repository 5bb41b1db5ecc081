"""The kernel's types (BTF) that selftests are compiled against.

Upstream's makefiles take those of the tree's own build, and else those of the machine that builds, whose kernel is
another one or shows none. Here the tests get those of a kernel that they run on.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import GuestCallError, InfrastructureError, KernelFileError
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.machines.pool import Pool
from harness.remote import transfer
from harness.vm.spec import Needs

_FILE = "/sys/kernel/btf/vmlinux"


def by_nearness(choices: Iterable[Choice], version: KernelVersion) -> list[Choice]:
    """Return kernels in the order in which the tests of a tree want their types.

    Those of the tree's series come first, then the newest: a newer kernel has most of the types that a test names.
    """
    return sorted(choices, key=lambda one: (one.version.series == version.series, one.version), reverse=True)


def types_for(
    version: KernelVersion, choices: Iterable[Choice], pool: Pool, needs: Needs
) -> tuple[Choice, bytes] | None:
    """Return the kernel whose types the tests of a tree get, and its types as a file has them.

    A kernel that was built without them, or that does not boot, is passed over: the tests that run on it say so.

    Args:
        version: The tree's version.
        choices: The kernels that the tests run on.
        pool: Where their machines come from.
        needs: What the tests ask of a machine.

    Returns:
        None when none of the kernels has types.
    """
    for choice in by_nearness(choices, version):
        try:
            spec = pool.prepare(choice, needs)
            machine = pool.take(spec)
            try:
                return choice, transfer.fetch(machine.new_process(), _FILE)
            finally:
                pool.give_back(spec, machine)
        except (GuestCallError, InfrastructureError, KernelFileError):
            continue
    return None
