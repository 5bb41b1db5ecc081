"""One virtual machine: its state, its guest processes, and what became of it when it stops answering.

Imports the channel, console and process beside it, :mod:`harness.util.cache`, :mod:`harness.errors`.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import harness
from harness.errors import (
    GuestCallError,
    GuestError,
    GuestHung,
    GuestProcessDied,
    HarnessError,
    KernelCrashed,
    LinkBroken,
    StateError,
)
from harness.guest import wire
from harness.util import cache
from harness.vm.channel import Channel, ChannelClosed
from harness.vm.console import agent_exited, cause_of_death, tail_of
from harness.vm.process import QemuProcess
from harness.vm.spec import MachineSpec

_PING_TIMEOUT = 5.0
_END_TIMEOUT = 5.0
_LEDGER_TIMEOUT = 60.0
_PACKAGE = f"{Path(harness.__file__).parent}{os.sep}"
_TESTS = f"{_PACKAGE}contracts{os.sep}"


class State(enum.Enum):
    """Where a machine is in its life."""

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
"""The legal moves; a machine never goes back."""


def sweep_abandoned() -> list[int]:
    """Kill the QEMUs and remove the folders of harness processes that were killed; return the pids killed."""
    killed = []
    for folder in cache.abandoned_runs():
        try:
            pid = int((folder / "qemu.pid").read_text())
            # The pid may belong to another program by now; the machine's own folder is named in QEMU's command line.
            if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass  # it never started, or has ended by itself
        shutil.rmtree(folder, ignore_errors=True)
    return killed


class Machine:
    """A guest whose agent is ready, booted from a specification or cloned. Close it, or use it as a context manager.

    Attributes:
        spec: What was booted.
        label: What messages call the kernel.
        folder: Its private folder, removed when it is closed.
        about: What the agent said of the machine when it was ready.
        boot_log: What its kernel had logged by then, as /dev/kmsg gives it.
        left_open: The descriptors that functions had open when they returned, as harness.guest.leaks.snapshot describes
            them, and `function`, the name; for whoever judges them after the test.

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
        self.left_open: list[dict[str, Any]] = []
        self._channel = channel
        self._state = state
        self._end: HarnessError | None = None
        self._processes = 0

    def __enter__(self) -> Machine:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """Where the machine is in its life."""
        return self._state

    def move(self, to: State) -> None:
        """Go to another state.

        Raises:
            StateError: No move leads there from this one.
        """
        if to not in MOVES[self._state]:
            self.require(*(state for state, targets in MOVES.items() if to in targets))
        self._state = to

    def why_not_cloned(self) -> str | None:
        """Return why no template can be made of this machine, or None when one can."""
        if self.spec.ram is None:
            return "its memory is not in a file"
        if self._state is not State.READY:
            return f"it is {self._state.value}"
        if self._processes:
            return "tests have run on it"
        return None

    @property
    def channel(self) -> Channel:
        """The channel to its agent."""
        return self._channel

    @property
    def release(self) -> str:
        """What `uname -r` prints in the guest."""
        return str(self.about["release"])

    def console_tail(self, count: int = 25) -> str:
        """Return the console's last lines."""
        return tail_of(self.process.console(), count)

    def require(self, *states: State) -> None:
        """Refuse an operation that needs the machine in one of these states.

        Raises:
            StateError: It is in another one; the message names both.
            HarnessError: It is dead; the reason, as whoever found out was told it.
        """
        if self.state is State.DEAD and self._end is not None:
            # Asked while the kernel's crash is on its way to the test, to set back a sysctl, it must not be hidden.
            raise self._end.with_traceback(None)
        if self.state not in states:
            raise StateError(
                f"the machine {self.label} is {self.state.value}",
                expected=f"it to be {' or '.join(state.value for state in states)}",
                hint="start another machine",
            )

    def ask_agent(self, name: str, timeout: float = 10.0, **arguments: Any) -> Any:
        """Ask the agent itself; arguments and errors as :meth:`Channel.request`, with the machine's end explained."""
        return self._ask(wire.AGENT, f"agent.{name}", (name, arguments), timeout)

    def new_process(self) -> GuestProcess:
        """Return a fresh guest process; the agent starts it with its first request."""
        self.require(State.READY)
        self._processes += 1
        return GuestProcess(self, self._processes)

    def ledger(self, *, is_last: bool = False) -> dict[str, Any]:
        """Return what the kernel holds when nothing of a test uses it any more; see harness.guest.leaks.snapshot.

        What runs of the test in the guest is ended, or, when the machine `is_last` asked now and serves no other test,
        made to let go of what it has open.
        """
        found: dict[str, Any] = self.ask_agent("ledger", timeout=_LEDGER_TIMEOUT, is_last=is_last)
        return found

    def has_ended(self, process: int) -> bool:
        """Whether the end of this guest process has been reported."""
        return process in self._channel.exits

    def _ask(self, process: int, name: str, value: object, timeout: float) -> Any:
        self.require(State.READY)
        try:
            return self._channel.request(process, name, value, timeout=timeout)
        except ChannelClosed as error:
            raise self._explain_end(str(error)) from error
        except GuestHung as error:
            raise self._explain_silence(process, error) from error
        except GuestProcessDied as error:
            error.detail = self.console_tail(12)
            raise
        except (GuestCallError, wire.WireError):
            raise
        except BaseException:
            # Interrupted: half a request may be on its way, so that nothing more can be asked.
            self.move(State.DEAD)
            raise

    def _begin(self, process: int, name: str, value: object) -> int:
        self.require(State.READY)
        try:
            return self._channel.begin(process, name, value, time.monotonic() + _PING_TIMEOUT)
        except ChannelClosed as error:
            raise self._explain_end(str(error)) from error
        except GuestHung as error:
            raise self._explain_silence(wire.AGENT, error) from error

    def _collect(self, process: int, name: str, tag: int, timeout: float) -> tuple[bool, Any]:
        """Return whether the answer came within the time, and the answer."""
        self.require(State.READY)
        try:
            return True, self._channel.collect(process, tag, name, time.monotonic() + timeout)
        except GuestHung:
            return False, None
        except ChannelClosed as error:
            raise self._explain_end(str(error)) from error
        except GuestProcessDied as error:
            error.detail = self.console_tail(12)
            raise

    def _explain_end(self, what: str) -> HarnessError:
        """The channel is closed: find out whether the kernel died or the link to it."""
        self.move(State.DEAD)
        self._end = self._why_it_ended(what)
        return self._end

    def _why_it_ended(self, what: str) -> HarnessError:
        self.process.wait(_END_TIMEOUT)
        lines = self.process.console()
        if agent_exited(lines):
            return LinkBroken(
                f"the agent in the guest of {self.label} ended by itself",
                expected="an agent that runs as long as its machine",
                hint="this is a defect of kernel-harness; report it with the lines below",
                detail=tail_of(lines, 60),
            )
        cause = cause_of_death(lines)
        if cause is not None:
            return KernelCrashed(f"the kernel {self.release} crashed: {cause}", detail=self.console_tail())
        return LinkBroken(
            f"QEMU ended under the guest of {self.label}, and its kernel gave no sign of a crash ({what})",
            expected="QEMU to run until the test is over",
            hint="look for its end in the host's log (out of memory?), then run the test again",
            detail=self.console_tail(),
        )

    def _explain_silence(self, process: int, error: GuestHung) -> GuestError:
        """No answer in time: find out whether one guest process hangs or the whole guest."""
        if process != wire.AGENT:
            with contextlib.suppress(GuestHung, ChannelClosed):
                self._channel.request(wire.AGENT, "ping", ("ping", {}), timeout=_PING_TIMEOUT)
                self._channel.request(
                    wire.AGENT, "signal", ("signal", {"number": process, "signum": 9}), timeout=_PING_TIMEOUT
                )
                return GuestHung(f"{error.what}; the kernel {self.release} is alive, the guest process was killed")
        self.move(State.DEAD)
        self._end = GuestHung(
            f"{error.what}; the kernel {self.release} stopped answering altogether",
            detail=self.console_tail(),
        )
        return self._end

    def close(self) -> None:
        """End QEMU and remove the machine's folder; may be called in any state, and again."""
        if self.state is State.CLOSED:
            return
        self.move(State.CLOSED)
        self._channel.close()
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_ours(file: str) -> bool:
    """Whether a file is one of this package, the tests that come with it apart."""
    return file.startswith(_PACKAGE) and not file.startswith(_TESTS)


