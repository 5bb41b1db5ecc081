"""The kernel that selftests are compiled for, where a makefile asks for more than the tree.

That is a kernel's types (BTF), and for tests that are kernel modules its build folder. Upstream's makefiles take those
of the tree's own build, and the types else of the machine that builds, whose kernel is another one or shows none. Here
the tests get those of a kernel that they run on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.errors import GuestCallError, InfrastructureError, KernelFileError
from harness.kernel.types import Choice, Kernel
from harness.kernel.version import KernelVersion
from harness.machines.pool import Pool
from harness.remote import transfer
from harness.vm.machine import Machine
from harness.vm.spec import Needs

_FILE = "/sys/kernel/btf/vmlinux"


@dataclass(frozen=True)
class Against:
    """A kernel that selftests are compiled for.

    Attributes:
        choice: Which.
        kernel: Its files.
        release: What `uname -r` prints on it.
        types: Its types as its own file has them; None where it was built without.
    """

    choice: Choice
    kernel: Kernel
    release: str
    types: bytes | None


def lacking(options: Iterable[str], settings: Mapping[str, str]) -> list[str]:
    """Return those of the options that tests ask for which a kernel was built without, as CONFIG_NAME."""
    return [f"CONFIG_{name}" for name in options if settings.get(name) not in ("y", "m")]


def by_nearness(choices: Iterable[Choice], version: KernelVersion) -> list[Choice]:
    """Return kernels in the order in which the tests of a tree want to be compiled for them.

    Those of the tree's series come first, then the newest: a newer kernel has most of the types that a test names.
    """
    return sorted(choices, key=lambda one: (one.version.series == version.series, one.version), reverse=True)


def kernel_for(version: KernelVersion, choices: Iterable[Choice], pool: Pool, needs: Needs) -> Against | None:
    """Return the kernel that the tests of a tree are compiled for: the first with types, else the first that boots.

    A kernel that does not boot is passed over: the tests that run on it say so.

    Args:
        version: The tree's version.
        choices: The kernels that the tests run on.
        pool: Where their machines come from.
        needs: What the tests ask of a machine.

    Returns:
        None when none of the kernels boots.
    """
    first: Against | None = None
    for choice in by_nearness(choices, version):
        try:
            spec = pool.prepare(choice, needs)
            machine = pool.take(spec)
            try:
                types = _types(machine)
            finally:
                pool.give_back(spec, machine)
        except (InfrastructureError, KernelFileError):
            continue
        found = Against(choice, spec.kernel, machine.release, types)
        if types is not None:
            return found
        first = first or found
    return first


def _types(machine: Machine) -> bytes | None:
    try:
        return transfer.fetch(machine.new_process(), _FILE)
    except GuestCallError:
        return None
