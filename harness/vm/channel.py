"""The host's end of the channel: sends requests, receives replies and events; every wait has a time-out.

Threads may use a channel at once. One of those that wait reads, and gives each its answer.
"""

from __future__ import annotations

import mmap
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import GuestCallError, GuestHung, GuestProcessDied, LinkBroken, ProtocolBroken
from harness.guest import calls, wire

_FULL_PAUSE = 0.0002
_PATIENCE = 1.0
"""Seconds of silence, after each of which the channel's `waiting` is called."""

FIRST_TAG = 0
"""Tag of the request that a clone finds when it starts; other tags count from 1."""


class ChannelClosed(LinkBroken):
    """The other end closed the channel."""


def wait_for(source: socket.socket, events: int, deadline: float) -> bool:
    """Wait until the socket is ready for `events` or closed; False when time.monotonic() passes `deadline` first."""
    poll = select.poll()
    poll.register(source, events)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


class Listener:
    """A unix socket for one QEMU, and the memory that QEMU shares with its guest.

    Args:
        path: The socket; created.
        shared: The file of the shared memory; created, empty.
    """

    def __init__(self, path: Path, shared: Path) -> None:
        with shared.open("xb+") as file:
            file.truncate(wire.SHARED_SIZE)
            self._memory: mmap.mmap | None = mmap.mmap(file.fileno(), wire.SHARED_SIZE)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(1)

    def accept(self, timeout: float) -> Channel | None:
        """Accept the connection and stop listening; None when QEMU does not connect within `timeout` seconds."""
        if not wait_for(self._socket, select.POLLIN, time.monotonic() + timeout):
            return None
        connection, _ = self._socket.accept()
        memory, self._memory = self._memory, None
        self.close()
        assert memory is not None, "one QEMU connects"
        return Channel(connection, memory)

    def close(self) -> None:
        """Stop listening, and unmap the memory that no channel has taken over."""
        self._socket.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None


