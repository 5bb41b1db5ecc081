"""Which machine: everything that decides what a booted guest is."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from pathlib import Path

from harness.image.build import Image
from harness.image.rootfs import Rootfs
from harness.kernel.types import Kernel
from harness.util import architecture
from harness.util.architecture import Architecture
from harness.vm.network import Network, network_words


class Accel(enum.Enum):
    """How QEMU runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Acceleration:
    """How guests run on this computer, and why.

    Attributes:
        accel: The accelerator to use.
        reason: Why, as one clause for the user.
    """

    accel: Accel
    reason: str

    def __str__(self) -> str:
        return f"{self.accel.value} ({self.reason})"


DISK = "/dev/vda"
"""The guest's only disk, where it has a root file system."""

DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "overlay")
"""What a kernel needs for that disk and for an overlay over it, built in or as modules."""

LEAST_MEMORY = 192
"""MiB: a kernel, the guest image, and during the boot the same once more as an archive. 7.3 boots with that."""

BOOT_TIMEOUT = 120.0
"""Seconds that a guest may take to "agent ready"; software emulation usually takes three to five."""


@dataclass(frozen=True)
class Needs:
    """The settings that a test needs of its machine.

    It is apart from :class:`MachineSpec` because markers are read before any kernel is prepared.

    Attributes:
        memory: MiB, at least :data:`LEAST_MEMORY`.
        cpus: Virtual CPUs, at least 1.
        parameters: Parameters added to the kernel command line.
        modules: Names of kernel modules to load, with their dependencies, before the machine is ready.
        image: Extra content of the guest image: "" for none, "bcc" for bcc and the kernel's headers.
        rootfs: Path of a folder or archive that programs of the guest get as their root; "" for none.
        network: What its programs reach.
        nics: Network cards that another machine of the test can be connected to.
    """

    memory: int = 256
    cpus: int = 1
    parameters: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    image: str = ""
    rootfs: str = ""
    network: Network = Network.LOOPBACK
    nics: int = 0


@dataclass(frozen=True)
class MachineSpec:
    """A machine that can be booted now: the pool makes it of a choice and a test's needs, and knows machines by it.

    It is apart from :class:`harness.kernel.types.Kernel` because tests on one kernel may need different machines.

    Attributes:
        kernel: The kernel.
        image: The guest image, with the modules and the rest that is needed.
        acceleration: How it runs, and why.
        needs: What a test asked for.
        ram: File that is to hold the guest's memory, so that the machine can become a template; None for anonymous
            memory.
        rootfs: The root file system on its disk; None for no disk.
    """

    kernel: Kernel
    image: Image
    acceleration: Acceleration
    needs: Needs = Needs()
    ram: Path | None = None
    rootfs: Rootfs | None = None

    @property
    def label(self) -> str:
        """What messages call the machine's kernel."""
        return self.kernel.label

    @property
    def architecture(self) -> Architecture:
        """Its kernel's architecture."""
        return architecture.require(self.kernel.architecture)

    @property
    def accel(self) -> Accel:
        """How QEMU runs the guest's instructions."""
        return self.acceleration.accel

    @property
    def parameters(self) -> tuple[str, ...]:
        """The words that are added to the kernel command line for this machine."""
        # What the image holds is imported before the template is saved, so that no test waits for it.
        preload = (f"harness.preload={self.needs.image}",) if self.needs.image else ()
        disk = (f"harness.rootfs={DISK}",) if self.rootfs is not None else ()
        return (*self.needs.parameters, *preload, *disk, *network_words(self.needs.network, self.needs.nics))

    def running_under(self, accel: Accel) -> MachineSpec:
        """Return the same with another acceleration, to try it."""
        return dataclasses.replace(self, acceleration=Acceleration(accel, "a trial"))
