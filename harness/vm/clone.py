"""Clones of a saved machine: QEMU maps the template's memory copy-on-write and loads its state."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

from harness.errors import GuestHung, MonitorError, TemplateError
from harness.guest import calls, wire
from harness.util import cache
from harness.util.proc import quote
from harness.vm.boot import connect
from harness.vm.channel import FIRST_TAG, Channel, ChannelClosed, Listener
from harness.vm.command import (
    CHANNEL_SOCKET,
    SHARED,
    clone_argv,
    clone_commands,
)
from harness.vm.console import tail_of
from harness.vm.machine import Machine, State
from harness.vm.process import ClonedProcess
from harness.vm.spec import MachineSpec
from harness.vm.template import STATE, Template, log, mark_of

CLONE_TIMEOUT = 30.0
"""Seconds that a clone may take to its first answer; a fifth of a second is usual."""


def start_clone(template: Template, spec: MachineSpec) -> Clone:
    """Start a clone; it loads in the background.

    Args:
        template: The template.
        spec: The template's specification.

    Raises:
        TemplateError: The template's files were changed or removed since they were checked.
    """
    for name, mark in template.marks.items():
        if not (template.folder / name).exists() or mark_of(template.folder / name) != mark:
            raise _changed(template, name, spec)
    folder = cache.run_folder()
    try:
        listener = Listener(folder / CHANNEL_SOCKET, folder / SHARED)
        if not template.whole_stream:
            listener.leave(wire.AGENT, _identity())
        monitor, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as opened:
            inherited = [theirs.fileno()]
            argv = clone_argv(
                template.argv,
                template=template.folder,
                run_dir=folder,
                monitor=theirs.fileno(),
                whole_stream=template.whole_stream,
            )
            log.info("+ %s", quote(argv))
            if not template.whole_stream:
                # Written before QEMU starts, so that nothing waits for QEMU's monitor.
                try:
                    state = _in_a_pipe(template.folder / STATE)
                except FileNotFoundError:
                    raise _changed(template, STATE, spec) from None
                if state is not None:
                    opened.callback(os.close, state)
                    inherited.append(state)
                monitor.sendall(clone_commands(template.folder / STATE, state))
            process = ClonedProcess(argv, folder, monitor=monitor, inherited=inherited)
    except BaseException:
        cache.remove_run_folder(folder)
        raise
    return Clone(template, spec, folder, process, listener)


def _changed(template: Template, name: str, spec: MachineSpec) -> TemplateError:
    return TemplateError(
        f"the saved machine of {spec.label} was changed or removed while it was in use",
        expected=f"{template.folder / name} unchanged since it was checked",
        hint="run it again",
    )


def _in_a_pipe(path: Path) -> int | None:
    """Return the read end of a pipe with the content of a file; None when the file does not fit into a pipe."""
    data = path.read_bytes()
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(data))
        os.write(writer, data)
    except PermissionError:
        os.close(reader)
        return None
    finally:
        os.close(writer)
    return reader


def _identity() -> calls.Request:
    """Return the request that gives a clone its own identity."""
    entropy = os.urandom(64)
    hostname = f"kh-{entropy[:4].hex()}"
    return calls.request(calls.Agent.wake, "", realtime=time.time(), entropy=entropy, hostname=hostname)


class Clone:
    """A clone on its way to being a machine, which loads while the test before it runs.

    Made by :func:`start_clone`; finish it, or abandon it.
    """

    def __init__(
        self,
        template: Template,
        spec: MachineSpec,
        folder: Path,
        process: ClonedProcess,
        listener: Listener,
    ) -> None:
        self._template = template
        self._spec = spec
        self._folder = folder
        self._process = process
        self._listener = listener
        self._channel: Channel | None = None

    def finish(self, timeout: float = CLONE_TIMEOUT) -> Machine:
        """Wait for the first answer and return the machine.

        Args:
            timeout: Seconds from now.

        Raises:
            TemplateError: The clone does not start: its template is damaged or was removed.
        """
        machine: Machine | None = None
        try:
            deadline = time.monotonic() + timeout
            channel = self._channel = connect(self._listener, self._process, deadline)
            if channel is None:
                raise self._failure("QEMU did not start")
            machine = Machine(
                self._spec,
                folder=self._folder,
                process=self._process,
                channel=channel,
                about=self._template.about,
                boot_log=self._template.boot_log,
                state=State.STARTING,
            )
            channel.expect_memory()
            if self._template.whole_stream:
                from harness.vm.qmp import load_state

                load_state(self._process.monitor, self._template.folder / STATE, timeout=timeout)
                channel.post(wire.AGENT, FIRST_TAG, _identity(), deadline)
            channel.collect(wire.AGENT, FIRST_TAG, calls.name_of(calls.Agent.wake), deadline)
            machine.move(State.READY)
        except (GuestHung, ChannelClosed, MonitorError) as error:
            failure = self._failure(error.what)
            self.abandon()
            raise failure from error
        except BaseException:
            self.abandon()
            raise
        return machine

    def _failure(self, why: str) -> TemplateError:
        self._process.wait(0.2)
        return TemplateError(
            f"a clone of the saved machine of {self._spec.label} did not start: {why}",
            expected="an answer from its agent",
            hint=f"remove {self._template.folder} and run the command again",
            detail=tail_of(self._process.console()),
        )

    def abandon(self) -> None:
        """End it."""
        for link in (self._channel, self._listener):
            if link is not None:
                link.close()
        self._process.kill()
        cache.remove_run_folder(self._folder)
