"""What a guest process prints: two files in memory that the agent has too.

So it is not lost when the process hangs, dies or is killed for want of memory. Of a long output the middle is given up,
while the process runs: the guest's memory is small.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import os
import sys

from harness.guest.api import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from harness.guest import calls

_HEAD = _TAIL = 512 * 1024
"""Bytes of each stream that are kept, from its beginning and from its end."""
_SLACK = 4 * 1024 * 1024
"""Bytes of the middle that may pile up before they are given up."""
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_PAGE = 4096


class Capture:
    """Standard output and standard error of one guest process."""

    def __init__(self) -> None:
        self.files = (os.memfd_create("stdout"), os.memfd_create("stderr"))
        self._punched = [_HEAD, _HEAD]

    def attach(self) -> None:
        """Make the files this process's standard output and standard error, and give it nothing to read."""
        for fd, file in enumerate(self.files, 1):
            os.dup2(file, fd)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def take(self) -> calls.Printed:
        """Return what this process has printed since the last call."""
        sys.stdout.flush()
        sys.stderr.flush()
        found = self.printed()
        for file in self.files:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        return found

    def printed(self) -> calls.Printed:
        """Return what the process has printed and nobody has taken yet."""
        return {"stdout": _ends_of(self.files[0]), "stderr": _ends_of(self.files[1])}

    def errors_since(self, place: int) -> bytes:
        """Return what has come to standard error after a place of :meth:`errors_so_far`."""
        return os.pread(self.files[1], _TAIL, place)

    def errors_so_far(self) -> int:
        """Return the length of standard error, in bytes."""
        return os.fstat(self.files[1]).st_size

    def trim(self) -> None:
        """Give the memory of a long output's middle back to the kernel."""
        for index, file in enumerate(self.files):
            end = (os.fstat(file).st_size - _TAIL) // _PAGE * _PAGE
            if end < self._punched[index]:
                self._punched[index] = _HEAD  # it was taken
            elif end - self._punched[index] > _SLACK:
                start = self._punched[index]
                syscalls.libc.fallocate(
                    file, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(end - start)
                )
                self._punched[index] = end

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            os.close(file)


def _ends_of(file: int) -> bytes:
    size = os.fstat(file).st_size
    if size <= _HEAD + _TAIL:
        return os.pread(file, size, 0)
    note = f"\n[... {size - _HEAD - _TAIL} bytes are omitted here ...]\n".encode()
    return os.pread(file, _HEAD, 0) + note + os.pread(file, _TAIL, size - _TAIL)
