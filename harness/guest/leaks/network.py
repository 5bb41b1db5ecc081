"""Programs that the network holds: network namespaces, interfaces (XDP, tc).

Runs in the guest.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from harness.guest.api import bpf, syscalls
from harness.guest.api.uapi import ATTACH_TYPES
from harness.guest.leaks.processes import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/self/ns/net"
_NAMED = "/run/netns"
_OF_NAMESPACE = ("flow_dissector", "sk_lookup")
_OF_INTERFACE = ("tcx_ingress", "tcx_egress")
_ROOM = 16

_NETLINK_ROUTE = 0
_RTM_GETLINK, _RTM_GETTFILTER = 18, 46
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_IFNAME, _IFLA_XDP = 3, 43
_IFLA_XDP_PROG_IDS = (4, 5, 6, 7)  # of the interface, and of its modes: driver, generic, offloaded
_TCA_OPTIONS, _TCA_BPF_ID = 2, 11
_CLSACT = {0xFFFFFFF2: "ingress", 0xFFFFFFF3: "egress"}
"""Parents of tc's filters before the interface's queue and behind it."""


def held_by_network() -> list[list[Any]]:
    """Return (kind, id, holder) for programs that are attached to network namespaces and interfaces."""
    found: list[list[Any]] = []
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for path, name in _namespaces().items():
            try:
                found += _in_namespace(path, name, own)
            except OSError:
                continue  # its last process has ended
    finally:
        os.close(own)
    return found


def _namespaces() -> dict[str, str]:
    """Return a path for each network namespace, and what messages call it."""
    found = {os.readlink(_OWN): (_OWN, "the network namespace")}
    for pid in processes():
        path = f"/proc/{pid}/ns/net"
        try:
            found.setdefault(os.readlink(path), (path, f"the network namespace of process {pid}"))
        except OSError:
            continue  # the process has ended
    paths = dict(found.values())
    if os.path.isdir(_NAMED):
        paths |= {f"{_NAMED}/{name}": f"the network namespace {name}" for name in os.listdir(_NAMED)}
    return paths


def _in_namespace(path: str, name: str, own: int) -> list[list[Any]]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = [["prog", number, f"{name} ({kind})"] for kind in _OF_NAMESPACE for number in _queried(fd, kind)]
        if path == _OWN:
            return found + _of_interfaces("")
        if syscalls.libc.setns(fd, _CLONE_NEWNET) != 0:
            return found
        try:
            return found + _of_interfaces(f" in {name}")
        finally:
            if syscalls.libc.setns(own, _CLONE_NEWNET) != 0:
                raise syscalls.failed("setns")
    finally:
        os.close(fd)


def _queried(target: int, kind: str) -> tuple[int, ...]:
    """Return the ids of programs that PROG_QUERY names; none where the kernel does not know such an attachment.

    Args:
        target: A descriptor, or the number of an interface.
        kind: How they are attached: one of ATTACH_TYPES.
    """
    fields: dict[str, bpf.Field] = {"target_fd": target, "attach_type": ATTACH_TYPES[kind], "prog_cnt": _ROOM}
    error, _, numbers, buffers = bpf.attempt("PROG_QUERY", fields, {"prog_ids": 4 * _ROOM})
    count = numbers.get("prog_cnt", _ROOM)
    return struct.unpack_from(f"={count}I", buffers["prog_ids"]) if error == 0 and count <= _ROOM else ()


def _of_interfaces(where: str) -> list[list[Any]]:
    """Return what holds programs on the interfaces of this process's network namespace."""
    found: list[list[Any]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as link:
        for body in _dump(link, _RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            (index,) = struct.unpack_from("=i", body, 4)
            fields = dict(_attributes(body[16:]))
            name = fields.get(_IFLA_IFNAME, b"?").rstrip(b"\0").decode(errors="replace") + where
            xdp = dict(_attributes(fields.get(_IFLA_XDP, b"")))
            numbers = {int.from_bytes(xdp[kind], sys.byteorder) for kind in _IFLA_XDP_PROG_IDS if kind in xdp}
            found += [["prog", number, f"interface {name} (xdp)"] for number in sorted(numbers)]
            for kind in _OF_INTERFACE:
                word = kind.replace("_", " ")
                found += [["prog", number, f"interface {name} ({word})"] for number in _queried(index, kind)]
            for parent, side in _CLSACT.items():
                for one in _dump(link, _RTM_GETTFILTER, struct.pack("=BxHiIII", 0, 0, index, 0, parent, 0)):
                    options = dict(_attributes(dict(_attributes(one[20:])).get(_TCA_OPTIONS, b"")))
                    if _TCA_BPF_ID in options:
                        number = int.from_bytes(options[_TCA_BPF_ID], sys.byteorder)
                        found.append(["prog", number, f"clsact of interface {name} (tc {side})"])
    return found


def _dump(link: socket.socket, kind: int, body: bytes) -> list[bytes]:
    """Return the bodies of all messages that answer a request; none when the kernel refuses it."""
    link.send(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST_DUMP, 1, 0) + body)
    found: list[bytes] = []
    while True:
        data = link.recv(1 << 16)
        while data:
            size, answered = struct.unpack_from("=IH", data)
            if answered in (_NLMSG_DONE, _NLMSG_ERROR):
                return found
            found.append(data[16:size])
            data = data[(size + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of each netlink attribute."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]
