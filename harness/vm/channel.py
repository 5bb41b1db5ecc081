"""The host's end of the channel: sends requests, receives replies and events; every wait has a time-out.

Threads may use a channel at once. One of those that wait reads, and gives each its answer.
"""

from __future__ import annotations

import mmap
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

from harness.errors import GuestCallError, GuestHung, GuestProcessDied, LinkBroken
from harness.guest import calls, wire

_FULL_PAUSE = 0.0002

FIRST_TAG = 0
"""Tag of the request that a clone finds when it starts; other tags count from 1."""


class ChannelClosed(LinkBroken):
    """The other end closed the channel, or sent something that is not a frame."""


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
    """Frames to and from one guest; several requests may be under way, one for each thread."""

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
        self._pending: list[wire.Frame] = []
        self._tag = 0
        self.exits: dict[int, int] = {}
        self._sending = threading.Lock()
        self._news = threading.Condition()
        self._is_read = False
        self._awaited: set[tuple[int, int]] = set()
        self._answers: dict[tuple[int, int], wire.Frame] = {}
        self._end = ""

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
                return wire.decode(payload)

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
            self._send(frame, deadline, name)
        finally:
            self._sending.release()
        return tag

    def expect_memory(self) -> None:
        """Use the shared memory from the start, as this machine's template did."""
        self._in_memory = True

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
                    self._is_read = True
            if answer is None:
                self._read_for_all(deadline)
                continue
            value = wire.decode(answer[3])
            if answer[0] == wire.FAILURE:
                raise call_error(value)
            return value

    def _read_for_all(self, deadline: float) -> None:
        """Read some frames, and wake the threads that wait for them."""
        frames: list[wire.Frame] = []
        try:
            frames = [self._next(deadline)]
            frames += self._pending
            self._pending.clear()
        finally:
            with self._news:
                for frame in frames:
                    self._deliver(frame)
                self._is_read = False
                self._news.notify_all()

    def _deliver(self, frame: wire.Frame) -> None:
        kind, process, tag, payload = frame
        if kind == wire.EVENT:
            event = wire.decode(payload)
            if event["event"] == "exit":
                self.exits[process] = event["status"]
        elif (process, tag) in self._awaited:
            self._awaited.remove((process, tag))
            self._answers[process, tag] = frame
        # Any other frame is the late answer to a request that timed out.

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
        if not wait_for(self._connection, select.POLLOUT, deadline):
            raise GuestHung(f"the guest did not take the request {name} in time")
        try:
            return self._connection.send(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed(f"the channel to the guest closed while {name} was sent") from error

    def _get(self, deadline: float) -> bytes:
        if self._end:
            raise ChannelClosed(f"the channel to the guest ended before: {self._end}")
        if not wait_for(self._connection, select.POLLIN, deadline):
            raise GuestHung("the guest sent nothing in time")
        try:
            data = self._connection.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ChannelClosed("the channel to the guest closed")
        if self._in_memory is None:
            self._in_memory = data.startswith(wire.DOORBELL)
        return self._incoming.read() if self._in_memory else data

    def _next(self, deadline: float) -> wire.Frame:
        while not self._pending:
            try:
                self._pending += self._splitter.feed(self._get(deadline))
            except wire.WireError as error:
                self._end = f"the guest sent something that is not a frame: {error}"
                raise ChannelClosed(self._end) from error
        return self._pending.pop(0)


def call_error(failure: calls.Failure) -> GuestCallError:
    """Return the error that an exception in the guest is on the host."""
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
