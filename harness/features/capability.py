"""What a capability of a kernel is: the records of probes, their findings and what these mean for a test.

Pure. Imports versions of kernels.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.kernel.version import KernelVersion

if TYPE_CHECKING:
    from harness.remote.bpf import Bpf


class Answer(enum.Enum):
    """What a probe found."""

    YES = "yes"
    NO = "no"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """A probe's answer and what it rests on.

    Attributes:
        answer: Yes, no or inconclusive.
        evidence: What the kernel said.
    """

    answer: Answer
    evidence: str


Probe = Callable[["Bpf"], Finding]


@dataclass(frozen=True)
class Capability:
    """Something that kernels have from some version on.

    Attributes:
        sentence: What it is.
        since: The first mainline version that has it.
        origin: The kernel commit that introduced it, or where the kernel's source shows that it is there.
        probe: Asks a kernel; it may leave things behind in the guest process that it is given.
        config: The configuration symbol without which a kernel lacks it, "" for none.
        until: The first mainline version that lacks it again, "" for none.
        backports: The first releases of stable series that have it although mainline had it later.
        fixes: The first releases of stable series that lack it again, where it is a mistake that was undone.
    """

    sentence: str
    since: str
    origin: str
    probe: Probe
    config: str = ""
    until: str = ""
    backports: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()

    def expected(self, version: KernelVersion) -> bool:
        """Whether a kernel of this version should have it, going by what is known of versions."""
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
    """What a capability's finding means for a test that requires it."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """A decision and its reason, one sentence."""

    decision: Decision
    reason: str
