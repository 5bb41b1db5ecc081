"""Every call that crosses to the guest: who answers it there, its name, its arguments and its result.

Each class is one part of the guest, each of its methods one call. A host method asks with
`process.ask(calls.Files.read, path, 0, size)`, and what answers is declared as one of these classes where the guest
routes calls (:class:`harness.guest.process.Handlers`, :class:`harness.guest.agent.Agent`). So mypy holds both sides to
the same name, arguments and result. Arguments go by position alone or by name alone, since mypy does not compare the
names of those that go either way. Who answers says in its docstring what a call does.

Pure: runs on both sides.
"""

# ruff: noqa: D102 - who answers a call documents it

from __future__ import annotations

# Not typing.TYPE_CHECKING: importing typing costs the guest more than all of its own modules.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")
    Call = Callable[Concatenate[Any, P], R]

    Request = tuple[str, tuple[Any, ...], dict[str, Any], str]
    """Name, arguments by position and by name, and the line of the test that asks."""
    Attempt = tuple[int, int, dict[str, int], dict[str, bytes]]
    """Errno, result, changed numbers and filled buffers: see :func:`harness.guest.api.bpf.attempt`."""
    Loaded = tuple[int, int, bytes]
    """Errno, descriptor and the verifier's log: see :func:`harness.guest.api.bpf.load`."""
    Outputs = dict[str, int | bytes]
    Entry = tuple[str, str, int, str]
    """What is in a folder: see :mod:`harness.guest.files`."""
    AttemptCall = Callable[[Any, str, dict[str, Any], Outputs, bytes], Attempt]
    LoadCall = Callable[[Any, dict[str, Any], int | None], Loaded]
    Step = tuple[str, tuple[int, ...], list[int]]
    """A step of a random sequence: see :func:`harness.guest.sequences.run`."""

    class Printed(TypedDict):
        """What a guest process has printed."""

        stdout: bytes
        stderr: bytes

    class Failure(TypedDict):
        """An exception in the guest: see :func:`harness.guest.process.describe`."""

        type: str
        message: str
        errno: int
        traceback: str

    class Ended(Printed):
        """The result of a function: see :meth:`harness.guest.process.Process.run_function`."""

        value: bytes
        failure: Failure | None
        left_open: list[dict[str, Any]]

    class Collected(Printed):
        """The result of a program: see :func:`harness.guest.programs.collect`."""

        returncode: int | None
        cut: bool

    class Logged(TypedDict):
        """What the kernel logged, as /dev/kmsg gives it, and its taint flags."""

        records: list[bytes]
        tainted: int

else:
    Protocol = object


def name_of(call: Callable[..., Any]) -> str:
    """Return the name of a call as it crosses, and as messages show it: "files.read"."""
    part, _, function = call.__qualname__.partition(".")
    return f"{part.lower()}.{function}"


def request(call: Call[P, R], asked: str, /, *arguments: P.args, **keywords: P.kwargs) -> Request:
    """Return what is sent to make a call.

    Args:
        call: The call.
        asked: The line of the test that asks; "" when there is none.
        *arguments: Its arguments, plain values.
        **keywords: Likewise.
    """
    return name_of(call), arguments, keywords, asked


class Agent(Protocol):
    """:class:`harness.guest.agent.Agent`."""

    def ping(self) -> float: ...
    def signal(self, number: int, signum: int, /) -> None: ...
    def hold(self) -> None: ...
    def wake(self, *, realtime: float, entropy: bytes, hostname: str) -> None: ...
    def tainted(self) -> int: ...
    def leak_snapshot(self, *, is_last: bool) -> dict[str, Any]: ...
    def kernel_log(self) -> list[bytes]: ...
    def log_since(self) -> Logged: ...
    def jiffies(self) -> int | None: ...
    def kmemleak(self) -> str: ...


class Process(Protocol):
    """:class:`harness.guest.process.Process`."""

    def run_function(
        self,
        code: bytes,
        names: dict[str, Any],
        imports: dict[str, tuple[str, str]],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        closes: bool,
        /,
    ) -> Ended: ...
    def output(self) -> Printed: ...
    def close(self, *fds: int) -> None: ...
    def part(self) -> bool: ...


class Bpf(Protocol):
    """:mod:`harness.guest.api.bpf`."""

    def attempt(self, name: str, fields: dict[str, Any], outputs: Outputs, tail: bytes, /) -> Attempt: ...
    def load(self, fields: dict[str, Any], log_level: int | None, /) -> Loaded: ...
    def map_create(self, map_type: str, key_size: int, value_size: int, max_entries: int, /) -> int: ...
    def map_keys(self, *, fd: int, key_size: int) -> list[bytes]: ...
    def info(self, *, fd: int, kind: str) -> dict[str, Any]: ...
    def translated(self, *, fd: int) -> bytes: ...
    def ids(self, *, kind: str) -> list[int]: ...


