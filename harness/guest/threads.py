"""Threads of a guest process. Runs in the guest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def second_thread() -> Iterator[None]:
    """Have a second thread: with one the kernel takes no reference on a descriptor's file, and has none to forget."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        yield
    finally:
        done.set()
        other.join()
