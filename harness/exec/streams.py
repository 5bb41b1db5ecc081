"""This process's standard streams, as a program in a guest has them: input as it comes, output as it comes."""

from __future__ import annotations

import os
import queue
import sys
import threading

_PIECE = 1 << 16
_MOST_KEPT = 16 << 20


class Input:
    """Standard input, read by a thread of its own, since nothing else can wait for it and the guest."""

    def __init__(self) -> None:
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_over = not _is_readable()
        if not self._is_over:
            threading.Thread(target=self._read, name="standard input", daemon=True).start()

    def take(self) -> tuple[bytes, bool]:
        """Return what has come since the last call, and whether that is all."""
        taken = b""
        while not self._is_over and len(taken) < _PIECE and not self._pieces.empty():
            piece = self._pieces.get()
            taken += piece
            self._is_over = not piece
        return taken, self._is_over

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(0, _PIECE)
            except OSError:
                piece = b""
            self._pieces.put(piece)
            if not piece:
                return


class Replayed:
    """Standard input for several guests: the first reads it, and each gets all of it.

    Attributes:
        kept: What was read so far.
    """

    def __init__(self, source: Input) -> None:
        self._source = source
        self._at = 0
        self._is_over = False
        self.kept = bytearray()

    def rewind(self) -> None:
        """Begin again, for the next guest."""
        self._at = 0

    def take(self) -> tuple[bytes, bool]:
        """Return what has come since the last call, and whether that is all."""
        if not self._is_over and len(self.kept) < _MOST_KEPT:
            piece, self._is_over = self._source.take()
            self.kept += piece
        taken = bytes(self.kept[self._at : self._at + _PIECE])
        self._at += len(taken)
        return taken, self._at == len(self.kept) and (self._is_over or len(self.kept) >= _MOST_KEPT)


class Writer:
    """One of this process's output streams.

    Attributes:
        kept: What was written, where it is to be kept, without prefixes.

    Args:
        descriptor: 1 or 2.
        prefix: What each line begins with.
        keep: Bytes to keep of it.
    """

    def __init__(self, descriptor: int, prefix: str = "", *, keep: int = 0) -> None:
        self.kept = bytearray()
        self._keep = keep
        self._descriptor = descriptor
        self._prefix = prefix.encode()
        self._at_start = True

    def write(self, data: bytes) -> None:
        """Write at once.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        if not data:
            return
        self.kept += data[: self._keep - len(self.kept)]
        if self._prefix:
            head = self._prefix if self._at_start else b""
            self._at_start = data.endswith(b"\n")
            body = data[:-1] if self._at_start else data
            data = head + body.replace(b"\n", b"\n" + self._prefix) + (b"\n" if self._at_start else b"")
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def end(self) -> None:
        """End the last line, where lines have a prefix and the program left it open."""
        if self._prefix and not self._at_start:
            self.write(b"\n")


def _is_readable() -> bool:
    """Return whether this process may read its standard input without being stopped for it."""
    try:
        os.fstat(0)
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def flush() -> None:
    """Write what Python still has, so that it comes before what the program prints."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
