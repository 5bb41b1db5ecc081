"""The guest's end of the channel: a port, and the memory shared with the host if it can be mapped.

Runs in the guest.
"""

from __future__ import annotations

import mmap
import os
import termios
import time
import tty

from harness.guest import wire

_PCI = "/sys/bus/pci/devices"
_IVSHMEM = ("0x1af4", "0x1110")
_FULL_PAUSE = 0.0002


class HostLink:
    """Carries frames to and from the host.

    Args:
        path: The port's device.
        shared: How sysfs calls the part of the memory device that is the memory; "" where there is no such device.
    """

    def __init__(self, path: str, shared: str) -> None:
        self._port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if os.isatty(self._port):
            tty.setraw(self._port, termios.TCSANOW)
            _hurry(path)
        self._memory = _map_shared(shared) if shared else None
        if self._memory is not None:
            view = memoryview(self._memory)
            self._incoming = wire.Ring(view, wire.TO_GUEST)
            self._outgoing = wire.Ring(view, wire.TO_HOST)

    @property
    def is_shared(self) -> bool:
        """Whether frames travel through shared memory."""
        return self._memory is not None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the host has sent something."""
        return self._port

    def receive(self) -> bytes:
        """Return the received bytes; call it when the descriptor is readable."""
        data = os.read(self._port, 1 << 16)
        return data if self._memory is None else self._incoming.read()

    def poll(self) -> bytes:
        """Return the bytes in the shared memory, with or without a doorbell; nothing without shared memory."""
        return b"" if self._memory is None else self._incoming.read()

    def rewind(self) -> None:
        """Reset the incoming ring to the state of fresh memory.

        The machine may be saved at any later moment, also during a read.
        """
        if self._memory is not None:
            self._incoming.rewind()

    def send(self, data: bytes) -> None:
        """Send every byte; waits for space without a limit."""
        view = memoryview(data)
        if self._memory is None:
            while view:
                view = view[os.write(self._port, view) :]
            return
        while view:
            count = self._outgoing.write(view)
            view = view[count:]
            if count:
                os.write(self._port, wire.DOORBELL)
            if view:
                time.sleep(_FULL_PAUSE)


def _hurry(path: str) -> None:
    """Make the port report a single byte without waiting for more (attribute of 8250 ports since 3.17).

    Also prevent its suspension after each message (since 6.6).
    """
    folder = f"/sys/class/tty/{os.path.basename(path)}"
    for attribute, value in (("rx_trig_bytes", "1"), ("device/power/control", "on")):
        try:
            with open(f"{folder}/{attribute}", "w") as file:
                file.write(value)
        except OSError:
            continue  # another kind of port: only slower


def _map_shared(name: str) -> mmap.mmap | None:
    """Map the memory device, which needs no driver; None when it is missing or this kernel does not allow it."""
    try:
        devices = os.listdir(_PCI)
    except FileNotFoundError:
        return None
    for device in devices:
        folder = f"{_PCI}/{device}"
        if (_read(f"{folder}/vendor"), _read(f"{folder}/device")) == _IVSHMEM:
            try:
                with open(f"{folder}/enable", "w") as enable:
                    enable.write("1")
                fd = os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC)
                try:
                    shared = mmap.mmap(fd, wire.SHARED_SIZE)
                    shared.madvise(mmap.MADV_DONTFORK)  # guest processes must not have it
                    return shared
                finally:
                    os.close(fd)
            except OSError:
                return None  # locked down, or built without it: use the serial port for everything
    return None


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
