"""One virtual machine: its state, its guest processes, and what is asked of them."""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import (
    GuestCallError,
    GuestHung,
    GuestProcessDied,
    HarnessError,
    ProtocolBroken,
    StateError,
)
from harness.guest import calls, wire
from harness.util import cache
from harness.vm import answers
from harness.vm.channel import Channel, ChannelClosed, decode
from harness.vm.console import tail_of
from harness.vm.diagnosis import PING_TIMEOUT, Diagnosis
from harness.vm.guest_process import GuestProcess
from harness.vm.network import address_of, link_card
from harness.vm.process import QemuProcess, pids_of_qemu
from harness.vm.spec import MachineSpec

if TYPE_CHECKING:
    from harness.guest.calls import P, R

_SNAPSHOT_TIMEOUT = 60.0
_AGENT_TIMEOUT = 10.0


class State(enum.Enum):
    """The state of a machine."""

    STARTING = "starting"
    READY = "ready"
    SAVED = "saved as a template"
    DEAD = "dead"
    CLOSED = "closed"


MOVES = {
    State.STARTING: {State.READY, State.DEAD, State.CLOSED},
    State.READY: {State.SAVED, State.DEAD, State.CLOSED},
    State.SAVED: {State.DEAD, State.CLOSED},
    State.DEAD: {State.CLOSED},
    State.CLOSED: set[State](),
}
"""The allowed changes of state; a machine never goes back."""


