"""A kernel as a run record has it."""

from __future__ import annotations

import msgspec

from harness.kernel.types import Choice, Kernel
from harness.results.types import RecordedKernel
from harness.util.cache import digest_file


def chosen_kernel(choice: Choice, release: str = "") -> RecordedKernel:
    """Return what is known of a kernel by its choice alone.

    Args:
        choice: The kernel.
        release: Its `uname -r`; "" when it never ran.
    """
    return RecordedKernel(
        label=choice.label,
        version=str(choice.version),
        release=release,
        provider=choice.provider,
        key=choice.key,
        flavour=choice.flavour,
        architecture=choice.architecture,
        digest=choice.sha256,
    )


def recorded_kernel(choice: Choice, kernel: Kernel, release: str) -> RecordedKernel:
    """Return a kernel that is on this machine; arguments as for :func:`chosen_kernel`."""
    return msgspec.structs.replace(
        chosen_kernel(choice, release),
        version=str(kernel.version),
        flavour=kernel.flavour,
        architecture=kernel.architecture,
        origin=kernel.origin,
        digest=kernel.digest,
        config_digest=digest_file(kernel.config) if kernel.config is not None else "",
    )
