"""QEMU's monitor while a guest runs: why QEMU ended, and whether it still answers.

Reads the lines of the protocol itself: what saves and loads machines (:mod:`harness.vm.qmp`) brings asyncio, which is
slow to import, and a clone's commands are written before QEMU runs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import MonitorError

_PROBE = "kernel-harness probe"
_LONGEST = 1 << 20
"""Bytes of a line; what is longer is none of QEMU's events."""


class Monitor:
    """The harness's end of a connection to QEMU's monitor, on which commands are allowed already.

    Attributes:
        connection: The socket.
        shutdown: Why QEMU ended, in its own word: "guest-reset", "guest-shutdown", "host-signal"; "" until it says so.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.shutdown = ""
        self._rest = b""
        self._numbers = itertools.count(1)

    @classmethod
    def to(cls, path: Path) -> Monitor | None:
        """Connect to the monitor's socket and allow commands; None when QEMU has ended or serves another program."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            connection.sendall(b"".join(line(command) for command in FIRST))
        except OSError:
            connection.close()
            return None
        return cls(connection)

    def end(self) -> str:
        """Return why QEMU ended, from all that it has said so far."""
        for _ in self._messages(0.0):
            pass
        return self.shutdown

    def answers(self, timeout: float) -> bool:
        """Return whether QEMU answers within `timeout` seconds, whatever its guest does."""
        try:
            self.connection.sendall(line({"execute": "query-status", "id": _PROBE}))
        except OSError:
            return False
        return any(message.get("id") == _PROBE for message in self._messages(timeout))

    def run(self, command: dict[str, Any], timeout: float, descriptor: int | None = None) -> None:
        """Let QEMU carry out a command.

        Args:
            command: The command.
            timeout: Seconds.
            descriptor: Goes along with it.

        Raises:
            MonitorError: QEMU refuses it, or does not answer.
        """
        number = f"kernel-harness {next(self._numbers)}"
        given = [descriptor] if descriptor is not None else []
        name = command["execute"]
        try:
            socket.send_fds(self.connection, [line({**command, "id": number})], given)
        except OSError as error:
            raise MonitorError(f"QEMU's monitor takes no {name}: {error.strerror}") from error
        for message in self._messages(timeout):
            if message.get("id") == number:
                if "error" in message:
                    raise MonitorError(f"QEMU refused {name}: {message['error'].get('desc', '')}")
                return
        raise MonitorError(f"QEMU did not answer to {name} within {timeout:g} s")

    def wait_for(self, event: str, timeout: float) -> bool:
        """Wait for an event; return whether it came within `timeout` seconds and before QEMU ended."""
        return any(message.get("event") == event for message in self._messages(timeout))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + timeout
        with contextlib.suppress(OSError, ValueError):  # closed, or taken over by what loads machines
            while select.select([self.connection], [], [], max(0.0, deadline - time.monotonic()))[0]:
                data = self.connection.recv(1 << 16)
                if not data:
                    return
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._rest = self._rest[-_LONGEST:]
                messages = [json.loads(one) for one in lines]
                for message in messages:
                    if message.get("event") == "SHUTDOWN":
                        self.shutdown = str(message["data"].get("reason", ""))
                yield from messages


def line(command: dict[str, Any]) -> bytes:
    """Return a command as the monitor reads it."""
    return json.dumps(command).encode() + b"\n"


FIRST: tuple[dict[str, Any], ...] = (
    {"execute": "qmp_capabilities"},
    # A processor that cannot even report its fault resets itself. Only QEMU's own log distinguishes this from a
    # reboot, and only in software emulation.
    {"execute": "human-monitor-command", "arguments": {"command-line": "log cpu_reset"}},
)
"""The first commands on a connection."""
