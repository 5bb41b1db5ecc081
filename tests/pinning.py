"""A program that leaves something behind in the kernel."""

from __future__ import annotations

PINS_A_MAP = """\
import ctypes, struct
libc = ctypes.CDLL(None)
created = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1), 112)
fd = libc.syscall(321, 0, created, 112)
path = ctypes.create_string_buffer(b"/sys/fs/bpf/kept")
pinned = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(path), fd, 0), 112)
assert libc.syscall(321, 6, pinned, 112) == 0
"""
"""Python, without this package: it pins a map on x86-64."""
