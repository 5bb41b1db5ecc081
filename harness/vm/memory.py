"""A saved machine's memory, as clones get it: through a descriptor that nothing can be written through."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

_copies: dict[Path, tuple[list[int], int]] = {}
"""For each memory file, the mark of its content (see harness.vm.template.mark_of) and the descriptor of its copy."""


def for_reading(path: Path) -> int | None:
    """Return a descriptor of a memory file, for a QEMU that is content with it; None where other users may not read it.

    Args:
        path: The file.
    """
    if not path.stat().st_mode & stat.S_IROTH:
        return None
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def sealed_copy(path: Path, mark: list[int]) -> int:
    """Return the descriptor of a copy in memory, made once by each process, which the kernel lets nobody change.

    A QEMU before 8.2 insists on opening the file for writing, whatever it may do with it. That is refused in a cache
    that cannot be written, and to an unprivileged user; and were it allowed, a guest that breaks out of QEMU could
    change what all later guests start from.

    Args:
        path: The file.
        mark: What changes with the file's content.

    Raises:
        OSError: It cannot be read, or there is no memory.
    """
    known = _copies.get(path)
    if known is not None and known[0] == mark:
        return known[1]
    copy = os.memfd_create("harness-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb") as source:
            _copy_data(source.fileno(), copy)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(copy)
        raise
    if known is not None:
        os.close(known[1])
    _copies[path] = (mark, copy)
    return copy


def _copy_data(source: int, copy: int) -> None:
    """Copy a sparse file without its holes."""
    size = os.fstat(source).st_size
    os.ftruncate(copy, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # only a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(copy, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(copy, source, at, end - at)
