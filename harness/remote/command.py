"""bpf(2) in a guest process: one command out, the kernel's complete answer back.

Nothing is checked before the kernel checks it, and nothing is retried: a refused command raises
:class:`BpfError` with the kernel's errno.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import GuestCallError, GuestError, LoaderCannot
from harness.guest import calls
from harness.util.architecture import ByteOrder
from harness.util.errnos import errno_name
from harness.vm.guest_process import GuestProcess

if TYPE_CHECKING:
    from harness.guest.calls import P, R


class HasFd(Protocol):
    """An object with a file descriptor in the guest process: a map, a program, a link."""

    @property
    def fd(self) -> int:
        """The descriptor."""
        ...


_SHOWN_LOG_LINES = 80  # newer kernels print some fifty lines of explanation after the refusal


class BpfError(GuestError):
    """The kernel refused a command in the guest.

    Attributes:
        errno: The kernel's error number.
        command: The command, as "MAP_UPDATE_ELEM".
        attributes: Its attributes.
        log: The complete log of the verifier (or BTF); "" when the command has none.
        numbers: Values that the kernel wrote into union bpf_attr despite the error: `count` of a batch command.
    """

    def __init__(
        self,
        errno: int,
        command: str,
        attributes: Mapping[str, Any],
        *,
        log: str = "",
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in attributes.items())
        lines = log.rstrip().splitlines()
        if len(lines) > _SHOWN_LOG_LINES:
            lines = [f"[... {len(lines) - _SHOWN_LOG_LINES} lines before]", *lines[-_SHOWN_LOG_LINES:]]
        super().__init__(f"{command}({given}) failed with {errno_name(errno)} ({errno})", detail="\n".join(lines))
        self.errno = errno
        self.command = command
        self.attributes = dict(attributes)
        self.log = log
        self.numbers = dict(numbers or {})

    @property
    def name(self) -> str:
        """The kernel's name of the error number."""
        return errno_name(self.errno)


def _shown(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 32:
        return f"<{len(value)} bytes>"
    return repr(value)


@dataclass(frozen=True)
class Answer:
    """The kernel's answer to one command.

    Attributes:
        errno: The error number, 0 for none.
        result: The return value of the system call: 0, a file descriptor, or -1.
        numbers: The numbers in union bpf_attr that the kernel changed.
        buffers: The content of the output buffers.
    """

    errno: int
    result: int
    numbers: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, bytes] = field(default_factory=dict)


_LOADERS: dict[str, tuple[calls.AttemptCall, calls.LoadCall]] = {
    "raw": (calls.Bpf.attempt, calls.Bpf.load),
    "libbpf": (calls.Libbpf.attempt, calls.Libbpf.load),
    "bcc": (calls.Bcc.attempt, calls.Bcc.load),
}


class Commands:
    """Issues bpf(2) commands in one guest process, through one loader.

    Args:
        process: The guest process.
        loader: "raw" (bpf(2) itself) or the library whose functions make the system calls: "libbpf", "bcc".
    """

    def __init__(self, process: GuestProcess, loader: str = "raw") -> None:
        self.process = process
        self.loader = loader
        self._attempt, self._load = _LOADERS[loader]
        self._cpus = 0

    @property
    def byte_order(self) -> ByteOrder:
        """The order of the bytes of the guest's integers."""
        return self.process.byte_order

    def attempt(
        self, name: str, fields: Mapping[str, Any], outputs: Mapping[str, int | bytes] | None = None, tail: bytes = b""
    ) -> Answer:
        """Issue one command and return the answer, also a refusal.

        Args:
            name: The command without its BPF_ prefix: "MAP_CREATE".
            fields: Fields of union bpf_attr, with the names in harness.guest.api.layouts.COMMANDS; others are zero.
                Maps, programs and links are replaced by their descriptors; types may be names, and pointers bytes.
            outputs: Pointers to output buffers: the size in bytes, or the initial content.
            tail: Bytes after the last field of the command that the harness knows.
        """
        plain = {name: _plain(value) for name, value in fields.items()}
        return Answer(*self._through_loader(self._attempt, name, plain, dict(outputs or {}), tail))

    def issue(
        self, name: str, fields: Mapping[str, Any], outputs: Mapping[str, int | bytes] | None = None, tail: bytes = b""
    ) -> Answer:
        """Issue one command; arguments as for :meth:`attempt`.

        Raises:
            BpfError: The kernel refused it.
        """
        answer = self.attempt(name, fields, outputs, tail)
        if answer.errno:
            raise BpfError(answer.errno, name, fields, numbers=answer.numbers)
        return answer

    def load(self, fields: Mapping[str, Any], log_level: int | None) -> tuple[int, str]:
        """Load a program; return its descriptor and the verifier's log.

        Args:
            fields: Fields of PROG_LOAD.
            log_level: The verifier's verbosity; None for a log only of a refused program.

        Raises:
            BpfError: The kernel refused it.
        """
        plain = {name: _plain(value) for name, value in fields.items()}
        errno, fd, log = self._through_loader(self._load, plain, log_level)
        text = log.decode(errors="replace")
        if errno:
            raise BpfError(errno, "PROG_LOAD", fields, log=text)
        return fd, text

    def _through_loader(self, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return self.process.ask(call, *arguments, **keywords)
        except GuestCallError as error:
            if error.type_name == "CannotExpress":
                raise LoaderCannot(
                    f"the loader {self.loader} cannot do this: {error.what}",
                    expected="a command and fields that this loader supports",
                    hint="run this test with --loader=raw",
                ) from None
            raise

    def ask(self, shown: str, call: calls.Call[P, R], /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Make a call that makes system calls other than a plain bpf(2) command.

        Args:
            shown: What it does, for the message of an error, which names what goes by name.
            call: One of :mod:`harness.guest.calls`.
            *arguments: What it declares; plain values.
            **keywords: Likewise.

        Raises:
            BpfError: A system call failed.
        """
        try:
            return self.process.ask(call, *arguments, **keywords)
        except GuestCallError as error:
            if error.errno:
                raise BpfError(error.errno, shown, keywords) from None
            raise

    def close(self, fd: int) -> None:
        """Close a file descriptor of the guest process."""
        self.process.disown(fd)
        self.process.ask(calls.Process.close, fd)

    def cpus(self) -> int:
        """Return the number of values in an element of a per-CPU map."""
        if not self._cpus:
            self._cpus = self.process.ask(calls.Hooks.possible_cpus)
        return self._cpus


def _plain(value: Any) -> Any:
    return getattr(value, "fd", value)


@contextlib.contextmanager
def raises_errno(*expected: int) -> Iterator[None]:
    """Assert that the body's bpf(2) command fails with one of these error numbers.

    Raises:
        AssertionError: It succeeded, or failed with another error number.
    """
    names = " or ".join(errno_name(number) for number in expected)
    try:
        yield
    except BpfError as error:
        if error.errno not in expected:
            raise AssertionError(f"expected {names}; {error}") from error
    else:
        raise AssertionError(f"expected {names}; the kernel accepted it")


def errno_of(command: Callable[..., object], *arguments: object, **keywords: object) -> str:
    """Return the kernel's answer to a command: "ok", or the name of the error number.

    Args:
        command: A function that issues it, such as a method of a map.
        *arguments: Its arguments.
        **keywords: Its keyword arguments.
    """
    try:
        command(*arguments, **keywords)
    except BpfError as error:
        return error.name
    return "ok"
