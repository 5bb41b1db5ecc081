"""Attaches to a guest that another process holds, through a unix socket in the machine's private folder.

The holder serves one prompt at a time. The attached process sends the typed text and gets the result. Each frame of the
wire format is answered by one frame.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.guest import wire
from harness.remote.prompt import GuestPrompt, PromptReply
from harness.vm.machine import Machine, State

SOCKET = "attach.sock"

_GREETING_TIMEOUT = 10.0
_POLL_SECONDS = 0.05


class Detached(InfrastructureError):
    """The process that held the guest has released it."""


class _Link:
    """Values over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._splitter = wire.Splitter()
        self._waiting: list[Any] = []

    @property
    def pending(self) -> bool:
        """Whether a received value is waiting: two can arrive together, and the socket then shows neither."""
        return bool(self._waiting) or bool(select.select([self.connection], [], [], 0)[0])

    def send(self, value: object) -> None:
        self.connection.sendall(wire.frame(wire.REQUEST, wire.AGENT, 0, value))

    def receive(self, timeout: float | None) -> Any:
        """Return the next value; None when no value came in time.

        Raises:
            EOFError: The other end is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self.connection], [], [], left)[0]:
                return None
            try:
                data = self.connection.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._waiting += [wire.decode(payload) for _, _, _, payload in self._splitter.feed(data)]
        return self._waiting.pop(0)


class Holder:
    """Lets other processes attach to a machine of this process.

    Args:
        machine: The machine; ready.
        about: The greeting for attached users.
    """

    def __init__(self, machine: Machine, about: str) -> None:
        self._machine = machine
        self._about = about
        self._path = machine.folder / SOCKET
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(1)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def wait(self, *, key: int | None, timeout: float | None) -> bool:
        """Serve until a key is pressed, the time is over, or, without a terminal, an attached session ends.

        Args:
            key: A descriptor that becomes readable when the user wants to continue; None without a terminal.
            timeout: Seconds to wait for somebody to attach; None for no limit.

        Returns:
            Whether somebody attached.
        """
        attached = False
        while True:
            sources: list[Any] = [self._listener] if key is None else [self._listener, key]
            ready = select.select(sources, [], [], timeout)[0]
            if not ready or key in ready:
                return attached
            connection, _ = self._listener.accept()
            attached = True
            with connection:
                self._session(_Link(connection), key)
            if key is None or self._machine.state is not State.READY:
                return attached

    def _session(self, link: _Link, key: int | None) -> None:
        prompt: GuestPrompt | None = None
        # The attached process may end at any moment, or may not be a harness.
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, wire.WireError):
            try:
                prompt = GuestPrompt(self._machine)
                link.send({"release": prompt.release, "greeting": f"{self._about}\n{prompt.greeting}"})
                while not _pressed(key, link):
                    self._serve(link, prompt, key, *link.receive(None))
                link.send({"error": "the test continues, and its guest is gone"})
            except HarnessError as error:
                link.send({"error": str(error)})
            finally:
                if prompt is not None and self._machine.state is State.READY:
                    with contextlib.suppress(HarnessError):  # the test that owns it reports its end
                        prompt.close()

    def _serve(self, link: _Link, prompt: GuestPrompt, key: int | None, kind: str, value: Any) -> None:
        if kind == "complete":
            link.send(prompt.complete(value))
            return
        if kind == "interrupt":
            return  # its purpose is done
        prompt.begin(kind, value)
        answer = None
        while answer is None:
            answer = prompt.poll(_POLL_SECONDS)
            if answer is None and link.pending:
                try:
                    link.receive(None)  # only an interrupt can come during a call
                except EOFError:
                    prompt.close()  # nothing waits for it
                    raise
                prompt.interrupt()
            if answer is None and key is not None and select.select([key], [], [], 0)[0]:
                return  # the caller sees it too and releases the guest
        link.send([answer.stdout, answer.stderr, answer.raised, answer.leave])


def _pressed(key: int | None, link: _Link) -> bool:
    """Wait for the next event; return whether to continue serving."""
    sources: list[Any] = [link.connection] if key is None else [link.connection, key]
    return key in select.select(sources, [], [], 0 if link.pending else None)[0]


class AttachedPrompt:
    """A prompt in a guest that another process holds; a context manager.

    Args:
        folder: The machine's folder.

    Raises:
        UsageError: No process holds a machine there.
        Detached: It serves another user, or has ended.
    """

    def __init__(self, folder: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(folder / SOCKET))
        except OSError as error:
            connection.close()
            raise UsageError(
                f"there is no guest at {folder}: {error.strerror or error}",
                expected="the folder that a pytest which is still paused has printed",
                hint="pytest --pause-on-failure pauses when a test fails, and prints the command",
            ) from error
        self._link = _Link(connection)
        greeting = self._receive(_GREETING_TIMEOUT)
        if greeting is None:
            connection.close()
            raise Detached(
                f"no greeting within {_GREETING_TIMEOUT:g} s",
                expected="the paused pytest to answer",
                hint="another user may be attached; only one can be at a time",
            )
        self.release: str = greeting["release"]
        self.greeting: str = greeting["greeting"]

    def __enter__(self) -> AttachedPrompt:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self._link.connection.close()

    def _receive(self, timeout: float | None) -> Any:
        try:
            value = self._link.receive(timeout)
        except EOFError:
            raise Detached("the process that held the guest has ended") from None
        if isinstance(value, dict) and "error" in value:
            raise Detached(value["error"])
        return value

    def _send(self, kind: str, value: Any) -> None:
        try:
            self._link.send((kind, value))
        except (BrokenPipeError, ConnectionResetError):
            self._receive(0)  # its last message, if there was one
            raise Detached("the process that held the guest has released it") from None

    def begin(self, kind: str, value: Any) -> None:
        """Start "run" with source text, or "command" with a list of arguments."""
        self._send(kind, value)

    def poll(self, timeout: float) -> PromptReply | None:
        """Wait at most `timeout` seconds for the started input; None when it is not done.

        Raises:
            Detached: The guest is gone; the message has the reason.
        """
        found = self._receive(timeout)
        return None if found is None else PromptReply(*found)

    def interrupt(self) -> None:
        """Interrupt the started input; the second time, kill its guest process."""
        self._send("interrupt", None)

    def complete(self, text: str) -> list[str]:
        """Return the completions of a name."""
        self._send("complete", text)
        found: list[str] = self._receive(None)
        return found
