"""Locks that the kernel holds for a process (flock) and drops when it ends, however it ends.

Unlike a pid in a name or a file, such a lock is right for processes in other PID namespaces too: containers that share
a folder.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_LONGEST_PAUSE = 0.05


def hold(path: Path, *, wait: float = 0.0) -> int | None:
    """Hold the lock file at a path, which is created when missing; give it to :func:`release`.

    Args:
        path: The lock file.
        wait: Seconds to wait for another holder.

    Returns:
        A descriptor, with which the lock is held as long as it is open; None when another held it all the time.

    Raises:
        OSError: The file cannot be created, or its file system has no locks.
    """
    deadline = time.monotonic() + wait
    pause = 0.001
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= deadline:
                return None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        except OSError:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # its holder removed it meanwhile: who comes now locks another file


def release(path: Path, descriptor: int) -> None:
    """Remove a lock file that this process holds, and let go of it."""
    path.unlink(missing_ok=True)
    os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file at a path; it is not created.

    Raises:
        OSError: It exists and cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))
