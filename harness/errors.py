"""The tree of all exceptions that the harness raises on purpose.

::

    HarnessError                what happened, what was expected, what to do next
    ├── UsageError              the user's input is not usable
    │   ├── SelectorError       a kernel selector is malformed, empty or ambiguous
    │   ├── KernelFileError     a kernel file or package given or found is not usable
    │   ├── LoaderCannot        a loader cannot express what a test asks for
    │   ├── SourceError         a BPF program's source does not compile
    │   └── RecordError         a run record is damaged, or cannot be combined with another
    ├── InfrastructureError     the machine, the network or a tool failed; says nothing about a kernel
    │   ├── ToolMissing         a program the harness needs is not installed
    │   ├── MirrorError         a package source could not be reached or verified
    │   ├── CacheError          the cache folder cannot be written, or an entry is damaged
    │   ├── BuildError          a kernel or image could not be built
    │   ├── AccelError          the chosen accelerator cannot run a guest
    │   ├── BootError           a guest did not reach "agent ready"
    │   │   └── VngFailed       vng could not start QEMU: no kernel boots on this machine
    │   ├── StateError          an operation needs a machine in another state
    │   ├── MonitorError        QEMU's monitor could not be reached, or refused a command
    │   ├── TemplateError       no template can be made of a machine, or one is damaged
    │   ├── ProbeInconclusive   a probe of a kernel's capability gave no answer
    │   └── LinkBroken          QEMU or the channel ended, and the guest did not do it
    │       └── QemuStalled     this machine did not let QEMU run
    └── GuestError              the guest was reached, and something went wrong there
        ├── GuestCallError      the function called in the guest raised; its traceback is kept
        ├── CapabilityMissing   the kernel lacks what its version should have
        ├── GuestProcessDied    the guest process of the test ended before it answered
        ├── KernelCrashed       the kernel panicked, or stopped after an oops
        ├── GuestEnded          the guest powered off or reset its machine
        ├── ProtocolBroken      the guest sent what is not in the protocol
        └── GuestHung           no answer within the time-out
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What happened, in one sentence.
        expected: What was expected instead, or "".
        hint: The next step for the user, or "".
        detail: Lines of evidence (tool output, console tail), or "".
    """

    exit_status = 1

    def __init__(self, what: str, *, expected: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        parts = [self.what]
        if self.expected:
            parts.append(f"  expected: {self.expected}")
        if self.hint:
            parts.append(f"  next step: {self.hint}")
        if self.detail:
            parts.append("\n".join(f"  | {line}" for line in self.detail.rstrip("\n").split("\n")))
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default protocol, and xdist carries errors between processes.
        return (_rebuild, (type(self), self.what, self.__dict__.copy()))


def _rebuild(cls: type[HarnessError], what: str, state: dict[str, object]) -> HarnessError:
    error = cls.__new__(cls)
    Exception.__init__(error, what)
    error.__dict__.update(state)
    return error


class UsageError(HarnessError):
    """The user's input is not usable."""

    exit_status = 2


class SelectorError(UsageError):
    """A kernel selector is malformed, matches nothing or is ambiguous."""


class KernelFileError(UsageError):
    """A kernel file or package is damaged, of another kind, or cannot be booted."""


class LoaderCannot(UsageError):
    """A loader cannot express what a test asks for; this says nothing about the kernel."""


class SourceError(UsageError):
    """A BPF program's source does not compile; the detail has the compiler's output."""


class RecordError(UsageError):
    """A run record cannot be read or written, or cannot be combined with another."""


class InfrastructureError(HarnessError):
    """The machine, the network or a tool failed; this says nothing about the kernel under test."""

    exit_status = 3


class ToolMissing(InfrastructureError):
    """A program the harness needs is not installed."""


class MirrorError(InfrastructureError):
    """A package source could not be reached, or its signature or checksum did not verify."""


class CacheError(InfrastructureError):
    """The cache folder cannot be used, or an entry in it is damaged."""


class BuildError(InfrastructureError):
    """A kernel or a guest image could not be built."""


class AccelError(InfrastructureError):
    """The chosen accelerator cannot run a guest on this machine."""


class BootError(InfrastructureError):
    """A guest did not reach "agent ready"; the detail has the console's last lines."""


class VngFailed(BootError):
    """vng ended before it started QEMU, so that no kernel boots on this machine."""


class StateError(InfrastructureError):
    """The machine is in a state that does not allow an operation."""


class MonitorError(InfrastructureError):
    """QEMU's monitor could not be reached, or refused a command."""


class TemplateError(InfrastructureError):
    """No template can be made of a machine, or a template is damaged."""


class ProbeInconclusive(InfrastructureError):
    """A probe of a kernel's capability got an answer that means neither yes nor no."""


class LinkBroken(InfrastructureError):
    """QEMU or the channel to the guest ended, and not because of what the guest did."""


class QemuStalled(LinkBroken):
    """QEMU is stopped, or this machine gives it no processor time: the guest could not answer."""


class GuestError(HarnessError):
    """The guest was reached, and something went wrong there.

    Attributes:
        stdout: What the guest process had printed, where it gave no answer; "" for nothing, or when the guest is gone.
        stderr: Likewise.
    """

    stdout = ""
    stderr = ""


class GuestCallError(GuestError):
    """A function called in the guest raised.

    Attributes:
        type_name: Name of the exception's class in the guest.
        traceback: The guest's traceback, as text.
        errno: The error number, when the exception was an OSError; else 0.
    """

    def __init__(self, what: str, *, type_name: str, traceback: str, errno: int = 0) -> None:
        super().__init__(what, detail=traceback)
        self.type_name = type_name
        self.traceback = traceback
        self.errno = errno


class CapabilityMissing(GuestError):
    """The kernel under test lacks a capability that its version should have."""


class GuestProcessDied(GuestError):
    """The test's guest process ended before it answered.

    Attributes:
        status: Its wait status, as from os.waitpid.
    """

    def __init__(self, what: str, *, status: int, detail: str = "") -> None:
        super().__init__(what, detail=detail)
        self.status = status


class KernelCrashed(GuestError):
    """The kernel under test panicked, or died after an oops."""


class GuestEnded(GuestError):
    """The guest powered off or reset its machine, and its console shows no crash of the kernel."""


class ProtocolBroken(GuestError):
    """The guest sent what is not in the protocol: no frame, no answer to what was asked, or too much."""


class GuestHung(GuestError):
    """The guest gave no answer within the time-out."""
