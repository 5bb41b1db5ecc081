"""The guest: runs functions and programs, each in its own process, and transfers files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import GuestCallError, GuestError, UsageError
from harness.guest import calls, wire
from harness.remote import covered, pickling, transfer
from harness.remote.program import OUTPUT_LIMIT, Ran, Running, process_for_programs
from harness.util.architecture import ByteOrder
from harness.vm.channel import call_error
from harness.vm.guest_process import GuestProcess
from harness.vm.machine import Machine

T = TypeVar("T")

LIMIT = transfer.LIMIT


@dataclass(frozen=True)
class FunctionOutput:
    """The output of a function in the guest.

    Attributes:
        function: Its name.
        stdout: Standard output.
        stderr: Standard error.
    """

    function: str
    stdout: str
    stderr: str


class Guest:
    """A test's machine, seen as a guest.

    Attributes:
        outputs: The output of the functions that were called so far.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._process: GuestProcess | None = None
        self.outputs: list[FunctionOutput] = []

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""
        return self._machine.release

    @property
    def byte_order(self) -> ByteOrder:
        """The order of the bytes of its integers, for `int.to_bytes` and `int.from_bytes`."""
        return self._machine.spec.architecture.byte_order

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IPv4 addresses of the network cards that it has for another machine of the test."""
        return self._machine.addresses

    @property
    def process(self) -> GuestProcess:
        """The guest process of this test; its file descriptors stay open until the test ends."""
        if self._process is None:
            self._process = self._machine.new_process()
        return self._process

    def new_process(self) -> GuestProcess:
        """Return another, unused guest process; it ends with the test."""
        return self._machine.new_process()

    def call(
        self,
        function: Callable[..., T],
        *arguments: Any,
        timeout: float = 60.0,
        closes: bool = True,
        **keywords: Any,
    ) -> T:
        """Run a plain Python function in a new guest process and return its result.

        Args:
            function: A function at the top level of its module. It may use modules of the standard library,
                harness.guest.api.bpf, other such functions and plain values of its module.
            *arguments: Plain values.
            timeout: Seconds.
            closes: Whether it must close what it opens, so that an open descriptor is a leak; False for a function that
                leaves descriptors open until its process ends.
            **keywords: Plain values.

        Raises:
            UsageError: The function, or something that it uses, cannot go to the guest.
            GuestCallError: It raised (the message has the guest's traceback), or its result cannot go to the host.
            GuestProcessDied: Its process ended.
            KernelCrashed: The kernel panicked during the call.
            GuestHung: No answer in time.
        """
        pickled = pickling.pack(function)
        coverage = covered.measuring()
        name = function.__name__
        try:
            ended = self._machine.new_process().ask_last(
                f"{name}()",
                timeout,
                calls.Process.run_function,
                *(pickled.code, pickled.names, pickled.imports, arguments, keywords, closes, coverage is not None),
            )
        except GuestError as error:
            if isinstance(error, GuestCallError):
                raise _named(error, name) from None  # what it returned is too large
            self._note(name, error.stdout, error.stderr)
            error.stdout = error.stderr = ""
            raise
        except wire.WireError:
            raise _not_picklable(name, arguments, keywords) from None
        self._note(name, *(stream.decode(errors="replace") for stream in (ended["stdout"], ended["stderr"])))
        if coverage is not None:
            covered.add(coverage, ended["steps"])
        self._machine.left_open += [{**one, "function": name} for one in ended["left_open"]]
        if ended["failure"] is not None:
            raise _named(call_error(ended["failure"], f"{name}()"), name)
        value: T = self._machine.decode(ended["value"], f"what {name} returned")
        return value

    def _note(self, function: str, stdout: str, stderr: str) -> None:
        if stdout or stderr:
            self.outputs.append(FunctionOutput(function, stdout, stderr))

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        user: int | None = None,
        group: int | None = None,
        limit: int = OUTPUT_LIMIT,
    ) -> Running:
        """Start a program in the guest and return at once.

        Args:
            argv: Program and arguments; no shell is involved. The image has Python (/usr/bin/python3) and,
                where this machine has a static one, busybox; send other programs with :meth:`push_program`.
            stdin: Bytes for its standard input.
            env: More variables than PATH, HOME and LANG.
            cwd: Its working folder.
            user: Its user id; default: root.
            group: Its group id; default: the user id.
            limit: Bytes of each output to keep.

        Raises:
            UsageError: There is no such program in the guest.
        """
        process = process_for_programs(self._machine)
        return Running.start(process, argv, stdin, dict(env or {}), cwd, user, group, limit)

    def run(self, argv: Sequence[str], *, timeout: float = 60.0, **options: Any) -> Ran:
        """Run a program in the guest to its end.

        Args:
            argv: Program and arguments, as for :meth:`start`.
            timeout: Seconds; then it is killed, and the result says so.
            **options: As for :meth:`start`.
        """
        with self.start(argv, **options) as running:
            return running.wait(timeout)

    def push(self, source: Path | str | bytes, target: str, *, mode: int | None = None, limit: int = LIMIT) -> str:
        """Send bytes, a file or a folder of the host to the guest and return its path there.

        Arguments and errors as for :func:`harness.remote.transfer.push`.
        """
        transfer.push(self.process, source, target, mode=mode, limit=limit)
        return target

    def push_program(self, program: Path | str, *, limit: int = LIMIT) -> str:
        """Send a compiled program of the host with its libraries; return its path in the guest.

        Arguments and errors as for :func:`harness.remote.transfer.push_program`.
        """
        return transfer.push_program(self.process, Path(program), limit=limit)

    def pull(self, source: str, target: Path, *, limit: int = LIMIT) -> Path:
        """Fetch a file or folder of the guest and return its path on the host.

        Arguments and errors as for :func:`harness.remote.transfer.pull`.
        """
        transfer.pull(self.process, source, target, limit=limit)
        return target

    def read(self, path: str, *, limit: int = LIMIT) -> bytes:
        """Return the content of a file of the guest, for example below /proc or /sys.

        Raises:
            UsageError: It has more than `limit` bytes.
            GuestCallError: It cannot be read.
        """
        return transfer.fetch(self.process, path, limit=limit)

    def write(self, path: str, text: str | bytes) -> None:
        """Write to an existing file of the guest, for example below /proc/sys.

        Raises:
            GuestCallError: It cannot be written.
        """
        self.process.ask(calls.Files.write_file, path=path, data=text.encode() if isinstance(text, str) else text)

    def kernel_log(self) -> list[bytes]:
        """Return the records of the kernel log since the last call, in the form of /dev/kmsg."""
        return self._machine.ask_agent(calls.Agent.kernel_log)

    def close(self) -> None:
        """End the guest process of this test."""
        if self._process is not None:
            self._process.close()


def _named(error: GuestCallError, function: str) -> GuestCallError:
    """Return the error of a function; that of what cannot cross says that it is what the function returned."""
    if error.type_name == wire.WireError.__name__:
        error.what = f"what {function} returned cannot cross to the host: {error.what}"
        error.detail = ""
    return error


def _not_picklable(function: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> UsageError:
    """Return an error that names the argument that cannot go to the guest."""
    given = [(f"argument {number}", value) for number, value in enumerate(arguments, 1)]
    for name, value in [*given, *((f"argument {name}", value) for name, value in keywords.items())]:
        try:
            wire.encode(value)
        except wire.WireError as error:
            return UsageError(
                f"{name} of {function} cannot go to the guest: {error}",
                expected="plain values",
                hint="create it inside the function, or pass plain data",
            )
    return UsageError(f"the arguments of {function} are too large", expected=f"at most {wire.MAX_PAYLOAD} bytes")