class Channel:
    """Frames to and from one guest; several requests may be under way, one for each thread.

    What arrives was written by the guest. Whatever it is, a wait ends at its deadline, and what is not in the protocol
    raises ProtocolBroken.

    Attributes:
        exits: The wait status of each guest process that has ended.
        waiting: Called after each second in which nothing came.
    """

    def __init__(self, connection: socket.socket, memory: mmap.mmap) -> None:
        self._connection = connection
        self._memory = memory
        with memoryview(memory) as view:
            self._incoming = wire.Ring(view, wire.TO_HOST)
            self._outgoing = wire.Ring(view, wire.TO_GUEST)
        # The guest's first byte shows whether it uses the shared memory.
        self._in_memory: bool | None = None
        self._connection.setblocking(False)
        self._splitter = wire.Splitter()
        self._pending: deque[wire.Frame] = deque()
        self._asked: set[tuple[int, int]] = set()
        self._tag = 0
        self.exits: dict[int, int] = {}
        self._sending = threading.Lock()
        self._news = threading.Condition()
        self._is_read = False
        self._awaited: set[tuple[int, int]] = set()
        self._answers: dict[tuple[int, int], wire.Frame] = {}
        self._end = ""
        self._broken: ProtocolBroken | None = None
        self.waiting: Callable[[], object] = _nothing

    def leave(self, process: int, value: object) -> None:
        """Write a request into the shared memory before the clone starts; its answer has the tag FIRST_TAG."""
        request = memoryview(wire.frame(wire.REQUEST, process, FIRST_TAG, value))
        written = self._outgoing.write(request)
        assert written == len(request), "the first request fits into an empty ring"

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the guest has sent something."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the connection and unmap the memory.

        An object that refers to it, such as a test's exception, keeps neither a descriptor nor a mapping.
        """
        self._end = "it was closed on this side"
        self._connection.close()
        self._incoming.close()
        self._outgoing.close()
        self._memory.close()

    def wait_event(self, timeout: float) -> Any:
        """Return the next event of the agent.

        Args:
            timeout: Seconds.

        Raises:
            GuestHung: No event came in time.
            ChannelClosed: The channel ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            kind, _, _, payload = self._next(deadline)
            if kind == wire.EVENT:
                event = decode(payload, "an event")
                if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                    raise broken(f"its event is {event!r:.80}")
                return event

    def request(self, process: int, name: str, value: object, *, timeout: float, kind: int = wire.REQUEST) -> Any:
        """Send a request and return the answer.

        Args:
            process: The guest process, or wire.AGENT.
            name: The request's name, for messages.
            value: The request.
            timeout: Seconds from now until the answer has arrived.
            kind: wire.REQUEST or wire.LAST.

        Raises:
            GuestCallError: The call raised in the guest.
            GuestProcessDied: The guest process ended before it answered.
            GuestHung: No answer in time.
            ChannelClosed: The channel ended.
            ProtocolBroken: The guest sent what is not in the protocol.
            WireError: The request contains a value that cannot be sent.
        """
        deadline = time.monotonic() + timeout
        tag = self.begin(process, name, value, deadline, kind)
        try:
            return self.collect(process, tag, name, deadline)
        except GuestHung:
            self._awaited.discard((process, tag))  # its late answer is for nobody
            raise GuestHung(f"no answer to {name} within {timeout:g} s") from None

    def begin(self, process: int, name: str, value: object, deadline: float, kind: int = wire.REQUEST) -> int:
        """Send a request and return its tag, for :meth:`collect`; arguments and errors as for :meth:`request`."""
        if not self._sending.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise GuestHung(f"the guest did not take the request {name} in time")
        try:
            self._tag = tag = self._tag % 0xFFFF + 1
            frame = wire.frame(kind, process, tag, value)
            self._answers.pop((process, tag), None)
            self._awaited.add((process, tag))
            self._asked.add((process, tag))
            self._send(frame, deadline, name)
        finally:
            self._sending.release()
        return tag

    def expect(self, *, memory: bool) -> None:
        """Use the shared memory, or the port alone, from the start, as this machine's template did."""
        self._in_memory = memory

    def post(self, process: int, tag: int, value: object, deadline: float) -> None:
        """Send a request with the caller's tag; :meth:`collect` returns the answer."""
        self._send(wire.frame(wire.REQUEST, process, tag, value), deadline, "the first request")

    def collect(self, process: int, tag: int, name: str, deadline: float) -> Any:
        """Return the answer to an earlier request; arguments and errors as for :meth:`request`.

        Args:
            process: The guest process of the request.
            tag: The request's tag.
            name: The request's name, for messages.
            deadline: The value of time.monotonic() at which the wait ends.
        """
        key = process, tag
        while True:
            with self._news:
                answer = self._answers.pop(key, None)
                if answer is None and process in self.exits:
                    status = self.exits[process]
                    raise GuestProcessDied(
                        f"the guest process ended ({describe_status(status)}) during {name}", status=status
                    )
                if answer is None and self._is_read:
                    if not self._news.wait(max(0.0, deadline - time.monotonic())):
                        raise GuestHung("the guest sent nothing in time")
                    continue
                if answer is None:
                    self._awaited.add(key)
                    if tag == FIRST_TAG:
                        self._asked.add(key)  # it was left in the clone's memory
                    self._is_read = True
            if answer is None:
                self._read_for_all(deadline)
                if key not in self._answers and process not in self.exits:
                    _heed(deadline)
                continue
            value = decode(answer[3], f"its answer to {name}")
            if answer[0] == wire.FAILURE:
                raise call_error(value, name)
            return value

    def _read_for_all(self, deadline: float) -> None:
        """Read some frames, and wake the threads that wait for them."""
        try:
            frames = [self._next(deadline), *self._pending]
            self._pending.clear()
            with self._news:
                for frame in frames:
                    self._deliver(frame)
        except ProtocolBroken as error:
            self._broken = error  # for the threads that wait too
            raise
        finally:
            with self._news:
                self._is_read = False
                self._news.notify_all()

    def _deliver(self, frame: wire.Frame) -> None:
        kind, process, tag, payload = frame
        if kind == wire.EVENT:
            self.exits[process] = _status_in(decode(payload, "an event"))
            return
        if (process, tag) not in self._asked or kind not in (wire.REPLY, wire.FAILURE):
            raise broken(f"it answered request {tag} to process {process}, which was not made")
        self._asked.remove((process, tag))
        if (process, tag) in self._awaited:
            self._awaited.remove((process, tag))
            self._answers[process, tag] = frame
        # Else it is the late answer to a request that timed out.

    def _send(self, data: bytes, deadline: float, name: str) -> None:
        view = memoryview(data)
        while view:
            if self._in_memory:
                count = self._outgoing.write(view)
                view = view[count:]
                if count:
                    self._put(memoryview(wire.DOORBELL), deadline, name)
                elif time.monotonic() > deadline:
                    raise GuestHung(f"the guest did not take the request {name} in time")
                else:
                    time.sleep(_FULL_PAUSE)
            else:
                view = view[self._put(view, deadline, name) :]

    def _put(self, data: memoryview, deadline: float, name: str) -> int:
        if not self._wait(select.POLLOUT, deadline):
            raise GuestHung(f"the guest did not take the request {name} in time")
        try:
            return self._connection.send(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed(f"the channel to the guest closed while {name} was sent") from error

    def _get(self, deadline: float) -> bytes:
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if self._end:
            raise ChannelClosed(f"the channel to the guest ended before: {self._end}")
        if not self._wait(select.POLLIN, deadline):
            raise GuestHung("the guest sent no answer in time")
        try:
            data = self._connection.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ChannelClosed("the channel to the guest closed")
        if self._in_memory is None:
            self._in_memory = data.startswith(wire.DOORBELL)
        return self._incoming.read() if self._in_memory else data

    def _wait(self, events: int, deadline: float) -> bool:
        while not wait_for(self._connection, events, min(deadline, time.monotonic() + _PATIENCE)):
            if time.monotonic() >= deadline:
                return False
            self.waiting()
        return True

    def _next(self, deadline: float) -> wire.Frame:
        while not self._pending:
            try:
                self._pending += self._splitter.feed(self._get(deadline))
            except wire.WireError as error:
                raise broken(str(error)) from error
            if not self._pending:
                _heed(deadline)
        return self._pending.popleft()


def _heed(deadline: float) -> None:
    """Raise when the time is over although something came: a guest that sends without end answers nothing."""
    if time.monotonic() > deadline:
        raise GuestHung("the guest sent no answer in time")


def _nothing() -> None:
    """Do nothing."""


def broken(how: str) -> ProtocolBroken:
    """Return the error for a guest that sent what is not in the protocol."""
    return ProtocolBroken(
        f"the guest broke the protocol: {how}",
        expected="frames of harness.guest.wire, and answers to what was asked",
        hint="a program in the guest wrote to the channel or into the agent's memory, or the kernel damaged them",
    )


def decode(payload: bytes, what: str) -> Any:
    """Return a value that the guest encoded.

    Raises:
        ProtocolBroken: It is not one, or is too large.
    """
    try:
        return wire.decode(payload)
    except wire.WireError as error:
        raise broken(f"{what} cannot be read: {error}") from error


def _status_in(event: Any) -> int:
    """Return the wait status in the event of a process that has ended."""
    if isinstance(event, dict) and event.keys() == {"event", "status"} and event["event"] == "exit":
        status = event["status"]
        if type(status) is int and 0 <= status <= 0xFFFF:
            return status
    raise broken(f"its event is {event!r:.80}")


def call_error(failure: calls.Failure, name: str) -> GuestCallError:
    """Return the error that an exception in the guest is on the host.

    Args:
        failure: What the guest sent.
        name: The request's name, for messages.

    Raises:
        ProtocolBroken: It is not what :func:`harness.guest.process.describe` returns.
    """
    found: object = failure
    kinds = {"type": str, "message": str, "errno": int, "traceback": str}
    if not isinstance(found, dict) or {key: type(value) for key, value in found.items()} != kinds:
        raise broken(f"its failure of {name} is {failure!r:.80}")
    return GuestCallError(
        f"{failure['type']}: {failure['message']}",
        type_name=failure["type"],
        traceback=failure["traceback"],
        errno=failure["errno"],
    )


def describe_status(status: int) -> str:
    """Return a wait status in words."""
    signal_number = status & 0x7F
    if signal_number:
        return f"killed by signal {signal_number}"
    return f"exit status {status >> 8}"
