"""A process in the guest as the host asks it: a call of :mod:`harness.guest.calls` out, its result back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

import harness
from harness.guest import calls
from harness.util.architecture import ByteOrder

if TYPE_CHECKING:
    from harness.guest.calls import P, R
    from harness.vm.machine import Machine

T = TypeVar("T")

_TIMEOUT = 30.0
_PACKAGE = f"{Path(harness.__file__).parent}{os.sep}"
_TESTS = f"{_PACKAGE}contracts{os.sep}"


def _is_ours(file: str) -> bool:
    """Return whether a file is part of this package, except its tests."""
    return file.startswith(_PACKAGE) and not file.startswith(_TESTS)


def _asking_line() -> str:
    """Return the test's line that made the current request, outside this package; "" for none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


class GuestProcess:
    """A process in the guest for one test, with its own file descriptors.

    Threads may share it: it answers one request after the other.
    """

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self._turn = threading.Lock()
        self._owners: dict[int, object] = {}
        self._dropped: deque[int] = deque()
        self._to_close: list[int] = []

    @property
    def byte_order(self) -> ByteOrder:
        """The order of the bytes of the guest's integers."""
        return self.machine.spec.architecture.byte_order

    def ask(self, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Make a call in the guest process, which has 30 seconds.

        Args:
            call: One of :mod:`harness.guest.calls`, such as `calls.Files.read`.
            *arguments: What it declares; plain values.
            **keywords: Likewise.

        Raises:
            GuestCallError: It raised in the guest.
            GuestProcessDied: The process ended.
            KernelCrashed: The kernel panicked during the call.
            GuestHung: No answer in time.
            LinkBroken: QEMU ended for another reason.
            WireError: An argument cannot cross.
        """
        return self.ask_within(_TIMEOUT, call, *arguments, **keywords)

    def ask_within(self, timeout: float, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Make a call as :meth:`ask`, for which the guest process has `timeout` seconds."""
        request = calls.request(call, _asking_line(), *arguments, **keywords)
        with self._turn:
            self._close_dropped()
            answer: R = self.machine.request(self.number, request, timeout, call)
        return answer

    def own(self, fd: int) -> object:
        """Return a token with which :meth:`drop` closes a descriptor of the process, unless it was closed before."""
        owner = self._owners[fd] = object()
        return owner

    def disown(self, fd: int) -> None:
        """Take note that a descriptor of the process is closed: the number may be another's next."""
        self._owners.pop(fd, None)

    def drop(self, fd: int, owner: object) -> None:
        """Close a descriptor soon; from any thread, and where the interpreter frees an object."""
        if self._owners.get(fd) is owner:
            del self._owners[fd]
            self._dropped.append(fd)

    def _close_dropped(self) -> None:
        """Close what was dropped before the last request.

        What was dropped since may be in this one: of `bpf.prog(type, code(bpf.map("array").fd))`, nobody refers to the
        map any more.
        """
        fds, self._to_close = self._to_close, [self._dropped.popleft() for _ in range(len(self._dropped))]
        if fds:
            self.machine.request(
                self.number, calls.request(calls.Process.close, "", *fds), _TIMEOUT, calls.Process.close
            )

    def ask_last(
        self, shown: str, timeout: float, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs
    ) -> R:
        """Make a call as :meth:`ask_within`, shown as `shown` in messages, after which the guest process is killed."""
        request = calls.request(call, _asking_line(), *arguments, **keywords)
        with self._turn:
            answer: R = self.machine.request(self.number, request, timeout, call, shown, is_last=True)
        return answer

    def begin(self, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> Pending[R]:
        """Make a call without waiting for it; arguments and errors as :meth:`ask`."""
        request = calls.request(call, _asking_line(), *arguments, **keywords)
        return Pending(self, request[0], self.machine.send(self.number, request))

    @property
    def alive(self) -> bool:
        """Return whether the process can still be called."""
        return self.machine.answers and not self.machine.has_ended(self.number)

    def close(self) -> None:
        """Kill the process; does nothing when the machine is gone."""
        if self.machine.answers:
            self.machine.ask_agent(calls.Agent.signal, self.number, int(signal.SIGKILL))


class Pending(Generic[T]):
    """A call whose answer can be polled.

    Attributes:
        value: The returned value, once :meth:`poll` has returned True.
    """

    def __init__(self, process: GuestProcess, name: str, tag: int) -> None:
        self.value: T | None = None
        self._process = process
        self._name = name
        self._tag = tag

    def poll(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return whether the answer has arrived. Errors as for GuestProcess.call."""
        machine, number = self._process.machine, self._process.number
        found, self.value = machine.collect(number, self._name, self._tag, timeout)
        return found
