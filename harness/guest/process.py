"""A guest process: serves one test, with its own file descriptors and memory.

It answers requests one after the other: calls of a loader's function by name, a Python function pickled by the host,
or its output so far.

Runs in the guest.
"""

from __future__ import annotations

import _thread
import ctypes
import marshal
import os
import resource
import socket
import sys
import types

from harness.guest import credentials, files, programs, prompt, sequences, setup, wire
from harness.guest.api import bcc_loader, bpf, hooks, libbpf, syscalls
from harness.guest.capture import Capture
from harness.guest.leaks import descriptors, provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from harness.guest import calls

PICKLED = "pickled"
"""The module's name that functions of the host see."""

_TRACEBACK_LIMIT = 40
_HALF = 32 * 1024
"""Characters of a message's beginning and end."""
_MOST_FDS = 1024
_MADV_POPULATE_WRITE = 23


def raise_limits() -> None:
    """Allow maps to be created: RLIMIT_MEMLOCK limits them before 5.11."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def own_memory() -> None:
    """Copy every writable page that this process shares with others, if the kernel can (5.14).

    Otherwise each page is copied at its first write: again in every clone of a machine that was saved before that.
    """
    with open("/proc/self/maps") as file:
        lines = file.readlines()
    for line in lines:
        addresses, permissions, *_ = line.split()
        if permissions.startswith("rw-p"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            syscalls.libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_WRITE)


def describe(error: BaseException) -> calls.Failure:
    """Return an exception as plain data; its message may be anything, or raise."""
    import traceback  # only a failure needs this import

    try:
        message = str(error)
    except BaseException as raised:  # noqa: BLE001 - it is code of the test's
        message = f"(its __str__ raised {type(raised).__name__})"
    number = getattr(error, "errno", None)
    lines = traceback.format_exception(type(error), error, error.__traceback__, _TRACEBACK_LIMIT)
    return {
        "type": type(error).__name__,
        "message": shortened(message),
        "errno": number if type(number) is int else 0,
        "traceback": shortened("".join(lines)),
    }


def shortened(text: str) -> str:
    """Return a text that fits into a report: of a long one the middle is omitted."""
    if len(text) <= 2 * _HALF:
        return text
    return f"{text[:_HALF]}\n[... {len(text) - 2 * _HALF} characters are omitted here ...]\n{text[-_HALF:]}"


class Process:
    """What a guest process answers for itself.

    Args:
        link: The descriptor over which it is asked.
        capture: What it prints.
    """

    def __init__(self, link: int, capture: Capture) -> None:
        self._link = link
        self._capture = capture

    def output(self) -> calls.Printed:
        """Return the messages since the last call."""
        return self._capture.take()

    def close(self, *fds: int) -> None:
        """Close descriptors."""
        for fd in fds:
            os.close(fd)

    def enter_rootfs(self) -> None:
        """Make the root file system on the disk the root of this process, and of what it starts."""
        import traceback  # noqa: F401 - for the message of an error, which could not be imported there

        os.chroot(setup.ROOTFS)
        os.chdir("/")

    def part(self) -> bool:
        """Close every descriptor except the link; return whether this process has only one thread."""
        os.closerange(0, self._link)
        os.closerange(self._link + 1, _MOST_FDS)
        return _thread._count() == 0

    def run_function(
        self,
        code: bytes,
        names: dict[str, Any],
        imports: dict[str, tuple[str, str]],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        closes: bool,
        traced: bool,
    ) -> calls.Ended:
        """Run a function that the host pickled.

        Args:
            code: As for :func:`unpack`.
            names: Likewise.
            imports: Likewise.
            arguments: Positional arguments.
            keywords: Keyword arguments.
            closes: Whether to check for descriptors that it leaves open, with system calls of this process.
            traced: Whether to note the lines that run.

        Returns:
            What it printed; the `value` that it returned, as bytes of the wire format; or else the `failure`: that it
            raised, or returned what cannot cross. The `steps` from line to line, with the file, as :class:`Steps` has
            them. And the descriptors `left_open`, as
            :func:`harness.guest.leaks.descriptors.left_open` has them, if it returned.
        """
        value, failure = b"", None
        left_open: list[dict[str, Any]] = []
        steps = Steps()
        try:
            function = unpack(code, names, imports)
            before = descriptors.descriptors() if closes else None
            if traced:
                sys.settrace(steps.enter)
            try:
                result = function(*arguments, **keywords)
            finally:
                sys.settrace(None)
            if before is not None:
                left_open = descriptors.left_open(before)
            value = wire.encode(result)
        except BaseException as error:  # noqa: BLE001 - every error goes to the host
            failure = describe(error)
        found = list(steps.found)
        return {**self._capture.take(), "value": value, "failure": failure, "steps": found, "left_open": left_open}


class Steps:
    """What coverage.py measures on the host: in a file, the steps from one line to the next.

    A step into a function begins, and one out of it ends, at the negative number of the function's first line.

    Attributes:
        found: Files, and two lines each.
    """

    def __init__(self) -> None:
        self.found: set[tuple[str, int, int]] = set()

    def enter(self, frame: types.FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        """Trace a function that the host pickled."""
        if frame.f_globals.get("__name__") != PICKLED:
            return None
        file, first = frame.f_code.co_filename, -frame.f_code.co_firstlineno
        last = first

        def step(frame: types.FrameType, event: str, _argument: Any) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                self.found.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            elif event == "return":
                self.found.add((file, last, first))
            return step

        return step


def unpack(code: bytes, names: dict[str, Any], imports: dict[str, tuple[str, str]]) -> Callable[..., Any]:
    """Return a function that the host pickled by value.

    Args:
        code: The marshalled code of a module that defines it (and the functions it calls) and assigns it to `pickled`.
        names: Plain values that it uses from its module.
        imports: Modules that it uses, and members of modules, by their name in the function.
    """
    scope: dict[str, Any] = {"__name__": PICKLED, "__builtins__": __builtins__, **names}
    for alias, (module, member) in imports.items():
        __import__(module)
        scope[alias] = getattr(sys.modules[module], member) if member else sys.modules[module]
    module_code = marshal.loads(code)  # noqa: S302 - the host made it, for this interpreter
    assert isinstance(module_code, types.CodeType)
    exec(module_code, scope)  # noqa: S102 - this is what the request asks for
    function: Callable[..., Any] = scope["pickled"]
    return function


class Handlers:
    """Who answers the calls to a guest process; each has the calls that the class of its name declares."""

    bcc: calls.Bcc = bcc_loader
    bpf: calls.Bpf = bpf
    credentials: calls.Credentials = credentials
    descriptors: calls.Descriptors = descriptors
    files: calls.Files = files
    hooks: calls.Hooks = hooks
    libbpf: calls.Libbpf = libbpf
    programs: calls.Programs = programs
    prompt: calls.Prompt = prompt
    sequences: calls.Sequences = sequences

    def __init__(self, process: calls.Process) -> None:
        self.process = process


def serve(link: socket.socket, capture: Capture) -> None:
    """Report readiness with a single byte; answer requests until the link closes."""
    os.setpgid(0, 0)  # not a session: the scheduler makes a group for each session
    capture.attach()
    process = Process(link.fileno(), capture)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    handlers = Handlers(process)
    splitter = wire.Splitter()
    link.sendall(wire.DOORBELL)
    while True:
        data = link.recv(1 << 16)
        if not data:
            return
        for _, number, tag, payload in splitter.feed(data):
            try:
                name, arguments, keywords, asked = wire.decode(payload)
                provenance.asked_from(asked)
                handler, _, function = name.partition(".")
                value = getattr(getattr(handlers, handler), function)(*arguments, **keywords)
                reply = wire.frame(wire.REPLY, number, tag, value)
            except BaseException as error:  # noqa: BLE001 - every error goes to the host
                reply = wire.frame(wire.FAILURE, number, tag, describe(error))
            link.sendall(reply)
