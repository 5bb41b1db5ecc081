"""All of the standard library works in the guest: in functions, and in programs that are started."""

from __future__ import annotations

import asyncio
import bz2
import concurrent.futures
import csv
import datetime as dt
import decimal
import grp
import hashlib
import io
import lzma
import multiprocessing
import queue as queues
import socket
import sqlite3
import ssl
import sys
import unicodedata
import uuid
import xml.etree.ElementTree  # noqa: ICN001 - reached through its package, as many do
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import UsageError
from harness.image.build import LEFT_OUT
from harness.testing import Guest


def digest() -> str:
    return hashlib.sha256(b"x").hexdigest()


def rows() -> list[list[str]]:
    return list(csv.reader(io.StringIO("a,b")))


def semaphore() -> int:
    queue: Any = multiprocessing.SimpleQueue()
    queue.put(1)
    found: int = queue.get()
    queue.close()
    return found


def queue() -> int:
    found = queues.Queue[int]()
    found.put(1)
    return found.get()


def group() -> str:
    return grp.getgrgid(0).gr_name


def sql() -> int:
    with sqlite3.connect(":memory:") as database:
        found: int = database.execute("select 1").fetchone()[0]
    database.close()
    return found


def packed() -> list[int]:
    return [len(module.decompress(module.compress(b"x" * 100))) for module in (zlib, bz2, lzma)]


def day() -> str:
    return dt.date(2024, 1, 2).isoformat()


def number() -> str:
    return str(decimal.Decimal("1.1") + 1)


def named() -> str:
    return unicodedata.name("a") + str(uuid.UUID(int=1))[-1]


def encrypted() -> bool:
    return ssl.create_default_context().check_hostname


def asynchronous() -> int:
    async def three() -> int:
        return 3

    return asyncio.run(three())


def connected() -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("127.0.0.1", server.getsockname()[1]), timeout=30) as client:
            client.sendall(b"x")
        return server.accept()[0].recv(1)


def parsed() -> str:
    return xml.etree.ElementTree.fromstring("<a><b/></a>")[0].tag


def in_threads() -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        return list(executor.map(abs, [-1, 2]))


@pytest.mark.vm(scope="module")
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (digest, hashlib.sha256(b"x").hexdigest()),
        (rows, [["a", "b"]]),
        (semaphore, 1),
        (queue, 1),
        (group, "root"),
        (sql, 1),
        (packed, [100] * 3),
        (day, "2024-01-02"),
        (number, "2.1"),
        (named, "LATIN SMALL LETTER A1"),
        (encrypted, True),
        (asynchronous, 3),
        (parsed, "b"),
        (in_threads, [1, 2]),
    ],
)
def test_a_function_uses_it(guest: Guest, function: Callable[[], Any], expected: object) -> None:
    assert guest.call(function) == expected


@pytest.mark.vm(scope="function")
def test_a_name_is_looked_up_and_connected_to(guest: Guest) -> None:
    guest.call(loopback_up)
    assert guest.call(connected, closes=False) == b"x"


def loopback_up() -> None:
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def import_all(names: list[str]) -> dict[str, str]:
    """Return why each of these modules cannot be imported."""
    import importlib
    import warnings

    warnings.simplefilter("ignore")
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - any error is what is looked for
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


# The last loads libobjc where a compiler has brought it: it is for another system.
NOT_MEANT = {"antigravity", "this", "__main__", "_ios_support"}


@pytest.mark.vm(scope="module")
def test_what_the_host_can_import_the_guest_can(guest: Guest) -> None:
    wanted = sorted(sys.stdlib_module_names.difference(LEFT_OUT, NOT_MEANT))
    here = import_all(wanted)
    assert guest.call(import_all, [name for name in wanted if name not in here], timeout=120) == {}


@pytest.mark.vm(scope="module")
def test_a_started_program_imports_it_too(guest: Guest) -> None:
    names = "argparse, csv, hashlib, logging, sqlite3, ssl, unittest.mock, encodings.idna, decimal"
    ran = guest.run(["/usr/bin/python3", "-c", f"import {names}; print(hashlib.sha256(b'').name)"])
    assert (ran.stdout, ran.stderr) == ("sha256\n", "")


def with_a_window() -> None:
    import tkinter as tk  # noqa: F401


@pytest.mark.vm(scope="module")
def test_what_cannot_work_is_refused_by_name(guest: Guest) -> None:
    with pytest.raises(
        UsageError, match="with_a_window cannot run in the guest: the module tkinter does not work there"
    ):
        guest.call(with_a_window)
