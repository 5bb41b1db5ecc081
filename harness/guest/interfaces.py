"""Brings the guest's network interfaces up with the addresses that the host chose, without a client of DHCP.

Runs in the guest.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time

SIOCADDRT, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFHWADDR = 0x890B, 0x8914, 0x8916, 0x891C, 0x8924
IFF_UP, _ARPHRD_ETHER = 1, 1
_RTF_UP, _RTF_GATEWAY = 1, 2
_ROUTE = struct.Struct("L16s16s16sHhLPhPLLH0L")
"""struct rtentry of <linux/route.h>."""
_INTERFACES = "/sys/class/net"
_APPEARS, _PAUSE = 10.0, 0.01


def raise_loopback() -> None:
    """Bring the network interface lo up, where the kernel has a network."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            _set_flags(asking, "lo", IFF_UP)
    except OSError:
        return  # CONFIG_INET is off, and then programs find it off too


def parse_card(text: str) -> tuple[str, str, int, str, str]:
    """Return the hardware address, address, prefix length, gateway and resolver of a card; "" for what it lacks."""
    mac, address, *rest = text.split(",")
    gateway, resolver, *_ = [*rest, "", ""]
    number, _, prefix = address.partition("/")
    return mac, number, int(prefix), gateway, resolver


def raise_cards(text: str, roots: list[str]) -> None:
    """Give each network card its address and bring it up.

    Args:
        text: What the command line says of them, each as :func:`parse_card` has it, with "+" between two.
        roots: The roots whose programs are to find the resolver.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for mac, address, prefix, gateway, resolver in map(parse_card, text.split("+")):
            name = _wait_for(mac)
            _give_address(asking, name, address, prefix)
            _set_flags(asking, name, IFF_UP)
            if gateway:
                anywhere = _address("0.0.0.0")  # noqa: S104 - a route, and no server
                flags = _RTF_UP | _RTF_GATEWAY
                route = _ROUTE.pack(0, anywhere, _address(gateway), anywhere, flags, 0, 0, 0, 0, 0, 0, 0, 0)
                fcntl.ioctl(asking, SIOCADDRT, route)
            if resolver:
                for root in roots:
                    _name_resolver(root, resolver)


def readdress(cards: list[tuple[str, str, str]]) -> None:
    """Give network cards other hardware addresses and addresses, because another clone of this machine has these.

    Args:
        cards: Of each its hardware address, the new one, and the new address with the length of the prefix.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for before, mac, text in cards:
            name = _wait_for(before)
            _, address, prefix, *_ = parse_card(f"{mac},{text}")
            # Down first: the kernel then makes its own IPv6 address of the new hardware address.
            _set_flags(asking, name, 0)
            hardware = struct.pack("=H6s8x", _ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")))
            fcntl.ioctl(asking, SIOCSIFHWADDR, _request(name, hardware))
            _give_address(asking, name, address, prefix)
            _set_flags(asking, name, IFF_UP)


def _give_address(asking: socket.socket, name: str, address: str, prefix: int) -> None:
    mask = socket.inet_ntoa(((0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF).to_bytes(4, "big"))
    fcntl.ioctl(asking, SIOCSIFADDR, _request(name, _address(address)))
    fcntl.ioctl(asking, SIOCSIFNETMASK, _request(name, _address(mask)))


def _name_resolver(root: str, resolver: str) -> None:
    """Write where programs of a root find the resolver, if the root has a folder for such files."""
    folder = f"{root}/etc"
    if not os.path.isdir(folder) or os.path.islink(folder):
        return
    path = f"{folder}/resolv.conf"
    if os.path.lexists(path):
        os.unlink(path)  # often a link into /run
    with open(path, "w") as file:
        file.write(f"nameserver {resolver}\n")
    if not root:
        # The guest's own says that there is only /etc/hosts, so that without a network nothing waits for answers.
        with open("/etc/nsswitch.conf") as file:
            text = file.read()
        with open("/etc/nsswitch.conf", "w") as file:
            file.write(text.replace("hosts: files\n", "hosts: files dns\n"))


def _wait_for(mac: str) -> str:
    """Return the name of the interface with a hardware address; its driver may make it after it was loaded.

    The host's time-out ends a boot without it, and shows the console, which says then what was waited for.
    """
    said, since = False, time.monotonic()
    while True:
        for name in os.listdir(_INTERFACES):
            try:
                with open(f"{_INTERFACES}/{name}/address") as file:
                    found = file.read().strip()
            except OSError:
                continue  # not an interface, such as bonding's file, or it is gone
            if found == mac:
                return name
        if not said and time.monotonic() - since > _APPEARS:
            said = True
            os.write(2, f"harness: waiting for the network card {mac}, which no driver has found yet\n".encode())
        time.sleep(_PAUSE)


def _set_flags(asking: socket.socket, name: str, flags: int) -> None:
    fcntl.ioctl(asking, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))


def _request(name: str, address: bytes) -> bytes:
    return struct.pack("16s16s8x", name.encode(), address)


def _address(text: str) -> bytes:
    """Return a struct sockaddr_in."""
    return struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(text))
