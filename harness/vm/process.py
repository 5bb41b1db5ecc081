"""The programs that run a machine: QEMU, and vng when vng started QEMU."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pexpect

from harness import needs
from harness.errors import MonitorError, StateError, ToolMissing
from harness.util import architecture
from harness.util.architecture import Architecture
from harness.util.proc import kill_group
from harness.vm.command import CONSOLE_LOG, QEMU_ARGV, QMP_SOCKET, TOOLS
from harness.vm.console import Console, read_lines
from harness.vm.death import QemuEnd
from harness.vm.monitor import Monitor
from harness.vm.network import without_warnings
from harness.vm.sandbox import User, confine

# What names the ports in the guest that a command's output goes through.
_UDEV = "udevd"

_END_TIMEOUT = 5.0


class QemuProcess(Protocol):
    """A running QEMU and its console."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end of QEMU; return whether it has ended."""

    def pid(self) -> int:
        """Return QEMU's pid."""

    def watch(self) -> None:
        """Connect to QEMU's monitor, for :meth:`end`, where that was not done."""

    def end(self, symptom: str) -> QemuEnd:
        """Return what is known of the end of QEMU, which has ended; `symptom` is what was seen first."""

    def monitor_answers(self, timeout: float) -> bool | None:
        """Return whether QEMU itself answers within `timeout` seconds; None when it cannot be asked."""

    def run(self, command: dict[str, Any], timeout: float, descriptor: int | None = None) -> None:
        """Let QEMU carry out a command of its monitor; see :meth:`harness.vm.monitor.Monitor.run`."""

    def command(self) -> list[str]:
        """Return QEMU's command."""

    def console(self) -> list[str]:
        """Return the console's last lines, oldest first."""

    def kill(self) -> None:
        """Kill QEMU; does nothing when it has ended."""


def find_qemu(wanted: Architecture | None = None) -> Path:
    """Return the QEMU program of an architecture.

    Args:
        wanted: The architecture; default: this machine's own.

    Raises:
        ToolMissing: It is not installed.
    """
    return needs.program((wanted or architecture.own()).qemu)


def pids_of_qemu(folder: Path) -> list[int]:
    """Return the pids of the QEMUs whose machine has this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if b"qemu-system" in words[0] and any(os.fsencode(folder) in word for word in words):
            found.append(int(process.name))
    return found


def find_vng() -> Path:
    """Return virtme-ng's `vng`: beside this interpreter, else on PATH.

    Raises:
        ToolMissing: It is not installed.
    """
    beside = Path(sys.executable).with_name("vng")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("vng")
    if found is None:
        raise ToolMissing(
            "vng is not installed; it is needed to boot kernels",
            expected=f"{beside}, or a program named vng on PATH",
            hint=f"{sys.executable} -m pip install virtme-ng",
        )
    return Path(found)


def require_udev() -> None:
    """Refuse to run a command in a guest on the host's root where it could not hand over how it ended.

    Raises:
        ToolMissing: udev is not installed.
    """
    udev = needs.need(_UDEV)
    if needs.find(udev) is None:
        raise needs.missing(
            _UDEV,
            what=f"{_UDEV} is not installed; without it the guest, which runs on this machine's files, cannot hand "
            "over what a command prints, nor its exit status; a shell without a command works",
            expected=" or ".join(udev.names),
        )


def vng_environment(vng: Path, *tools: Path) -> dict[str, str]:
    """Return the environment for vng.

    vng searches PATH for its own helpers, which a virtual environment that is not activated does not add, and for
    depmod, which is not on a plain user's PATH. It prints and reads UTF-8, which not every locale allows.

    Args:
        vng: The `vng` program.
        tools: Folders of programs that vng must find before this machine's.
    """
    path = os.pathsep.join((*map(str, tools), str(vng.parent), needs.search_path()))
    return {**os.environ, "PATH": path, "PYTHONUTF8": "1"}


class ClonedProcess:
    """QEMU, started directly from a template's recorded command.

    The kernel kills it when the harness dies.

    Args:
        argv: The QEMU command.
        folder: The machine's private folder.
        monitor: The harness's end of the socket to QEMU's monitor.
        inherited: Descriptors that QEMU inherits.
        user: The user that it runs as; None: the harness's own.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        *,
        monitor: socket.socket,
        inherited: Sequence[int],
        user: User | None,
    ) -> None:
        self.monitor = Monitor(monitor)
        self._argv = list(argv)
        self._log = folder / CONSOLE_LOG
        self._errors = folder / "qemu.log"
        # QEMU fills ten MiB of heap before its guest runs; large pages (glibc 2.35) save thousands of page faults.
        tunables = [*filter(None, [os.environ.get("GLIBC_TUNABLES")]), "glibc.malloc.hugetlb=1"]
        with self._errors.open("wb") as errors:
            if user is not None:
                # vng gives it to the guest as a port too, by a path that QEMU opens again.
                os.fchown(errors.fileno(), user.number, user.number)
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={**os.environ, "GLIBC_TUNABLES": ":".join(tunables)},
                preexec_fn=confine(user),
                pass_fds=inherited,
                start_new_session=True,
            )
        (folder / "qemu.pid").write_text(str(self._child.pid))

    def wait(self, timeout: float) -> bool:
        """Wait until QEMU has ended; see :class:`QemuProcess`."""
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def pid(self) -> int:
        """Return QEMU's pid."""
        return self._child.pid

    def watch(self) -> None:
        """Do nothing: the monitor is connected from the start."""

    def end(self, symptom: str) -> QemuEnd:
        """Return what is known of QEMU's end; see :class:`QemuProcess`."""
        return QemuEnd(self.console(), self.monitor.end(), self._child.poll(), symptom)

    def monitor_answers(self, timeout: float) -> bool | None:
        """Return whether QEMU itself answers; see :class:`QemuProcess`."""
        return self.monitor.answers(timeout)

    def run(self, command: dict[str, Any], timeout: float, descriptor: int | None = None) -> None:
        """Let QEMU carry out a command; see :class:`QemuProcess`."""
        self.monitor.run(command, timeout, descriptor)

    def command(self) -> list[str]:
        """Return QEMU's command."""
        return self._argv

    def console(self) -> list[str]:
        """Return the last lines of the console and of QEMU's output; see :class:`QemuProcess`."""
        lines: list[str] = []
        for path in (self._log, self._errors):
            if path.exists():
                lines += read_lines(path)
        return without_warnings(lines)

    def kill(self) -> None:
        """Kill QEMU."""
        self.monitor.close()
        self._child.kill()
        self._child.wait()


