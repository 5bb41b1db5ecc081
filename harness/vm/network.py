"""What network a machine has: none, its own loopback, QEMU's user-mode network, cards to another machine. Pure.

Addresses are decided here and go to the guest on the kernel's command line: no client of DHCP runs there.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UsageError


class Network(enum.Enum):
    """What programs of a guest reach."""

    NONE = "none"
    """Nothing: even lo is down."""
    LOOPBACK = "loopback"
    """The guest itself."""
    USER = "user"
    """What this machine reaches, through QEMU, which opens connections for the guest; this machine is 10.0.2.2."""


@dataclass(frozen=True)
class Card:
    """A network card.

    Attributes:
        name: What QEMU calls its other end.
        backend: QEMU's options of that end, without its name.
        mac: Its hardware address, by which the guest knows it.
        address: Its IPv4 address, with the length of the network's prefix.
        gateway: The address of the way out; "" for none.
        resolver: The address of the resolver; "" for none.
    """

    name: str
    backend: str
    mac: str
    address: str
    gateway: str = ""
    resolver: str = ""


USER_CARD = Card(
    "harness-user",
    # Without IPv6 no program waits for a network that this machine may not have.
    "user,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3,ipv6=off",
    "52:54:00:6b:68:ff",
    "10.0.2.15/24",
    "10.0.2.2",
    "10.0.2.3",
)
"""The card of a machine with a user-mode network; the addresses are those that QEMU's manual uses."""


def address_of(card: Card) -> str:
    """Return a card's address without the length of the network's prefix."""
    return card.address.partition("/")[0]


def link_card(number: int, machine: int = 1) -> Card:
    """Return a card whose other end is a hub, to which another machine can be connected while both run.

    Args:
        number: Which card of the machine, from 0 on; it is connected with the other machine's of the same number.
        machine: Which machine of a test, from 1 on: clones of one saved machine would have the same addresses.
    """
    return Card(
        f"harness-link{number}",
        f"hubport,hubid={number}",
        f"52:54:00:6b:{machine:02x}:{number:02x}",
        f"10.1.{number}.{machine}/24",
    )


def sink_options(cards: Sequence[Card]) -> tuple[str, ...]:
    """Return QEMU's options for a second port of each hub, without anything behind it.

    A hub takes a packet only when some other port can take it. Without this one, what a card sends before another
    machine is there would wait, and the kernel would complain of a card that sends nothing.
    """
    hubs = [card.backend for card in cards if card.backend.startswith("hubport,")]
    return tuple(f"-netdev {hub.replace(',', f',id=harness-sink{at},')}" for at, hub in enumerate(hubs))


_LONELY = re.compile(r": warning: (?:hub|netdev) .*(?:has no peer|is not connected to host network)\s*$")


def without_warnings(lines: Sequence[str]) -> list[str]:
    """Return the lines of a console without QEMU's warnings of hubs that nothing is connected to, as is meant."""
    return [line for line in lines if not _LONELY.search(line)]


def network_named(word: object) -> Network:
    """Return the network that a user named.

    Raises:
        UsageError: There is none of this name.
    """
    try:
        return Network(word)
    except ValueError:
        raise UsageError(
            f"there is no network {word!r} for a guest",
            expected="one of " + ", ".join(one.value for one in Network),
            hint="user is QEMU's user-mode network; loopback is the default",
        ) from None


def cards_of(network: Network, links: int) -> tuple[Card, ...]:
    """Return the network cards of a machine.

    Args:
        network: What its programs reach.
        links: How many cards it has for another machine.
    """
    return (*map(link_card, range(links)), *((USER_CARD,) if network is Network.USER else ()))


def network_options(cards: Sequence[Card], device: str) -> tuple[str, ...]:
    """Return QEMU's options for network cards.

    Args:
        cards: The cards.
        device: The device of the architecture, with its own options.
    """
    return sink_options(cards) + tuple(
        option
        for card in cards
        for option in (
            "-netdev " + card.backend.replace(",", f",id={card.name},", 1),
            f"-device {device},netdev={card.name},mac={card.mac}",
        )
    )


def network_words(network: Network, links: int) -> tuple[str, ...]:
    """Return the words of the kernel's command line that tell the guest of its network."""
    cards = "+".join(
        ",".join(filter(None, (card.mac, card.address, card.gateway, card.resolver)))
        for card in cards_of(network, links)
    )
    down = ("harness.loopback=off",) if network is Network.NONE else ()
    return (*down, *((f"harness.cards={cards}",) if cards else ()))
