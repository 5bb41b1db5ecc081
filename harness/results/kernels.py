"""A kernel as a run record has it."""

from __future__ import annotations

import msgspec

from harness.kernel.types import Choice
from harness.results.types import RecordedKernel
from harness.util.cache import digest_file
from harness.vm.spec import MachineSpec


def recorded_kernel(choice: Choice, spec: MachineSpec | None, release: str = "") -> RecordedKernel:
    """Return what is known of a kernel.

    Args:
        choice: The kernel.
        spec: A machine of it; None when the kernel is not on this machine, so that its choice alone is known.
        release: Its `uname -r`; "" when it never ran.
    """
    chosen = RecordedKernel(
        label=choice.label,
        version=str(choice.version),
        release=release,
        provider=choice.provider,
        key=choice.key,
        flavour=choice.flavour,
        architecture=choice.architecture,
        digest=choice.sha256,
    )
    if spec is None:
        return chosen
    kernel = spec.kernel
    return msgspec.structs.replace(
        chosen,
        version=str(kernel.version),
        flavour=kernel.flavour,
        architecture=kernel.architecture,
        origin=kernel.origin,
        digest=kernel.digest,
        config_digest=digest_file(kernel.config) if kernel.config is not None else "",
    )