def _asking_line() -> str:
    """Return the line outside this package that the running request comes from, the test's own; "" for none."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


class GuestProcess:
    """A process in the guest that serves one test, with file descriptors of its own."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number

    def call(self, name: str, *arguments: Any, timeout: float = 30.0, shown: str = "", **keywords: Any) -> Any:
        """Call a function of a guest-side loader, such as "bpf.map_create".

        Args:
            name: Loader and function.
            *arguments: Positional arguments, plain values.
            timeout: Seconds.
            shown: What messages call it, when not by its name.
            **keywords: Keyword arguments, plain values.

        Raises:
            GuestCallError: It raised in the guest.
            GuestProcessDied: The process ended.
            KernelCrashed: The kernel panicked meanwhile.
            GuestHung: No answer in time.
            LinkBroken: QEMU ended for another reason.
        """
        return self.machine._ask(self.number, shown or name, (name, arguments, keywords, _asking_line()), timeout)

    def begin(self, name: str, *arguments: Any) -> Pending:
        """Call a function of a guest-side loader without waiting for it; arguments and errors as :meth:`call`."""
        return Pending(self, name, self.machine._begin(self.number, name, (name, arguments, {}, _asking_line())))

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self.machine.state is State.READY and not self.machine.has_ended(self.number)

    def close(self) -> None:
        """Kill the process; nothing happens when the machine is no longer there."""
        if self.machine.state is State.READY:
            self.machine.ask_agent("signal", number=self.number, signum=int(signal.SIGKILL))


class Pending:
    """A call whose answer is waited for bit by bit.

    Another request to the same machine meanwhile may swallow its answer.

    Attributes:
        value: What it returned, once :meth:`poll` has said that it is there.
    """

    def __init__(self, process: GuestProcess, name: str, tag: int) -> None:
        self.value: Any = None
        self._process = process
        self._name = name
        self._tag = tag

    def poll(self, timeout: float) -> bool:
        """Wait for the answer for `timeout` seconds; return whether it is there. Errors as GuestProcess.call."""
        machine, number = self._process.machine, self._process.number
        found, self.value = machine._collect(number, self._name, self._tag, timeout)
        return found
