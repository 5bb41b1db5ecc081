"""Programs in the guest: each is supervised by its own guest process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import GuestCallError, UsageError
from harness.guest import calls
from harness.vm.guest_process import GuestProcess
from harness.vm.machine import Machine

OUTPUT_LIMIT = 4 << 20
"""Bytes of each output to keep."""

_MARGIN = 10.0


@dataclass(frozen=True)
class Ran:
    """The result of a program.

    Attributes:
        argv: Program and arguments.
        status: Its exit status; None when a signal ended it or it still runs.
        signal: The number of the signal that ended it, else 0.
        timed_out: Whether it was killed at the time-out.
        stdout: Standard output; bytes that are not UTF-8 are kept as surrogates.
        stderr: Standard error, in the same form.
        cut: Whether part of its output was dropped.
    """

    argv: tuple[str, ...]
    status: int | None
    signal: int
    timed_out: bool
    stdout: str
    stderr: str
    cut: bool


def process_for_programs(machine: Machine) -> GuestProcess:
    """Return a new guest process for programs and their files: in the root file system, where the machine has one."""
    process = machine.new_process()
    if machine.spec.rootfs is not None:
        process.ask(calls.Process.enter_rootfs)
    return process


@contextlib.contextmanager
def _named(process: GuestProcess, program: str) -> Iterator[None]:
    """Name the program that cannot be started; its guest process is of no use then."""
    try:
        yield
    except GuestCallError as error:
        process.close()
        if not error.errno:
            raise
        raise UsageError(
            f"{program} cannot be started in the guest: {error.what}",
            expected="an executable program of the guest's image (Python, perhaps busybox) or root file system, and "
            "the interpreter that it names",
            hint="guest.push_program, or harness exec with a path, sends a program of this machine and its libraries",
        ) from None


class Running:
    """A running program in the guest. Wait for it, or leave its with-block, which kills it."""

    def __init__(self, process: GuestProcess, argv: tuple[str, ...], pid: int) -> None:
        self._process = process
        self.argv = argv
        self.pid = pid

    @classmethod
    def start(
        cls,
        process: GuestProcess,
        argv: Sequence[str],
        stdin: bytes,
        env: dict[str, str],
        cwd: str,
        user: int | None,
        group: int | None,
        limit: int,
    ) -> Running:
        """Start a program in a new guest process; arguments as for :meth:`harness.remote.guest.Guest.start`."""
        words = tuple(argv)
        if isinstance(argv, str) or not words or not all(isinstance(word, str) for word in words):
            raise UsageError(f"{argv!r} is not a command", expected="a list of strings: a program and its arguments")
        with _named(process, words[0]):
            pid = process.ask(calls.Programs.start, list(words), stdin, env, cwd, user, group, limit)
        return cls(process, words, pid)

    def __enter__(self) -> Running:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.alive:
            self.kill()
            self._process.close()

    def wait(self, timeout: float = 60.0) -> Ran:
        """Wait for its end and return the result.

        Args:
            timeout: Seconds; then it is killed, and the result says so.
        """
        ended = self._process.ask_within(timeout + _MARGIN, calls.Programs.wait, timeout, b"")
        if not ended:
            self.kill()
            self._process.ask_within(2 * _MARGIN, calls.Programs.wait, _MARGIN, b"")
        return self._collect(timed_out=not ended)

    def ends(self, timeout: float) -> bool:
        """Wait for its end; return whether it came within `timeout` seconds. It is not killed."""
        return self._process.ask_within(timeout + _MARGIN, calls.Programs.wait, timeout, b"")

    def prints(self, text: str, timeout: float) -> bool:
        """Wait until it has printed `text`; return False when it ended before, or after `timeout` seconds."""
        return self._process.ask_within(timeout + _MARGIN, calls.Programs.wait, timeout, text.encode())

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has printed `text`.

        Raises:
            AssertionError: It ended without printing it, or the time is over; the message has its output.
        """
        if not self.prints(text, timeout):
            found = self.output()
            how = "still runs" if found.status is None and not found.signal else f"ended with status {found.status}"
            raise AssertionError(
                f"{self.argv[0]} has not printed {text!r} and {how}\nstdout: {found.stdout}\nstderr: {found.stderr}"
            )

    def output(self) -> Ran:
        """Return its output so far."""
        return self._collect(timed_out=False)

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group."""
        self._process.ask(calls.Programs.send_signal, int(number))

    def kill(self) -> None:
        """Kill its process group."""
        self.send_signal(signal.SIGKILL)

    def _collect(self, *, timed_out: bool) -> Ran:
        found = self._process.ask(calls.Programs.collect)
        code = found["returncode"]
        return Ran(
            self.argv,
            code if code is not None and code >= 0 else None,
            -code if code is not None and code < 0 else 0,
            timed_out,
            found["stdout"].decode(errors="surrogateescape"),
            found["stderr"].decode(errors="surrogateescape"),
            found["cut"],
        )


@dataclass(frozen=True)
class Piece:
    """What a program with carried streams has done since the last look.

    Attributes:
        stdout: Bytes of its standard output.
        stderr: Bytes of its standard error.
        pending: Bytes of its standard input that it has not taken yet.
        returncode: Its exit status, or the negative number of the signal that ended it; None before all is fetched.
    """

    stdout: bytes
    stderr: bytes
    pending: int
    returncode: int | None


class Streamed:
    """A program in the guest whose streams pass through this object, in both directions, as they come.

    Args:
        process: A guest process of its own.
        argv: Program and arguments.
        env: More variables than PATH, HOME and LANG.
        cwd: Its working folder.
        user: Its user id, which is its group id too; None for root.

    Raises:
        UsageError: There is no such program or folder in the guest.
    """

    def __init__(
        self, process: GuestProcess, argv: Sequence[str], env: Mapping[str, str], cwd: str, user: int | None
    ) -> None:
        self._process = process
        with _named(process, argv[0]):
            process.ask(calls.Programs.begin, list(argv), dict(env), cwd, user, None)

    def exchange(self, data: bytes, timeout: float, *, is_last: bool = False) -> Piece:
        """Give it input and return what it has printed; wait for that at most `timeout` seconds.

        Args:
            data: More bytes for its standard input.
            timeout: Seconds.
            is_last: Whether its standard input ends with them.
        """
        found = self._process.ask_within(timeout + _MARGIN, calls.Programs.exchange, data, is_last, timeout)
        return Piece(found["stdout"], found["stderr"], found["pending"], found["returncode"])

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group."""
        self._process.ask(calls.Programs.send_signal, int(number))
