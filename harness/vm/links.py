"""Connects the network cards of two machines that run.

Each card's other end is a hub in its QEMU. The hubs of two QEMUs get the two ends of a socket pair, through their
monitors: neither opens anything, and no packet leaves them otherwise. When one machine ends, the other's card stays as
it is and reaches nobody.
"""

from __future__ import annotations

import itertools
import socket

from harness.errors import UsageError
from harness.guest import calls
from harness.vm.machine import Machine
from harness.vm.network import address_of, link_card

_TIMEOUT = 10.0
_numbers = itertools.count(1)
"""Names of connections: a QEMU keeps those whose other machine has ended."""


def connect(one: Machine, another: Machine) -> None:
    """Connect each card of a machine with the other's of the same number; the other gets addresses of its own.

    Args:
        one: A machine.
        another: One that has just started: it has the addresses that every first machine has.

    Raises:
        UsageError: They have no cards.
        HarnessError: One of them has ended, or QEMU refuses.
    """
    count = min(one.spec.needs.nics, another.spec.needs.nics)
    if not count:
        raise UsageError(
            "a second machine is connected through network cards, and the test's machines have none",
            expected="a number of cards from 1 on",
            hint="@pytest.mark.vm(nics=1)",
        )
    cards = [(link_card(number), link_card(number, 2)) for number in range(count)]
    another.ask_agent(calls.Agent.readdress, [(before.mac, after.mac, after.address) for before, after in cards])
    another.addresses = tuple(address_of(after) for _, after in cards)
    for number in range(count):
        ends = socket.socketpair()
        try:
            for machine, end in zip((one, another), ends, strict=True):
                _plug(machine, number, end)
        finally:
            for end in ends:
                end.close()


def _plug(machine: Machine, hub: int, end: socket.socket) -> None:
    """Give a hub of a machine's QEMU one end of a socket pair."""
    name = f"harness-wire{next(_numbers)}"
    commands = (
        ("getfd", {"fdname": name}, end.fileno()),
        ("netdev_add", {"type": "socket", "id": name, "fd": name}, None),
        ("netdev_add", {"type": "hubport", "id": f"{name}-port", "hubid": hub, "netdev": name}, None),
    )
    for execute, arguments, descriptor in commands:
        machine.process.run({"execute": execute, "arguments": arguments}, _TIMEOUT, descriptor)
