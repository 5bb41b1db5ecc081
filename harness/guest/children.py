"""Guest processes as the agent has them: forked, watched, ended.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct

from harness.guest import process, wire
from harness.guest.api import syscalls
from harness.guest.capture import Capture
from harness.guest.leaks import processes, provenance

SIGNALS_ROOM = 4096
"""Bytes to read of what watches for deaths."""
_SFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class Child:
    """One guest process: its pid, the agent's end of the socket to it, the record of what it makes, what it prints.

    Attributes:
        is_last: Whether it was asked for the last time: it is ended when it has answered.
    """

    def __init__(self, pid: int, link: socket.socket, record: provenance.Record, capture: Capture) -> None:
        self.pid = pid
        self.link = link
        self.record = record
        self.capture = capture
        self.is_last = False
        self.splitter = wire.Splitter()
        self._children = processes.open_children(pid)

    @property
    def may_have_children(self) -> bool:
        """Whether it has child processes, or this is unknown."""
        return self._children is None or bool(os.pread(self._children, 1, 0))

    def send_signal(self, signum: int) -> None:
        """Send a signal to it and all that it started in its process group, if they have not ended."""
        for send in (os.killpg, os.kill):
            try:
                send(self.pid, signum)
                return
            except ProcessLookupError:
                continue  # it is not yet the leader of a group of its own, or has ended

    def close(self) -> None:
        """Close the agent's descriptors for it, except those of its output, which may be asked for later."""
        self.link.close()
        if self._children is not None:
            os.close(self._children)
            self._children = None


def fork(*, settled: bool = False) -> Child:
    """Make a guest process that waits for its first request.

    Args:
        settled: Whether it copies at once what memory it shares with the agent.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    record, capture = provenance.Record(), Capture()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.setpriority(os.PRIO_PROCESS, 0, 0)  # the agent has another: see harness.guest.agent.main
            # It must have only the test's descriptors, not the agent's or the mapped memory's.
            start = 3
            for kept in sorted([theirs.fileno(), *capture.files]):
                os.closerange(start, kept)
                start = kept + 1
            os.closerange(start, 1024)
            provenance.use(record)
            if settled:
                process.own_memory()
            process.serve(theirs, capture)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    # It is ready: in a machine saved now, it waits for its first request. Or it has died.
    ours.recv(1)
    return Child(pid, ours, record, capture)


def watch_deaths() -> int:
    """Return a descriptor that is readable when a child has ended; it replaces an interrupting signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    mask = ctypes.create_string_buffer(128)  # sigset_t of the C library
    struct.pack_into("=Q", mask, 0, 1 << (signal.SIGCHLD - 1))
    return int(syscalls.libc.signalfd(-1, mask, _SFD_FLAGS))


def kill(pid: int) -> None:
    """Kill a process if it has not ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
