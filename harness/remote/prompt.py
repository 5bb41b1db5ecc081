"""An interactive Python prompt in a guest, on the host's side: a guest process runs the typed text."""

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
class PromptReply:
    """The result of one input.

    Attributes:
        stdout: Its output.
        stderr: Its error output, including a traceback.
        raised: Whether it raised, or a program ended with a status other than 0.
        leave: Whether it asked to leave the prompt.
    """

    stdout: str
    stderr: str
    raised: bool = False
    leave: bool = False


class Prompt(Protocol):
    """A prompt in a guest of this process or of another process."""

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""

    @property
    def greeting(self) -> str:
        """The greeting for the user."""

    def begin(self, kind: str, value: Any) -> None:
        """Start "run" with source text, or "command" with a list of arguments."""

    def poll(self, timeout: float) -> PromptReply | None:
        """Wait at most `timeout` seconds for the started input; None when it is not done."""

    def interrupt(self) -> None:
        """Interrupt the started input; the second time, kill its guest process."""

    def complete(self, text: str) -> list[str]:
        """Return the completions of a name."""


class GuestPrompt:
    """A prompt in its own guest process.

    Args:
        machine: The machine; it must be ready.

    Raises:
        StateError: It is not ready.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pending: Pending[str] | None = None
        self._interrupted = False
        self._said = ""
        self._refused: PromptReply | None = None
        self._start()

    def _start(self) -> None:
        self._process = self._machine.new_process()
        self._names = self._process.ask(calls.Prompt.start)

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""
        return self._machine.release

    @property
    def greeting(self) -> str:
        """The greeting for the user."""
        return (
            f"Python in a guest of {self.release}, in its own process. Ready:  {', '.join(self._names)}.\n"
            "!PROGRAM ARGUMENTS runs a program there, sent from this machine if the guest lacks it. Ctrl-D leaves."
        )

    def begin(self, kind: str, value: Any) -> None:
        """Start "run" with source text, or "command" with a list of arguments."""
        self._interrupted = False
        self._said = ""
        if kind == "run":
            self._pending = self._process.begin(calls.Prompt.run, value)
            return
        try:
            words = [self._program(value[0]), *value[1:]]
        except (UsageError, BuildError) as error:
            self._refused = PromptReply("", f"{error}\n", raised=True)
            return
        self._pending = self._process.begin(calls.Prompt.command, words)

    def _program(self, name: str) -> str:
        """Return a program's name in the guest; send the program from the host if only the host has it."""
        found = shutil.which(name)
        if found is None or self._process.ask(calls.Prompt.has_program, name):
            return name
        place = transfer.push_program(self._process, Path(found))
        self._said = f"(sent {found} to the guest)\n"
        return place

    def poll(self, timeout: float) -> PromptReply | None:
        """Wait at most `timeout` seconds for the started input; None when it is not done.

        Raises:
            KernelCrashed: The kernel panicked during the call.
            GuestHung: The guest stopped answering.
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
            return PromptReply(
                "", f"{error.what}; a new process was started, without the names of the old\n", raised=True
            )
        ended, self._pending = self._pending.value, None
        stdout, stderr = (printed_to.decode(errors="replace") for printed_to in (printed["stdout"], printed["stderr"]))
        return PromptReply(stdout, self._said + stderr, raised=ended == "raised", leave=ended == "leave")

    def interrupt(self) -> None:
        """Interrupt the started input; the second time, kill its guest process."""
        if self._pending is None:
            return
        if self._interrupted:
            self._process.close()
            return
        self._interrupted = True
        self._machine.ask_agent(calls.Agent.signal, self._process.number, int(signal.SIGINT))
        # The answer may have come during the agent's answer; the process repeats it.
        self._pending = self._process.begin(calls.Prompt.last)

    def complete(self, text: str) -> list[str]:
        """Return the completions of a name."""
        return self._process.ask(calls.Prompt.complete, text)

    def close(self) -> None:
        """End the guest process."""
        self._process.close()
