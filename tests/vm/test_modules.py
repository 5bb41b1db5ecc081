"""Kernel modules that a test asks for are loaded before it begins, with all they need."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.errors import BootError
from harness.image.build import guest_image
from harness.image.extend import extended, modules_archive
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.testing import Guest, Kernel
from harness.vm.boot import boot


def read(path: str) -> str:
    return Path(path).read_text()


def exists(path: str) -> bool:
    return Path(path).exists()


def new_links(kind: str) -> list[str]:
    """Create a network device of a kind over rtnetlink; return what devices there are then."""
    import os
    import socket
    import struct

    def attribute(number: int, data: bytes) -> bytes:
        return struct.pack("=HH", len(data) + 4, number) + data + bytes(-len(data) % 4)

    info = attribute(18, attribute(1, kind.encode()))  # IFLA_LINKINFO, IFLA_INFO_KIND
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + info
    # RTM_NEWLINK; NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE
    request = struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(request)
        (refused,) = struct.unpack_from("=i", route.recv(8192), 16)
    if refused:
        raise OSError(-refused, os.strerror(-refused))
    return sorted(name for _, name in socket.if_nameindex())


@pytest.fixture
def modules_known(kernel: Kernel) -> None:
    """Skip where nobody knows the kernel's modules; asked for before a machine is, as "usefixtures" has it."""
    if kernel.modules is None and kernel.config is None:
        pytest.skip(f"{kernel.origin} came without modules and configuration")


@pytest.mark.usefixtures("modules_known")
@pytest.mark.vm(modules=["veth", "dummy"])
def test_modules_asked_for_are_loaded_and_serve(guest: Guest) -> None:
    assert {"veth0", "veth1"} <= set(guest.call(new_links, "veth"))
    assert "dummy0" in guest.call(new_links, "dummy")


@pytest.mark.usefixtures("modules_known")
@pytest.mark.vm(modules=["virtio-net"])
def test_what_a_module_needs_is_loaded_before_it(guest: Guest, kernel: Kernel) -> None:
    assert guest.call(exists, "/sys/module/virtio_net")
    if kernel.modules is not None:
        loaded = [line.split() for line in guest.call(read, "/proc/modules").splitlines()]
        users = {name: used_by.rstrip(",").split(",") for name, _, _, used_by, *_ in loaded}
        assert "virtio_net" in users["net_failover"]
        assert "net_failover" in users["failover"]


def test_a_machine_has_only_the_requested_modules(guest: Guest) -> None:
    assert guest.call(read, "/proc/modules") == ""


def test_a_module_that_the_kernel_refuses_is_named_with_its_reason(
    kernel_choice: Choice,
) -> None:
    image = extended(guest_image(), [modules_archive([("wrong", b"\x7fELF, and no more")])])
    spec = dataclasses.replace(Pool(Settings(), print).prepare(kernel_choice), image=image)
    with pytest.raises(BootError) as caught, boot(spec):
        pass
    assert caught.value.what == f"the kernel {kernel_choice.label} refused the module wrong: ENOEXEC (8)"