def _give_up() -> None:
    """Undo nohup, because these programs end with the harness as their terminal closes; and give up privileges."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    confine(None, reads=True)()


class VngProcess:
    """QEMU, started by vng, which runs on its own terminal.

    When the harness is killed, the terminal closes, and SIGHUP from the kernel ends vng and QEMU.

    Args:
        argv: The vng command.
        folder: The machine's private folder; vng finds the programs in its TOOLS before this machine's.
    """

    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self.monitor: Monitor | None = None
        self._qmp = folder / QMP_SOCKET
        self._recorded = folder / QEMU_ARGV
        self._pid_file = folder / "qemu.pid"
        self._child: pexpect.spawn[bytes] = pexpect.spawn(
            argv[0],
            list(argv[1:]),
            env={**vng_environment(Path(argv[0]), folder / TOOLS), "TERM": "dumb"},
            timeout=None,
            encoding=None,
            dimensions=(50, 400),
            echo=False,
            preexec_fn=_give_up,
        )
        self._console = Console(self._child, folder / CONSOLE_LOG)

    def wait(self, timeout: float) -> bool:
        """Wait until QEMU and vng have ended; see :class:`QemuProcess`."""
        return self._console.ended.wait(timeout)

    def pid(self) -> int:
        """Return QEMU's pid.

        Raises:
            StateError: vng has not started QEMU yet.
        """
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise StateError("vng has not started QEMU yet", expected="a running QEMU") from error

    def watch(self) -> None:
        """Connect to the monitor, which serves one program at a time: not before the machine is saved."""
        if self.monitor is None:
            self.monitor = Monitor.to(self._qmp)

    def end(self, symptom: str) -> QemuEnd:
        """Return what is known of QEMU's end; see :class:`QemuProcess`. Its exit status is vng's to know."""
        return QemuEnd(self.console(), self.monitor.end() if self.monitor is not None else "", None, symptom)

    def monitor_answers(self, timeout: float) -> bool | None:
        """Return whether QEMU itself answers; see :class:`QemuProcess`."""
        return self.monitor.answers(timeout) if self.monitor is not None else None

    def run(self, command: dict[str, Any], timeout: float, descriptor: int | None = None) -> None:
        """Let QEMU carry out a command; see :class:`QemuProcess`."""
        self.watch()
        if self.monitor is None:
            raise MonitorError("QEMU's monitor cannot be reached", expected="a QEMU that runs")
        self.monitor.run(command, timeout, descriptor)

    def command(self) -> list[str]:
        """Return QEMU's command, which vng has composed; nothing before vng has started QEMU or after :meth:`kill`."""
        return self._recorded.read_bytes().decode().split("\0")[:-1] if self._recorded.exists() else []

    def console(self) -> list[str]:
        """Return the console's last lines; see :class:`QemuProcess`."""
        return without_warnings(self._console.lines())

    def kill(self) -> None:
        """Kill QEMU; vng then ends by itself and removes its own temporary files."""
        assert self._child.pid is not None
        if self.monitor is not None:
            self.monitor.close()
        try:
            os.kill(self.pid(), signal.SIGKILL)
            ended = self.wait(_END_TIMEOUT)
        except ProcessLookupError:
            ended = self.wait(_END_TIMEOUT)
        except StateError:
            ended = False
        if not ended:
            kill_group(self._child.pid)
            self.wait(_END_TIMEOUT)
        self._child.close(force=True)