class Libbpf(Protocol):
    """:mod:`harness.guest.api.libbpf`."""

    def attempt(self, name: str, fields: dict[str, Any], outputs: Outputs, tail: bytes, /) -> Attempt: ...
    def load(self, fields: dict[str, Any], log_level: int | None, /) -> Loaded: ...
    def version(self) -> str: ...
    def open_object(self, data: bytes, name: str, /) -> tuple[int, int, bytes, dict[str, Any]]: ...
    def set_map(self, handle: int, name: str, setting: str, value: int, /) -> tuple[int, bytes]: ...
    def set_program(self, handle: int, name: str, setting: str, value: int, /) -> tuple[int, bytes]: ...
    def keep_log(self, handle: int, name: str, level: int, /) -> None: ...
    def program_log(self, handle: int, name: str, /) -> bytes: ...
    def load_object(self, handle: int, /) -> tuple[int, bytes, dict[str, dict[str, int]]]: ...
    def attach(self, handle: int, name: str, /) -> tuple[int, int, int, bytes]: ...
    def detach(self, link: int, /) -> None: ...
    def close_object(self, handle: int, /) -> None: ...


class Bcc(Protocol):
    """:mod:`harness.guest.api.bcc_loader`."""

    def attempt(self, name: str, fields: dict[str, Any], outputs: Outputs, tail: bytes, /) -> Attempt: ...
    def load(self, fields: dict[str, Any], log_level: int | None, /) -> Loaded: ...
    def compile_text(self, text: str, flags: list[str], /) -> tuple[int, str, dict[str, dict[str, Any]], list[str]]: ...
    def load_function(self, handle: int, name: str, prog_type: str, /) -> Loaded: ...


class Hooks(Protocol):
    """:mod:`harness.guest.api.hooks`."""

    def socket_filter(self, *, prog_fd: int) -> int: ...
    def socket_send(self, *, fd: int, data: bytes) -> bytes | None: ...
    def socket_close(self, *, fd: int) -> None: ...
    def tracepoint(self, *, prog_fd: int, category: str, event: str) -> int: ...
    def kprobe(self, *, prog_fd: int, symbol: str, at_return: bool) -> int: ...
    def possible_cpus(self) -> int: ...
    def limit_locked_memory(self, *, size: int) -> None: ...
    def expedite(self) -> None: ...


class Files(Protocol):
    """:mod:`harness.guest.files`."""

    def make_folder(self, *, path: str, mode: int | None = None) -> None: ...
    def make_link(self, path: str, points_to: str, /) -> None: ...
    def write(self, path: str, data: bytes, offset: int, mode: int, /) -> None: ...
    def read(self, path: str, offset: int, size: int, /) -> bytes: ...
    def describe(self, path: str, /) -> Entry: ...
    def entries(self, path: str, /) -> list[Entry]: ...
    def missing(self, paths: list[str], /) -> list[str]: ...
    def open_file(self, *, path: str, flags: int) -> int: ...
    def remove(self, *, path: str) -> None: ...
    def read_all(self, *, fd: int) -> bytes: ...
    def read_file(self, *, path: str) -> bytes: ...
    def write_file(self, *, path: str, data: bytes) -> None: ...


class Descriptors(Protocol):
    """:mod:`harness.guest.leaks.descriptors`."""

    def descriptors(self) -> dict[int, str]: ...
    def fdinfo(self, *, fd: int) -> dict[str, str]: ...


class Programs(Protocol):
    """:mod:`harness.guest.programs`."""

    def start(
        self,
        argv: list[str],
        stdin: bytes,
        env: dict[str, str],
        cwd: str,
        user: int | None,
        group: int | None,
        limit: int,
        /,
    ) -> int: ...
    def wait(self, timeout: float, text: bytes, /) -> bool: ...
    def send_signal(self, number: int, /) -> None: ...
    def collect(self) -> Collected: ...


class Prompt(Protocol):
    """:mod:`harness.guest.prompt`."""

    def start(self) -> list[str]: ...
    def run(self, source: str, /) -> str: ...
    def command(self, words: list[str], /) -> str: ...
    def has_program(self, name: str, /) -> bool: ...
    def last(self) -> str: ...
    def complete(self, text: str, /) -> list[str]: ...


class Sequences(Protocol):
    """:mod:`harness.guest.sequences`."""

    def run(self, outer_type: str, flags: int, max_entries: int, steps: list[Step], /) -> list[dict[str, Any]]: ...


class Credentials(Protocol):
    """:mod:`harness.guest.credentials`."""

    def become(self, uid: int, capabilities: tuple[str, ...], /) -> None: ...
    def leave(self, namespaces: tuple[str, ...], /) -> None: ...