def sweep_abandoned() -> list[int]:
    """Kill the QEMUs and remove the folders of harness processes that were killed; return the killed pids."""
    killed = []
    for folder in cache.abandoned_runs():
        # By their command lines: a pid in a file may be that of another PID namespace.
        for pid in pids_of_qemu(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        cache.remove_run_folder(folder)
    return killed


class Machine:
    """A guest whose agent is ready, booted from a specification or cloned. Close it, or use it as a context manager.

    Attributes:
        spec: The template's specification.
        label: The kernel's name in messages.
        folder: Its private folder; removed by :meth:`close`.
        about: The agent's report when the machine was ready.
        boot_log: The kernel log up to then, as records of /dev/kmsg.
        addresses: The IPv4 addresses of the network cards that another machine can be connected to.
        left_open: The descriptors that functions had open when they returned, as harness.guest.leaks.descriptors has
            them, and `function`, the name; for the leak check, which is made when all tests on it are over.

    Args:
        state: STARTING until the first answer has come, or READY.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        folder: Path,
        process: QemuProcess,
        channel: Channel,
        about: dict[str, Any],
        boot_log: list[bytes],
        state: State = State.READY,
    ) -> None:
        self.spec = spec
        self.label = spec.label
        self.folder = folder
        self.process = process
        self.about = about
        self.boot_log = boot_log
        self.addresses = tuple(address_of(link_card(number)) for number in range(spec.needs.nics))
        self.left_open: list[dict[str, Any]] = []
        self._channel = channel
        self._state = state
        self._diagnosis = Diagnosis(self, channel)
        self._processes = itertools.count(1)
        self._is_used = False

    def __enter__(self) -> Machine:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """The machine's state."""
        return self._state

    @property
    def end(self) -> HarnessError | None:
        """What was raised when it was found dead: the reason of its end; None for a machine that did not die."""
        return self._diagnosis.end

    @property
    def answers(self) -> bool:
        """Whether its guest can be asked."""
        return self._state is State.READY

    def move(self, to: State) -> None:
        """Change the state.

        Raises:
            StateError: This change of state is not allowed.
        """
        if to not in MOVES[self._state]:
            self.require(*(state for state, targets in MOVES.items() if to in targets))
        self._state = to

    def die(self) -> None:
        """Mark the machine dead.

        Raises:
            StateError: It is closed.
        """
        self.move(State.DEAD)

    def why_not_cloned(self) -> str | None:
        """Return why this machine cannot become a template, or None when it can."""
        if self.spec.ram is None:
            return "its memory is not in a file"
        if self._state is not State.READY:
            return f"it is {self._state.value}"
        if self._is_used:
            return "tests have run on it"
        return None

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""
        return str(self.about["release"])

    def console_tail(self, count: int = 25) -> str:
        """Return the console's last lines."""
        return tail_of(self.process.console(), count)

    def require(self, *states: State) -> None:
        """Raise unless the machine is in one of these states.

        Raises:
            StateError: It is in another state; the message names both.
            HarnessError: It is dead; the error that was raised when that was found.
        """
        if self.state is State.DEAD and self.end is not None:
            # A call during the handling of a kernel crash, to restore a sysctl, must not hide the crash.
            raise self.end.with_traceback(None)
        if self.state not in states:
            raise StateError(
                f"the machine {self.label} is {self.state.value}",
                expected=f"a machine that is {' or '.join(state.value for state in states)}",
                hint="start another machine",
            )

    def ask_agent(self, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Ask the agent itself, which has ten seconds.

        Args:
            call: One of :class:`harness.guest.calls.Agent`.
            *arguments: What it declares.
            **keywords: Likewise.

        Raises:
            HarnessError: As :meth:`harness.vm.guest_process.GuestProcess.ask`.
        """
        return self.ask_agent_within(_AGENT_TIMEOUT, call, *arguments, **keywords)

    def ask_agent_within(
        self, timeout: float, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs
    ) -> R:
        """Ask the agent itself, as :meth:`ask_agent`, which has `timeout` seconds."""
        answer: R = self.request(wire.AGENT, calls.request(call, "", *arguments, **keywords), timeout, call)
        return answer

    def new_process(self) -> GuestProcess:
        """Return a new guest process; the agent starts it at the first request."""
        self.require(State.READY)
        self._is_used = True
        self.process.watch()
        return GuestProcess(self, next(self._processes))

    def leak_snapshot(self, *, is_last: bool = False) -> dict[str, Any]:
        """Return what the kernel still holds after a test; see harness.guest.leaks.snapshot.

        Ends the test's processes in the guest. With `is_last`, when the machine serves no other test, it only makes
        them close what they have open.
        """
        # A process that the test left running may keep the agent from running at all: that shows sooner so.
        self.ask_agent(calls.Agent.ping)
        return self.ask_agent_within(_SNAPSHOT_TIMEOUT, calls.Agent.leak_snapshot, is_last=is_last)

    def has_ended(self, process: int) -> bool:
        """Return whether the guest has reported the end of this guest process."""
        return process in self._channel.exits

    def request(
        self,
        process: int,
        request: calls.Request,
        timeout: float,
        call: Callable[..., Any],
        shown: str = "",
        *,
        is_last: bool = False,
    ) -> Any:
        """Send a request and return the answer.

        Args:
            process: The number of the guest process that is asked, or wire.AGENT.
            request: What :func:`harness.guest.calls.request` gave.
            timeout: Seconds.
            call: The call, which declares what the answer is.
            shown: What messages call it, when not by the call's name.
            is_last: Whether the guest process ends when it has answered.

        Raises:
            HarnessError: As :meth:`harness.vm.guest_process.GuestProcess.ask`.
        """
        kind = wire.LAST if is_last else wire.REQUEST
        self.require(State.READY)
        self._diagnosis.begin()
        try:
            answer = self._channel.request(process, shown or request[0], request, timeout=timeout, kind=kind)
            answers.check(call, answer)
            return answer
        except (ChannelClosed, ProtocolBroken, GuestHung, GuestProcessDied) as error:
            raise self._diagnosis.explain(process, error) from error
        except (GuestCallError, wire.WireError):
            raise
        except BaseException:
            # Interrupted: half a request may have been sent, so the channel is unusable.
            self.die()
            raise

    def decode(self, payload: bytes, what: str) -> Any:
        """Return a value that the guest encoded within an answer.

        Args:
            payload: The bytes.
            what: What messages call it.

        Raises:
            ProtocolBroken: It is not one; the machine is dead then.
        """
        try:
            return decode(payload, what)
        except ProtocolBroken as error:
            raise self._diagnosis.explain(wire.AGENT, error) from error

    def send(self, process: int, request: calls.Request) -> int:
        """Send a request without waiting; return its tag. Arguments and errors as :meth:`request`."""
        self.require(State.READY)
        self._diagnosis.begin()
        try:
            return self._channel.begin(process, request[0], request, time.monotonic() + PING_TIMEOUT)
        except (ChannelClosed, ProtocolBroken, GuestHung) as error:
            raise self._diagnosis.explain(wire.AGENT, error) from error

    def collect(self, process: int, name: str, tag: int, timeout: float) -> tuple[bool, Any]:
        """Return whether the answer to a request that was sent came within the time, and the answer."""
        self.require(State.READY)
        try:
            return True, self._channel.collect(process, tag, name, time.monotonic() + timeout)
        except GuestHung:
            return False, None
        except (ChannelClosed, ProtocolBroken, GuestProcessDied) as error:
            raise self._diagnosis.explain(process, error) from error

    def close(self) -> None:
        """End QEMU and remove the machine's folder; allowed in any state and more than once."""
        if self.state is State.CLOSED:
            return
        self.move(State.CLOSED)
        self._channel.close()
        self.process.kill()
        cache.remove_run_folder(self.folder)
