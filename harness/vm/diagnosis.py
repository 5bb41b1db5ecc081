"""Why a machine gave no answer: its guest process, its kernel, QEMU or this machine is to blame.

It asks the agent, the console, QEMU's monitor and this machine. :mod:`harness.vm.death` explains a QEMU that has ended.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from harness.errors import GuestHung, GuestProcessDied, HarnessError, KernelCrashed, ProtocolBroken, QemuStalled
from harness.guest import calls, wire
from harness.vm import answers
from harness.vm.channel import Channel, ChannelClosed
from harness.vm.console import cause_of_death
from harness.vm.death import is_out_of_memory, why_it_ended
from harness.vm.host_state import Watch

if TYPE_CHECKING:
    from harness.guest.calls import P, R
    from harness.vm.machine import Machine

PING_TIMEOUT = 5.0
_END_TIMEOUT = 5.0

_SPINS = "look for what takes all its processor time: a program at a real-time priority, or a loop in the kernel"
_WAITS = "look for what stopped it: its processors are idle"


class Diagnosis:
    """Turns what a channel raises into the error to raise: it names who is to blame.

    Attributes:
        end: What was raised when the machine was found dead; None before.

    Args:
        machine: The machine, which is marked dead when it is.
        channel: Its channel.
    """

    def __init__(self, machine: Machine, channel: Channel) -> None:
        self.end: HarnessError | None = None
        self._machine = machine
        self._channel = channel
        self._ending = threading.Lock()
        self._watch: Watch | None = None
        channel.waiting = self.look

    def begin(self) -> None:
        """Forget what this machine let QEMU do: another request begins."""
        self._watch = None

    def look(self) -> Watch:
        """Look at what this machine lets QEMU do, which the channel does while it waits; return what was seen."""
        watch = self._watch or Watch(self._machine.process.pid())
        self._watch = watch
        watch.look()
        return watch

    def explain(
        self, process: int, error: ChannelClosed | ProtocolBroken | GuestHung | GuestProcessDied
    ) -> HarnessError:
        """Return the error to raise.

        Args:
            process: The number of the guest process that was asked, or wire.AGENT.
            error: What the channel raised.
        """
        if isinstance(error, GuestHung):
            return self._explain_silence(process, error)
        if isinstance(error, GuestProcessDied):
            return self._explain_death(process, error)
        return self._explain_end(error)

    def _explain_end(self, error: ChannelClosed | ProtocolBroken) -> HarnessError:
        """Return the error for a channel that closed or carries nonsense: what the guest did, or what was lost."""
        machine = self._machine
        with self._ending:  # several threads may find it closed
            if self.end is None:
                if isinstance(error, ProtocolBroken):
                    error.detail = machine.console_tail(12)
                    self.end = error
                else:
                    machine.process.wait(_END_TIMEOUT)
                    self.end = why_it_ended(machine.label, machine.release, machine.process.end(error.what))
                machine.die()
            return self.end

    def _die_of(self, error: HarnessError) -> HarnessError:
        machine = self._machine
        with self._ending:
            if self.end is None:
                machine.die()
                self.end = error
            return self.end

    def _ask(self, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Ask the agent while an error is explained: silence and the channel's end are raised as they are."""
        request = calls.request(call, "", *arguments, **keywords)
        answer: R = self._channel.request(wire.AGENT, request[0], request, timeout=PING_TIMEOUT)
        answers.check(call, answer)
        return answer

    def _keep_words(self, process: int, error: GuestHung | GuestProcessDied) -> str:
        """Put what a guest process has printed into its error; return the stacks of its threads."""
        words = self._ask(calls.Agent.last_words, process)
        error.stdout, error.stderr, stacks = (
            words[name].decode(errors="replace") for name in ("stdout", "stderr", "stacks")
        )
        return stacks

    def _explain_death(self, process: int, error: GuestProcessDied) -> HarnessError:
        """Return the error for a guest process that has ended, or for the guest if it has ended too."""
        machine = self._machine
        error.detail = machine.console_tail(12)
        if is_out_of_memory(error.status, machine.process.console()):
            error.what = f"{error.what}: the guest has no memory left"
            error.hint = f"it has {machine.spec.needs.memory} MiB; the marker vm(memory=MiB) gives it more"
        try:
            self._keep_words(process, error)
        except (ChannelClosed, ProtocolBroken, GuestHung) as other:
            return self.explain(wire.AGENT, other)
        return error

    def _explain_silence(self, process: int, error: GuestHung) -> HarnessError:
        """Return the error for a missing answer: this machine's doing, or one guest process hangs, or the guest."""
        machine = self._machine
        watch = self.look()
        stalled = watch.trouble()
        if stalled is None and process != wire.AGENT:
            hung = GuestHung(f"{error.what}; the kernel {machine.release} is alive, the guest process was killed")
            try:
                self._ask(calls.Agent.ping)
                # After a short time-out it shows only now whether this machine let QEMU run.
                stalled = watch.trouble()
                if stalled is None:
                    words = self._keep_words(process, hung)
                    hung.detail = f"the stacks of its threads, the innermost frame first:\n{words}" if words else ""
                    self._ask(calls.Agent.signal, process, int(signal.SIGKILL))
                    return hung
            except GuestHung:
                stalled = watch.trouble()
            except (ChannelClosed, ProtocolBroken) as other:
                return self._explain_end(other)
        cause = cause_of_death(machine.process.console())
        if cause is not None:
            return self._die_of(
                KernelCrashed(f"the kernel {machine.release} crashed: {cause}", detail=machine.console_tail())
            )
        if stalled is None and machine.process.monitor_answers(PING_TIMEOUT) is False:
            stalled = "QEMU itself does not answer"
        if stalled is not None:
            return self._die_of(
                QemuStalled(
                    f"{error.what}: {stalled}",
                    expected="a machine that lets QEMU run",
                    hint="run the test again; with fewer workers (-n) or a longer time-out if this machine is busy",
                    detail=machine.console_tail(),
                )
            )
        return self._die_of(
            GuestHung(
                f"{error.what}; the kernel {machine.release} stopped answering completely",
                hint=_SPINS if watch.is_busy() else _WAITS,
                detail=machine.console_tail(),
            )
        )
