"""One virtual machine from boot to end: its processes, its state, and what became of it when it stops answering.

Imports the command, console and channel beside it, :mod:`harness.store`, :mod:`harness.proc`, :mod:`harness.errors`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pexpect

from harness import store
from harness.errors import (
    BootError,
    GuestError,
    GuestHung,
    GuestProcessDied,
    HarnessError,
    KernelCrashed,
    LinkBroken,
    StateError,
)
from harness.guest import wire
from harness.proc import find_tool, kill_group, quote
from harness.vm.channel import Channel, ChannelClosed, Listener
from harness.vm.command import MachineSpec, vng_argv, wrapper_script
from harness.vm.console import Console, cause_of_death

log = logging.getLogger("harness.vm")

_PING_TIMEOUT = 5.0
_END_TIMEOUT = 5.0
_POLL_INTERVAL = 0.25

QEMU_NAME = "qemu-system-x86_64"


class State(enum.Enum):
    """Where a machine is in its life; it only moves forward."""

    BOOTING = "booting"
    READY = "ready"
    DEAD = "dead"
    CLOSED = "closed"


def find_qemu() -> Path:
    """Return the QEMU program.

    Raises:
        ToolMissing: It is not installed.
    """
    return find_tool(QEMU_NAME, package="qemu-system-x86", purpose="run kernels")


def find_vng() -> Path:
    """Return virtme-ng's `vng`: the one beside this interpreter, else the one on PATH.

    Raises:
        ToolMissing: It is not installed.
    """
    beside = Path(sys.executable).with_name("vng")
    return beside if os.access(beside, os.X_OK) else find_tool("vng", purpose="boot kernels (pip install virtme-ng)")


def sweep_abandoned() -> list[int]:
    """Kill the QEMUs and remove the folders of harness processes that were killed; return the pids killed."""
    killed = []
    for folder in store.abandoned_runs():
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
    """A guest booted by virtme-ng. Made by :func:`boot`; close it, or use it as a context manager."""

    def __init__(self, spec: MachineSpec, label: str) -> None:
        self.spec = spec
        self.label = label
        self.state = State.BOOTING
        self.folder = store.run_folder()
        self.about: dict[str, Any] = {}
        self.boot_seconds = 0.0
        self.command: list[str] = []
        self._listener: Listener | None = None
        self._channel: Channel | None = None
        self._child: pexpect.spawn[bytes] | None = None
        self._console: Console | None = None
        self._processes = 0

    def __enter__(self) -> Machine:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def release(self) -> str:
        """What `uname -r` prints in the guest."""
        return str(self.about.get("release", ""))

    def console_tail(self, count: int = 25) -> str:
        """Return the console's last lines."""
        return self._console.tail(count) if self._console is not None else ""

    def start(self, timeout: float) -> None:
        """Boot to "agent ready".

        Args:
            timeout: Seconds from now.

        Raises:
            BootError: The guest did not get there; the message holds the console's last lines.
            ToolMissing: vng or QEMU is not installed.
        """
        self._require(State.BOOTING)
        started = time.monotonic()
        (self.folder / "root").mkdir()
        wrapper = self.folder / "qemu"
        wrapper.write_text(wrapper_script(find_qemu(), self.folder))
        wrapper.chmod(0o700)
        self._listener = Listener(self.folder / "channel.sock")
        self.command = vng_argv(self.spec, vng=find_vng(), qemu=wrapper, run_dir=self.folder)
        log.info("+ %s", quote(self.command))
        # vng looks for its own helpers on PATH, where a virtual environment that is not activated is missing.
        path = os.pathsep.join((str(Path(self.command[0]).parent), os.environ.get("PATH", os.defpath)))
        self._child = pexpect.spawn(
            self.command[0],
            self.command[1:],
            env={**os.environ, "PATH": path, "TERM": "dumb"},
            timeout=None,
            dimensions=(50, 400),
            echo=False,
        )
        self._console = Console(self._child, self.folder / "console.log")
        self._channel = self._connect(started + timeout)
        try:
            self.about = self._channel.wait_event(started + timeout - time.monotonic())
        except (GuestHung, ChannelClosed) as error:
            raise self._boot_error(timeout, isinstance(error, ChannelClosed)) from error
        self.boot_seconds = time.monotonic() - started
        self.state = State.READY

    def _connect(self, deadline: float) -> Channel:
        assert self._listener is not None
        assert self._console is not None
        timeout = deadline - time.monotonic()
        while time.monotonic() < deadline:
            channel = self._listener.accept(min(_POLL_INTERVAL, max(0.0, deadline - time.monotonic())))
            if channel is not None:
                return channel
            if self._console.ended.is_set():
                raise self._boot_error(timeout, ended=True)
        raise self._boot_error(timeout, ended=False)

    def _boot_error(self, timeout: float, ended: bool) -> BootError:
        if ended and self._console is not None:
            self._console.ended.wait(_END_TIMEOUT)
        self.state = State.DEAD
        lines = self._console.lines() if self._console is not None else []
        cause = cause_of_death(lines)
        if cause is not None:
            what = f"the kernel {self.label} died while it booted: {cause}"
        elif ended:
            what = f"QEMU ended before the guest of {self.label} was ready"
        else:
            what = f"the guest of {self.label} was not ready within {timeout:.0f} s"
        return BootError(
            what,
            expected="the guest's agent to report that it is ready",
            hint=f"look at the console below; by hand: {quote(self.command)}",
            detail=self.console_tail() or "(the console is empty)",
        )

    def _require(self, *states: State) -> None:
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
        """Return a fresh guest process."""
        self._processes += 1
        self.ask_agent("start", number=self._processes)
        return GuestProcess(self, self._processes)

    def has_ended(self, process: int) -> bool:
        """Whether the end of this guest process has been reported."""
        return self._channel is not None and process in self._channel.exits

    def _ask(self, process: int, name: str, value: object, timeout: float) -> Any:
        self._require(State.READY)
        assert self._channel is not None
        try:
            return self._channel.request(process, name, value, timeout=timeout)
        except ChannelClosed as error:
            raise self._explain_end(str(error)) from error
        except GuestHung as error:
            raise self._explain_silence(process, error) from error
        except GuestProcessDied as error:
            error.detail = self.console_tail(12)
            raise

    def _explain_end(self, what: str) -> HarnessError:
        """The channel is closed: find out whether the kernel died or the link to it."""
        self.state = State.DEAD
        assert self._console is not None
        self._console.ended.wait(_END_TIMEOUT)
        cause = cause_of_death(self._console.lines())
        if cause is not None:
            return KernelCrashed(f"the kernel {self.release} crashed: {cause}", detail=self.console_tail())
        return LinkBroken(
            f"QEMU ended under the guest of {self.label}, and its kernel gave no sign of a crash ({what})",
            expected="QEMU to run until the test is over",
            hint="look for its end in the host's log (out of memory?), then run the test again",
            detail=self.console_tail() or "(the console is empty)",
        )

    def _explain_silence(self, process: int, error: GuestHung) -> GuestError:
        """No answer in time: find out whether one guest process hangs or the whole guest."""
        assert self._channel is not None
        if process != wire.AGENT:
            with contextlib.suppress(GuestHung, ChannelClosed):
                self._channel.request(wire.AGENT, "ping", ("ping", {}), timeout=_PING_TIMEOUT)
                self._channel.request(
                    wire.AGENT, "signal", ("signal", {"number": process, "signum": 9}), timeout=_PING_TIMEOUT
                )
                return GuestHung(f"{error.what}; the kernel {self.release} is alive, the guest process was killed")
        self.state = State.DEAD
        return GuestHung(
            f"{error.what}; the kernel {self.release} stopped answering altogether",
            detail=self.console_tail() or "(the console is empty)",
        )

    def close(self) -> None:
        """End QEMU and remove the machine's folder; may be called in any state, and again."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        for link in (self._channel, self._listener):
            if link is not None:
                link.close()
        if self._child is not None:
            self._end_child(self._child)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_child(self, child: pexpect.spawn[bytes]) -> None:
        """Kill QEMU; vng then ends by itself and removes its own temporary files."""
        assert self._console is not None
        assert child.pid is not None
        try:
            os.kill(int((self.folder / "qemu.pid").read_text()), signal.SIGKILL)
            killed = self._console.ended.wait(_END_TIMEOUT)
        except (FileNotFoundError, ValueError):
            killed = False  # vng has not started it yet
        except ProcessLookupError:
            killed = self._console.ended.wait(_END_TIMEOUT)
        if not killed:
            kill_group(child.pid)
            self._console.ended.wait(_END_TIMEOUT)
        child.close(force=True)


class GuestProcess:
    """A process in the guest that serves one test, with file descriptors of its own."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number

    def call(self, name: str, *arguments: Any, timeout: float = 30.0, **keywords: Any) -> Any:
        """Call a function of a guest-side loader, such as "bpf.map_create".

        Args:
            name: Loader and function.
            *arguments: Positional arguments, plain values.
            timeout: Seconds.
            **keywords: Keyword arguments, plain values.

        Raises:
            GuestCallError: It raised in the guest.
            GuestProcessDied: The process ended.
            KernelCrashed: The kernel panicked meanwhile.
            GuestHung: No answer in time.
            LinkBroken: QEMU ended for another reason.
        """
        return self.machine._ask(self.number, name, (name, arguments, keywords), timeout)

    @property
    def alive(self) -> bool:
        """Whether the process can still be asked."""
        return self.machine.state is State.READY and not self.machine.has_ended(self.number)

    def close(self) -> None:
        """Kill the process; nothing happens when the machine is no longer there."""
        if self.machine.state is State.READY:
            self.machine.ask_agent("signal", number=self.number, signum=int(signal.SIGKILL))


def boot(spec: MachineSpec, *, label: str, timeout: float) -> Machine:
    """Boot a guest and return it when its agent is ready.

    Args:
        spec: What to boot.
        label: What messages call the kernel.
        timeout: Seconds until it has to be ready.

    Raises:
        BootError: It did not get there.
        ToolMissing: vng or QEMU is not installed.
    """
    machine = Machine(spec, label)
    try:
        machine.start(timeout)
    except BaseException:
        machine.close()
        raise
    return machine
