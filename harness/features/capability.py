"""What a capability of a kernel is: the records of probes, their findings and what these mean for a test.

Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.kernel.version import KernelVersion

if TYPE_CHECKING:
    from harness.remote.bpf import Bpf


class Availability(enum.Enum):
    """The answer of a probe."""

    YES = "yes"
    NO = "no"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class ProbeResult:
    """A probe's answer with its evidence.

    Attributes:
        answer: Yes, no or inconclusive.
        evidence: The kernel's reaction, in a few words.
    """

    answer: Availability
    evidence: str


Probe = Callable[["Bpf"], ProbeResult]


@dataclass(frozen=True)
class Capability:
    """A feature that kernels have from some version on.

    Attributes:
        sentence: The feature in one sentence.
        since: The first mainline version that has it.
        origin: The kernel commit that introduced it, or the place in the kernel's source that shows it.
        probe: Asks a kernel; it may leave objects in the guest process that it gets.
        config: The configuration symbols that it needs, with spaces between them; "" for none. One after a "!" takes it
            away.
        is_part: Whether it is a part that a kernel can be built or booted without, whatever its version: a missing one
            is not a failure.
        until: The first later mainline version that lacks it, "" for none.
        backports: The first releases of stable series with a backport of it.
        fixes: For a mistake that was corrected: the first releases of stable series that lack it again.
    """

    sentence: str
    since: str
    origin: str
    probe: Probe
    config: str = ""
    until: str = ""
    backports: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    is_part: bool = False

    def expected(self, version: KernelVersion) -> bool:
        """Return whether a kernel of this version should have it."""
        if self.until and version.series >= KernelVersion.parse(self.until).series:
            return False
        if any(_from_release(version, release) for release in self.fixes):
            return False
        introduced = version.series >= KernelVersion.parse(self.since).series
        return introduced or any(_from_release(version, release) for release in self.backports)


def _from_release(version: KernelVersion, release: str) -> bool:
    first = KernelVersion.parse(release)
    return version.series == first.series and version >= first


class Decision(enum.Enum):
    """The consequence of a finding for a test that requires the capability."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """A decision and its reason in one sentence."""

    decision: Decision
    reason: str
