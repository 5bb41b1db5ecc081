"""Boots a machine through virtme-ng, up to "agent ready"."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
from pathlib import Path
from typing import Any

from harness import needs
from harness.errors import BootError, GuestHung, ProtocolBroken, StateError, VngFailed
from harness.guest import calls
from harness.util import cache
from harness.util.errnos import errno_name
from harness.util.proc import quote
from harness.vm.channel import Channel, ChannelClosed, Listener
from harness.vm.command import (
    CHANNEL_SOCKET,
    FILE_SCRIPT,
    QEMU_ARGV,
    SHARED,
    TOOLS,
    plain_argv,
    plain_vng_argv,
    vng_argv,
    wrapper_script,
)
from harness.vm.console import agent_exited, cause_of_death, tail_of
from harness.vm.host_state import Watch
from harness.vm.machine import Machine
from harness.vm.process import QemuProcess, VngProcess, find_qemu, find_vng
from harness.vm.sandbox import SANDBOX, abilities
from harness.vm.spec import BOOT_TIMEOUT, MachineSpec

log = logging.getLogger("harness.vm")

_MORE_TIME = "run again; with fewer workers (-n) or a longer --boot-timeout if this machine is busy"
_WRONG_PORT = (
    "if the console below ends with the firmware's lines, the kernel takes the channel's serial port for its first, "
    "and writes its log there"
)
_POLL_INTERVAL = 0.25
_END_TIMEOUT = 5.0


def boot(spec: MachineSpec, *, timeout: float = BOOT_TIMEOUT) -> Machine:
    """Boot a guest and return it when its agent is ready.

    Args:
        spec: What to boot.
        timeout: Seconds until it must be ready.

    Raises:
        BootError: It was not ready in time or died; the message has the console's last lines. VngFailed when vng did
            not start QEMU.
        ToolMissing: vng or QEMU is not installed.
    """
    vng, qemu = find_vng(), find_qemu(spec.architecture)
    folder = cache.run_folder()
    process: QemuProcess | None = None
    channel: Channel | None = None
    listener = Listener(folder / CHANNEL_SOCKET, folder / SHARED)
    try:
        argv = _prepare(spec, folder, vng=vng, qemu=qemu)
        log.info("+ %s", quote(argv))
        deadline = time.monotonic() + timeout
        process = VngProcess(argv, folder)
        channel = connect(listener, process, deadline)
        about = watch = broken = None
        if channel is not None:
            with contextlib.suppress(StateError):  # it has ended already
                watch = Watch(process.pid())
                watch.look()
            try:
                with contextlib.suppress(GuestHung, ChannelClosed):
                    about = channel.wait_event(deadline - time.monotonic())
            except ProtocolBroken as error:
                broken = error
        if channel is None or about is None:
            if process.wait(0) and not (folder / QEMU_ARGV).exists():
                raise _vng_failed(process.console(), plain_vng_argv(spec, vng=vng))
            stalled = watch.trouble() if watch is not None else None
            raise _boot_error(spec.label, process, plain_argv(spec, qemu=qemu), timeout, stalled, broken)
        if about["event"] != "ready":
            raise _module_error(spec.label, process, about)
        machine = Machine(spec, folder=folder, process=process, channel=channel, about=about, boot_log=[])
        machine.boot_log = machine.ask_agent(calls.Agent.log_since)["records"]
        return machine
    except BaseException:
        for part in (channel, listener):
            if part is not None:
                part.close()
        if process is not None:
            process.kill()
        cache.remove_run_folder(folder)
        raise


def _prepare(spec: MachineSpec, folder: Path, *, vng: Path, qemu: Path) -> list[str]:
    (folder / "root").mkdir()
    (folder / TOOLS).mkdir()
    wrapper = folder / "qemu"
    options = ("-sandbox", SANDBOX) if abilities(qemu).sandbox else ()
    script = wrapper_script(qemu, folder, spec.architecture.dropped, *options)
    for path, content in ((wrapper, script), (folder / TOOLS / "file", FILE_SCRIPT)):
        path.write_text(content)
        path.chmod(0o700)
    kernel = _plain_path(spec.kernel.boot_image, folder / "kernel")
    return vng_argv(spec, kernel=kernel, vng=vng, qemu=wrapper, run_dir=folder)


def _plain_path(path: Path, link: Path) -> Path:
    """Return the path, or a link to it: vng passes paths to a shell unquoted, so a blank would split a path."""
    if shlex.quote(str(path)) == str(path):
        return path
    link.symlink_to(path)
    return link


def connect(listener: Listener, process: QemuProcess, deadline: float) -> Channel | None:
    """Return the channel when QEMU has connected; None when QEMU ended or the time is over."""
    while time.monotonic() < deadline:
        channel = listener.accept(_POLL_INTERVAL)
        if channel is not None or process.wait(0):
            return channel
    return None


def _module_error(label: str, process: QemuProcess, event: dict[str, Any]) -> BootError:
    """Return the error for a module that the kernel refused."""
    module = event["module"].partition("-")[2].removesuffix(".ko")
    return BootError(
        f"the kernel {label} refused the module {module}: {errno_name(event['errno'])} ({event['errno']})",
        expected="all modules of the test, and their dependencies, to load in order",
        hint="the kernel's reason is in the console below",
        detail=tail_of(process.console(), 12),
    )


def _vng_failed(lines: list[str], plain: list[str]) -> VngFailed:
    """Return the error for a vng that started no QEMU, with vng's message."""
    words = next((line for line in reversed(lines) if line.strip()), "it printed nothing").strip()
    need = needs.named_in(words)
    mend = need.install if need is not None else "`harness doctor` names what is missing on this machine"
    return VngFailed(
        f"vng ended before it started QEMU: {words}",
        expected="vng to start QEMU",
        hint=f"{mend}; vng without the harness: {quote(plain)}",
        detail=tail_of(lines),
    )


def _boot_error(
    label: str,
    process: QemuProcess,
    plain: list[str],
    timeout: float,
    stalled: str | None,
    broken: ProtocolBroken | None,
) -> BootError:
    # A panic ends QEMU; its last lines may still arrive.
    ended = process.wait(_END_TIMEOUT if cause_of_death(process.console()) else 0.5)
    lines = process.console()
    cause = cause_of_death(lines)
    hint = _MORE_TIME if stalled else f"look at the console below; without the harness: {quote(plain)}"
    if agent_exited(lines):
        what = f"the agent in the guest of {label} ended by itself while the guest booted, a defect of kernel-harness"
    elif cause is not None:
        what = f"the kernel {label} died while it booted: {cause}"
    elif ended:
        what = f"QEMU ended before the guest of {label} was ready"
    elif broken is not None:
        what = f"before its agent, something else wrote to the channel of the guest of {label}: {broken.what}"
        hint = _WRONG_PORT
    else:
        what = f"the guest of {label} was not ready within {timeout:g} s{f': {stalled}' if stalled else ''}"
    return BootError(
        what,
        expected="the guest's agent to report that it is ready",
        hint=hint,
        detail=tail_of(lines, 60 if agent_exited(lines) else 25),  # the agent's traceback comes before the kernel's
    )
