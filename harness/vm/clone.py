"""Clones of a saved machine: QEMU maps the template's memory copy-on-write and loads its state."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import socket
import threading
import time
from pathlib import Path

from harness.errors import GuestHung, MonitorError, ProtocolBroken, TemplateError
from harness.guest import calls, wire
from harness.util import cache
from harness.util.proc import quote
from harness.vm import memory
from harness.vm.accel import KVM
from harness.vm.channel import FIRST_TAG, Channel, ChannelClosed
from harness.vm.command import CONSOLE_LOG, Inherited, clone_argv, clone_commands
from harness.vm.console import tail_of
from harness.vm.machine import Machine, State
from harness.vm.process import ClonedProcess
from harness.vm.sandbox import User, unprivileged_user
from harness.vm.spec import Accel, MachineSpec
from harness.vm.template import RAM, STATE, Template, log, mark_of

CLONE_TIMEOUT = 30.0
"""Seconds that a clone may take to its first answer; a fifth of a second is usual."""

_SLEEP, _WAKES_WITHIN = 0.05, 10.0
"""Seconds that a clone sleeps on trial, and may take for it on a busy machine."""


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
    ours, theirs = socket.socketpair()
    monitor, theirs_monitor = socket.socketpair()
    shared = os.memfd_create("harness-shared", os.MFD_CLOEXEC)
    os.ftruncate(shared, wire.SHARED_SIZE)
    channel = Channel(ours, mmap.mmap(shared, wire.SHARED_SIZE))
    feeder: Feeder | None = None
    try:
        with theirs, theirs_monitor, contextlib.ExitStack() as opened:
            opened.callback(os.close, shared)
            user = unprivileged_user(KVM if spec.accel is Accel.KVM else None)
            console = _console(folder / CONSOLE_LOG, user)
            opened.callback(os.close, console)
            ram, private_rom = _memory(template, opened)
            disk = _disk(spec, opened)
            try:
                feeder = Feeder(template.folder / STATE)
            except FileNotFoundError:
                raise _changed(template, STATE, spec) from None
            opened.callback(os.close, feeder.reader)
            inherited = Inherited(theirs_monitor.fileno(), theirs.fileno(), shared, console, ram, private_rom, disk)
            argv = clone_argv(template.argv, run_dir=folder, inherited=inherited)
            log.info("+ %s", quote(argv))
            if not template.whole_stream:
                # Written before QEMU starts, so that nothing waits for QEMU's monitor.
                if spec.architecture.clone_polls:
                    channel.leave(wire.AGENT, _identity(spec))
                monitor.sendall(clone_commands(feeder.reader))
            numbers = [theirs_monitor.fileno(), theirs.fileno(), shared, console, feeder.reader]
            process = ClonedProcess(
                argv,
                folder,
                monitor=monitor,
                inherited=[*numbers, *(one for one in (ram, disk) if one is not None)],
                user=user,
            )
            state = feeder.reader
            feeder.start()
    except BaseException:
        if feeder is not None:
            feeder.close()
        channel.close()
        monitor.close()
        cache.remove_run_folder(folder)
        raise
    return Clone(template, spec, folder, process, channel, state)


def _console(path: Path, user: User | None) -> int:
    """Return the descriptor of a new file for the console, which the user may open again."""
    console = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if user is not None:
        os.fchown(console, user.number, user.number)
    return console


def _memory(template: Template, opened: contextlib.ExitStack) -> tuple[int | None, bool]:
    """Return the descriptor of a template's memory, and whether it is for reading alone."""
    if template.whole_stream:
        return None, False
    if template.private_rom:
        ram = memory.for_reading(template.folder / RAM)
        if ram is not None:
            opened.callback(os.close, ram)
            return ram, True
    try:
        return memory.sealed_copy(template.folder / RAM, template.marks[RAM]), False
    except OSError as error:
        raise TemplateError(
            f"the memory of a saved machine cannot be copied: {error.strerror}",
            expected=f"{template.folder / RAM} that can be read, and as much free memory",
        ) from error


