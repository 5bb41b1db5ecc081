"""Inner maps of every type, and what is said of a kernel that has no such type.

Imports :mod:`harness.features` and :mod:`harness.testing`.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.contracts.contract import NotAsked
from harness.errors import CapabilityMissing
from harness.features import capabilities, map_types
from harness.features.capability import Availability, Decision, ProbeResult
from harness.testing import Bpf, BpfError, Kernel, Map

NO_TYPE = "no such map type"
"""What is observed of a type that the kernel is too old for."""


def with_type(bpf: Bpf, kernel: Kernel, type_: str, then: Callable[[Map], str]) -> str:
    """Return what `then` makes of a small map of a type, or :data:`NO_TYPE`.

    Raises:
        CapabilityMissing: The kernel should have such maps.
        NotAsked: It was built without them.
    """
    try:
        made = map_types.create(bpf, type_)
    except BpfError as error:
        return _why_not(kernel, type_, error)
    return then(made)


def _why_not(kernel: Kernel, type_: str, error: BpfError) -> str:
    name = f"map_{type_}"
    judgement = capabilities.judge(name, ProbeResult(Availability.NO, error.name), kernel.version, kernel.settings)
    if judgement.decision is Decision.FAIL:
        raise CapabilityMissing(judgement.reason, expected="a kernel that can do what its version promises")
    if capabilities.find(name).expected(kernel.version):
        raise NotAsked(judgement.reason)
    return NO_TYPE
