"""What a kernel's configuration must have so that the guest boots: the table `kernels/boot.toml`.

A kernel that lacks something prints nothing and answers nothing, and a boot says so only by a time-out. Its
configuration says what is missing at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import KernelFileError
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from harness.util.data import read_toml


@dataclass(frozen=True)
class BootNeed:
    """One row of the table.

    Attributes:
        config: The symbol, without "CONFIG_".
        purpose: What the harness needs it for.
        module: The module that may bring it instead, or "".
        where: The symbols one of which must be "y" for this to apply, with spaces between them, or "".
        since: The first version that has the symbol; earlier ones do what it stands for.
    """

    config: str
    purpose: str
    module: str = ""
    where: str = ""
    since: str = ""


def table(kind: str = "need") -> tuple[BootNeed, ...]:
    """Return the table of what a boot needs, or of what a "network" needs besides."""
    return tuple(BootNeed(**row) for row in read_toml("kernels", "boot.toml")[kind])


def missing(settings: Mapping[str, str], needs: Sequence[BootNeed], *, has_modules: bool) -> list[BootNeed]:
    """Return what a configuration lacks. Pure.

    Args:
        settings: Values by symbol.
        needs: The table.
        has_modules: Whether the kernel's module files are here.
    """
    return [need for need in _apply(settings, needs) if not _is_there(need, settings, has_modules=has_modules)]


def as_modules(settings: Mapping[str, str], needs: Sequence[BootNeed]) -> list[str]:
    """Return the modules that the guest image must have for a boot. Pure.

    Args:
        settings: Values by symbol.
        needs: The table.
    """
    return [need.module for need in _apply(settings, needs) if need.module and settings.get(need.config) == "m"]


def _apply(settings: Mapping[str, str], needs: Sequence[BootNeed]) -> list[BootNeed]:
    return [need for need in needs if not need.where or any(settings.get(one) == "y" for one in need.where.split())]


def _is_there(need: BootNeed, settings: Mapping[str, str], *, has_modules: bool) -> bool:
    value = settings.get(need.config)
    return value == "y" or (value == "m" and bool(need.module) and has_modules)


def modules_for_boot(kernel: Kernel) -> list[str]:
    """Check a kernel's configuration, and return the modules that its guest image must have.

    A kernel without a configuration is not checked.

    Raises:
        KernelFileError: It lacks something; the error names each CONFIG.
    """
    if kernel.settings is None:
        return []
    return _modules_for(kernel, kernel.settings, table(), "cannot boot the guest")


def modules_for_network(kernel: Kernel) -> list[str]:
    """Check a kernel's configuration, and return the modules that a guest with network cards must have.

    Raises:
        KernelFileError: It lacks something; the error names each CONFIG.
    """
    needs = table("network")
    if kernel.settings is None:
        return [need.module for need in needs if need.module]
    return _modules_for(kernel, kernel.settings, needs, "cannot have a network card")


def _modules_for(kernel: Kernel, settings: Mapping[str, str], needs: Sequence[BootNeed], what: str) -> list[str]:
    needs = [need for need in needs if not need.since or kernel.version >= KernelVersion.parse(need.since)]
    lacks = missing(settings, needs, has_modules=kernel.modules is not None)
    if lacks:
        lines = [
            f"CONFIG_{need.config}: needed to {need.purpose}"
            + (
                f"; it is a module, and {need.module}.ko is not here"
                if need.module and settings.get(need.config)
                else ""
            )
            for need in lacks
        ]
        raise KernelFileError(
            f"{kernel.label}: {kernel.origin} {what}: it was configured without "
            + ", ".join(f"CONFIG_{need.config}" for need in lacks),
            expected="each of them =y",
            hint="`harness kernels build` makes kernels that have them; name another kernel or flavour",
            detail="\n".join(lines),
        )
    return as_modules(settings, needs)