def _disk(spec: MachineSpec, opened: contextlib.ExitStack) -> int | None:
    """Return the descriptor of the image of a machine's disk; None where it has none."""
    if spec.rootfs is None:
        return None
    try:
        disk = os.open(spec.rootfs.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TemplateError(
            f"the root file system of {spec.label} cannot be read: {error.strerror}",
            expected=f"{spec.rootfs.path}",
            hint="run it again",
        ) from error
    opened.callback(os.close, disk)
    return disk


class Feeder:
    """Gives QEMU the saved state through a pipe: it may start no program that reads the file.

    Attributes:
        reader: The pipe's end that QEMU inherits.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.reader, writer = os.pipe()
        self._pipe = os.fdopen(writer, "wb", buffering=0)

    def start(self) -> None:
        """Write the state: at once if the pipe can hold it, else in a thread."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            fits = fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, size) >= size
        except PermissionError:  # more than this user may have
            fits = False
        if fits:
            self._write()
        else:
            threading.Thread(target=self._write, name="harness-saved-state", daemon=True).start()

    def close(self) -> None:
        """Close it, when QEMU was not started."""
        self._file.close()
        self._pipe.close()

    def _write(self) -> None:
        # A QEMU that has ended, or refused the state, is noticed on its channel.
        with contextlib.suppress(BrokenPipeError), self._file, self._pipe:
            shutil.copyfileobj(self._file, self._pipe, 1 << 20)


def _changed(template: Template, name: str, spec: MachineSpec) -> TemplateError:
    return TemplateError(
        f"the saved machine of {spec.label} was changed or removed while it was in use",
        expected=f"{template.folder / name} unchanged since it was checked",
        hint="run it again",
    )


def require_timers(template: Template, spec: MachineSpec) -> None:
    """Start a clone and let it sleep a moment: QEMU may have lost the interrupts of its timers.

    Args:
        template: The template.
        spec: The template's specification.

    Raises:
        TemplateError: The clone does not start, or does not wake up again.
    """
    machine = start_clone(template, spec).finish()
    try:
        machine.ask_agent_within(_WAKES_WITHIN, calls.Agent.sleep, _SLEEP)
    except GuestHung as error:
        raise TemplateError(
            f"a clone of the saved machine of {spec.label} sleeps for ever",
            expected=f"that it wakes up after {_SLEEP:g} s",
            hint="this QEMU loses the timers of saved machines: install another, or use --isolation=boot",
        ) from error
    finally:
        machine.close()


def _identity(spec: MachineSpec) -> calls.Request:
    """Return the request that gives a clone its own identity."""
    entropy = os.urandom(64)
    return calls.request(
        calls.Agent.wake,
        "",
        realtime=time.time(),
        entropy=entropy,
        hostname=f"kh-{entropy[:4].hex()}",
        restarts_timers=spec.architecture.restarts_timers,
    )


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
        channel: Channel,
        state: int,
    ) -> None:
        self._template = template
        self._spec = spec
        self._folder = folder
        self._process = process
        self._channel = channel
        self._state = state

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
            channel = self._channel
            machine = Machine(
                self._spec,
                folder=self._folder,
                process=self._process,
                channel=channel,
                about=self._template.about,
                boot_log=self._template.boot_log,
                state=State.STARTING,
            )
            polls = self._spec.architecture.clone_polls
            channel.expect(memory=bool(self._spec.architecture.shared))
            if self._template.whole_stream:
                from harness.vm.qmp import load_state

                load_state(self._process.monitor.connection, self._state, timeout=timeout)
            elif not polls:
                # A port takes nothing before its guest runs.
                self._process.monitor.wait_for("RESUME", timeout)
            if self._template.whole_stream or not polls:
                channel.post(wire.AGENT, FIRST_TAG, _identity(self._spec), deadline)
            channel.collect(wire.AGENT, FIRST_TAG, calls.name_of(calls.Agent.wake), deadline)
            machine.move(State.READY)
        except (GuestHung, ChannelClosed, ProtocolBroken, MonitorError) as error:
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
        self._channel.close()
        self._process.kill()
        cache.remove_run_folder(self._folder)
