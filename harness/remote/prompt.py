"""An interactive Python prompt in a guest: a guest process that runs what is typed, seen from the host.

Imports the machine below it, the transfer of programs beside it, :mod:`harness.errors`.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.errors import BuildError, GuestProcessDied, UsageError
from harness.guest import calls
from harness.remote import transfer
from harness.vm.guest_process import Pending
from harness.vm.machine import Machine


@dataclass(frozen=True)
class Answer:
    """What became of one input.

    Attributes:
        stdout: What it printed.
        stderr: Likewise, a traceback included.
        raised: Whether it raised, or a program did not end with status 0.
        leave: Whether it asked to leave.
    """

    stdout: str
    stderr: str
    raised: bool = False
    leave: bool = False


class Prompt(Protocol):
    """A prompt in some guest, in this process or reached through another one."""

    @property
    def release(self) -> str:
        """What `uname -r` prints in the guest."""

    @property
    def greeting(self) -> str:
        """What to tell the person who opens it."""

    def begin(self, kind: str, value: Any) -> None:
        """Start "run" with source text, or "command" with a list of words."""

    def poll(self, timeout: float) -> Answer | None:
        """Wait for what was started, `timeout` seconds at most; None when it is not done."""

    def interrupt(self) -> None:
        """Interrupt what was started; the second time, kill the guest process it runs in."""

    def complete(self, text: str) -> list[str]:
        """Return what a name that begins like this may go on to be."""


class GuestPrompt:
    """A prompt in a guest process of its own.

    Args:
        machine: The machine; it has to be ready.

    Raises:
        StateError: It is not.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pending: Pending[str] | None = None
        self._interrupted = False
        self._said = ""
        self._refused: Answer | None = None
        self._start()

    def _start(self) -> None:
        self._process = self._machine.new_process()
        self._names = self._process.ask(calls.Prompt.start)

    @property
    def release(self) -> str:
        """What `uname -r` prints in the guest."""
        return self._machine.release

    @property
    def greeting(self) -> str:
        """What to tell the person who opens it."""
        return (
            f"Python in a guest of {self.release}, in a process of its own. At hand: {', '.join(self._names)}.\n"
            "!PROGRAM WORDS runs a program there, sent from this machine if the guest lacks it. Ctrl-D leaves."
        )

    def begin(self, kind: str, value: Any) -> None:
        """Start "run" with source text, or "command" with a list of words."""
        self._interrupted = False
        self._said = ""
        if kind == "run":
            self._pending = self._process.begin(calls.Prompt.run, value)
            return
        try:
            words = [self._program(value[0]), *value[1:]]
        except (UsageError, BuildError) as error:
            self._refused = Answer("", f"{error}\n", raised=True)
            return
        self._pending = self._process.begin(calls.Prompt.command, words)

    def _program(self, name: str) -> str:
        """Return what to call a program in the guest, sent there from the host if it is the host alone that has it."""
        found = shutil.which(name)
        if found is None or self._process.ask(calls.Prompt.has_program, name):
            return name
        place = transfer.push_program(self._process, Path(found))
        self._said = f"(sent {found} to the guest)\n"
        return place

    def poll(self, timeout: float) -> Answer | None:
        """Wait for what was started, `timeout` seconds at most; None when it is not done.

        Raises:
            KernelCrashed: The kernel panicked meanwhile.
            GuestHung: The guest answers no more.
            LinkBroken: QEMU ended for another reason.
        """
        if self._refused is not None:
            refused, self._refused = self._refused, None
            return refused
        assert self._pending is not None, "begin comes before poll"
        try:
            if not self._pending.poll(timeout):
                return None
            printed = self._process.ask(calls.Process.output)
        except GuestProcessDied as error:
            self._pending = None
            self._start()
            return Answer("", f"{error.what}; here is a new one, without the names of the old\n", raised=True)
        ended, self._pending = self._pending.value, None
        stdout, stderr = (printed_to.decode(errors="replace") for printed_to in (printed["stdout"], printed["stderr"]))
        return Answer(stdout, self._said + stderr, raised=ended == "raised", leave=ended == "leave")

    def interrupt(self) -> None:
        """Interrupt what was started; the second time, kill the guest process it runs in."""
        if self._pending is None:
            return
        if self._interrupted:
            self._process.close()
            return
        self._interrupted = True
        self._machine.ask_agent(calls.Agent.signal, self._process.number, int(signal.SIGINT))
        # The answer may have come while the agent's was waited for; the process says it again.
        self._pending = self._process.begin(calls.Prompt.last)

    def complete(self, text: str) -> list[str]:
        """Return what a name that begins like this may go on to be."""
        return self._process.ask(calls.Prompt.complete, text)

    def close(self) -> None:
        """End the guest process."""
        self._process.close()
