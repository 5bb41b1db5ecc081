"""Two machines in one test, connected through network cards."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.testing import Guest, Machine

PORT = 5000

pytestmark = pytest.mark.vm(network="none", nics=2)  # one saved machine with the test of no network


def answer(count: int) -> list[str]:
    """Answer datagrams with their own content in capitals; return who sent each."""
    came = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", PORT))
        server.settimeout(30)
        for _ in range(count):
            data, sender = server.recvfrom(2000)
            came.append(sender[0])
            server.sendto(data.upper(), sender)
    return came


def ask(addresses: list[str]) -> list[str]:
    """Send a datagram to each address until it is answered: the other side may not be there yet."""
    answers = []
    for number, address in enumerate(addresses):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.5)
            client.connect((address, PORT))
            for _ in range(60):
                try:
                    client.send(f"to card {number}".encode())
                    answers.append(client.recv(2000).decode())
                    break
                except OSError:
                    time.sleep(0.05)
    return answers


def macs() -> set[str]:
    return {(card / "address").read_text().strip() for card in Path("/sys/class/net").glob("eth*")}


def test_each_card_reaches_the_other_machines_card_of_the_same_number(guest: Guest, second_guest: Guest) -> None:
    assert guest.addresses == ("10.1.0.1", "10.1.1.1")
    assert second_guest.addresses == ("10.1.0.2", "10.1.1.2")
    assert guest.call(macs) & second_guest.call(macs) == set()
    with ThreadPoolExecutor(1) as pool:
        came = pool.submit(second_guest.call, answer, 2)
        assert guest.call(ask, list(second_guest.addresses)) == ["TO CARD 0", "TO CARD 1"]
        assert came.result() == ["10.1.0.1", "10.1.1.1"]


@pytest.mark.vm(second="6.12")
def test_the_second_machine_may_have_another_kernel(
    vm: Machine, guest: Guest, second_vm: Machine, second_guest: Guest
) -> None:
    assert (second_guest.release.startswith("6.12."), second_vm.label) == (True, "6.12")
    with ThreadPoolExecutor(1) as pool:
        came = pool.submit(guest.call, answer, 2)
        assert second_guest.call(ask, list(vm.addresses)) == ["TO CARD 0", "TO CARD 1"]
        assert came.result() == list(second_vm.addresses)
