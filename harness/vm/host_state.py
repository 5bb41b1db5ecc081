"""Whether this machine let QEMU run while its guest did not answer.

Reads /proc. A guest that has no processor time cannot answer, which says nothing about its kernel.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_STARVED = 0.9
"""Part of the time in which a thread of QEMU waited for a processor, from which on this machine is to blame. A guest
that spins on a machine with a few times more programs than processors waits less."""
_BUSY = 0.5
"""Part of the time that a thread of QEMU could run, from which on its guest spins; one that waits hardly runs."""
_SHORTEST = 3.0
"""Seconds, below which the processor time of a thread says nothing: the scheduler of a busy machine takes turns."""
_SUSPENDED = 1.0
"""Seconds, from which on a suspended machine is to blame."""
_STOPPED = frozenset("Tt")
_NANOSECOND = 1e-9


@dataclass(frozen=True)
class Thread:
    """A thread of QEMU.

    Attributes:
        state: The letter of its state in /proc.
        ran: Seconds of processor time so far.
        waited: Seconds in which it could have run and had no processor.
    """

    state: str
    ran: float
    waited: float


_NOT_BORN = Thread("", 0.0, 0.0)


@dataclass(frozen=True)
class HostSample:
    """What this machine does with QEMU at one moment.

    Attributes:
        at: Seconds, by a clock that stands still while this machine is suspended.
        suspended: Seconds that this machine has been suspended since its boot.
        threads: QEMU's threads by their ids; none when QEMU has ended.
    """

    at: float
    suspended: float
    threads: dict[int, Thread]

    @property
    def is_stopped(self) -> bool:
        """Whether QEMU as a whole is stopped."""
        return bool(self.threads) and all(thread.state in _STOPPED for thread in self.threads.values())


def sample(pid: int) -> HostSample:
    """Return what this machine does with QEMU now."""
    at = time.monotonic()
    threads = {}
    try:
        for folder in Path(f"/proc/{pid}/task").iterdir():
            # The name in parentheses may contain anything.
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            ran, waited, *_ = (folder / "schedstat").read_text().split()
            threads[int(folder.name)] = Thread(state, int(ran) * _NANOSECOND, int(waited) * _NANOSECOND)
    except (OSError, ValueError):
        pass  # it has ended, or this machine's kernel does not count
    return HostSample(at, time.clock_gettime(time.CLOCK_BOOTTIME) - at, threads)


def trouble_in(samples: list[HostSample]) -> str | None:
    """Return what this machine did to QEMU, in words; None when it let QEMU run.

    Args:
        samples: In the order of time, from the request on that the guest did not answer. At least one.
    """
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    suspended = last.suspended - first.suspended
    if suspended >= _SUSPENDED:
        return f"this machine was suspended for {suspended:.0f} s"
    if last.is_stopped:
        return f"QEMU is stopped (state {next(iter(last.threads.values())).state}: SIGSTOP, or a debugger)"
    stopped = [one for one in samples if one.is_stopped]
    if len(stopped) * 2 > len(samples):
        return f"QEMU was stopped for most of {seconds:.0f} s (SIGSTOP, or a debugger)"
    if seconds < _SHORTEST:
        return None
    for number, now in last.threads.items():
        before = first.threads.get(number, _NOT_BORN)  # those of its processors are made while it starts
        if now.waited - before.waited >= _STARVED * seconds:
            return (
                f"QEMU got {now.ran - before.ran:.1f} s of processor time in {seconds:.1f} s and waited for more; "
                "other programs or a limit of its control group took the rest"
            )
    return None


def is_busy(samples: list[HostSample]) -> bool:
    """Return whether a thread of QEMU ran for most of the time in which this machine let it: its guest spins."""
    first, last = samples[0], samples[-1]
    for number, now in last.threads.items():
        before = first.threads.get(number)
        if before is not None:
            let = last.at - first.at - (now.waited - before.waited)
            if now.ran - before.ran > let * _BUSY:
                return True
    return False


class Watch:
    """Looks at QEMU while a request waits for its answer.

    Args:
        pid: QEMU's.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[HostSample] = []

    def look(self) -> None:
        """Take a sample."""
        self._samples.append(sample(self._pid))

    def trouble(self) -> str | None:
        """Return what this machine did to QEMU up to now; see :func:`trouble_in`."""
        self.look()
        return trouble_in(self._samples)

    def is_busy(self) -> bool:
        """Return whether the guest has used its processors up to the last look; see :func:`is_busy`."""
        return is_busy(self._samples)
