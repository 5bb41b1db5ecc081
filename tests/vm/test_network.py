"""The user-mode network of QEMU, which a guest has only when a test asks for it by name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.testing import Guest

ENETUNREACH = 101


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server on this machine's own 127.0.0.1 that greets whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def greet() -> None:
            try:
                with server.accept()[0] as client:
                    client.sendall(b"hello")
            except OSError:
                return  # nobody came

        greeting = threading.Thread(target=greet)
        greeting.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        greeting.join()


def greeted(port: int) -> str:
    with socket.create_connection(("10.0.2.2", port), timeout=20) as client:
        return client.recv(100).decode()


def refused(port: int) -> int:
    try:
        greeted(port)
    except OSError as error:
        return error.errno or 0
    return 0


def interfaces() -> dict[str, bool]:
    """Return the interfaces, and whether each is up."""
    found = {}
    for folder in Path("/sys/class/net").iterdir():
        found[folder.name] = bool(int((folder / "flags").read_text(), 16) & 1)
    return found


def resolver() -> tuple[str, str]:
    return Path("/etc/resolv.conf").read_text(), Path("/etc/nsswitch.conf").read_text().splitlines()[-1]


@pytest.mark.vm(network="user")
def test_a_guest_with_a_user_mode_network_reaches_this_machine(guest: Guest, port: int) -> None:
    assert guest.call(greeted, port) == "hello"
    assert guest.call(resolver) == ("nameserver 10.0.2.3\n", "hosts: files dns")
    assert guest.call(interfaces) == {"lo": True, "eth0": True}


def test_a_guest_that_nobody_gave_a_network_reaches_nothing(guest: Guest, port: int) -> None:
    assert guest.call(refused, port) == ENETUNREACH
    assert guest.call(interfaces) == {"lo": True}


@pytest.mark.vm(network="none", nics=2)  # the saved machine of test_two_machines.py
def test_a_guest_with_no_network_has_not_even_its_own_addresses(guest: Guest) -> None:
    assert guest.call(interfaces) == {"lo": False, "eth0": True, "eth1": True}
