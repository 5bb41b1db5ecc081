"""Loops that run in the guest: bpf(2) with nothing around it, so that a hundred thousand rounds take a minute.

What these functions use goes along when a test calls one of them in the guest.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from harness.guest.api import asm, syscalls

if TYPE_CHECKING:
    from harness.guest.api.asm import ByteOrder

MAP_CREATE, MAP_UPDATE_ELEM, MAP_DELETE_ELEM = 0, 2, 3
ARRAY = 2


def with_map(code: bytes, fd: int) -> bytes:
    """Return a program with the descriptor of a map put into the first instruction that names one."""
    at = code.index(struct.pack("=BB", 0x18, 0x11))
    return code[: at + 4] + struct.pack("=i", fd) + code[at + 8 :]


def lookup_inner(outer: int, byte_order: ByteOrder) -> bytes:
    """Return a program that looks key 0 up in the outer map and then in the inner one; it returns the value, or 1."""
    return asm.assemble(
        asm.st("W", asm.R10, -4, 0),
        asm.ld_map(asm.R1, outer),
        asm.mov(asm.R2, asm.R10),
        asm.add(asm.R2, -4),
        asm.call("map_lookup_elem"),
        asm.jump("==", asm.R0, 0, "none"),
        asm.mov(asm.R1, asm.R0),
        asm.mov(asm.R2, asm.R10),
        asm.add(asm.R2, -4),
        asm.call("map_lookup_elem"),
        asm.jump("==", asm.R0, 0, "none"),
        asm.ldx("W", asm.R0, asm.R0, 0),
        asm.exit(),
        asm.label("none"),
        asm.mov(asm.R0, 1),
        asm.exit(),
        byte_order=byte_order,
    )


def insert_and_delete(outer: int, first_key: int, rounds: int, replace: bool) -> None:
    """Make an inner map, insert it, forget it, delete it; with `replace` nothing is deleted until the end."""
    call = syscalls.bpf
    create = ctypes.create_string_buffer(struct.pack("=IIII", ARRAY, 4, 4, 1), 16)
    key, value = ctypes.c_uint32(first_key), ctypes.c_int32(0)
    element = ctypes.create_string_buffer(
        struct.pack("=IxxxxQQQ", outer, ctypes.addressof(key), ctypes.addressof(value), 0), 32
    )
    # What a command has no use for has to be zero, the value too.
    gone = ctypes.create_string_buffer(struct.pack("=IxxxxQ", outer, ctypes.addressof(key)), 16)
    create_at, element_at, gone_at = (ctypes.addressof(one) for one in (create, element, gone))
    for number in range(rounds):
        inner = call(MAP_CREATE, create_at, 16)
        if inner < 0:
            raise OSError(ctypes.get_errno(), "MAP_CREATE")
        value.value = inner
        if call(MAP_UPDATE_ELEM, element_at, 32) != 0:
            raise OSError(ctypes.get_errno(), "MAP_UPDATE_ELEM")
        os.close(inner)
        last = number == rounds - 1
        if (last or not replace) and call(MAP_DELETE_ELEM, gone_at, 16) != 0:
            raise OSError(ctypes.get_errno(), "MAP_DELETE_ELEM")


def in_processes(count: int, work: Callable[[int], None]) -> None:
    """Do work in forked processes, each with its number; raise when one of them did not end well."""
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if any(statuses):
        raise RuntimeError(f"processes ended with {statuses}")


def in_threads(keys: Iterable[int], work: Callable[[int], None]) -> None:
    """Do work in threads, one for each key; raise what one of them raised."""
    errors: list[BaseException] = []

    def do(key: int) -> None:
        try:
            work(key)
        except BaseException as error:  # noqa: BLE001 - raised again by the one that waits
            errors.append(error)

    threads = [threading.Thread(target=do, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
