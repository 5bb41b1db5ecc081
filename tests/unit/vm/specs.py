"""Specifications of machines that are never booted."""

from __future__ import annotations

from pathlib import Path

from harness.image.build import Image
from harness.kernel.types import Kernel
from harness.kernel.version import KernelVersion
from harness.vm.spec import Accel, Acceleration, MachineSpec, Needs


def spec_of(boot_image: str, image: str, needs: Needs = Needs()) -> MachineSpec:  # noqa: B008 - frozen
    """Return the specification of a machine that runs a kernel image under software emulation.

    Args:
        boot_image: Path of the kernel's image.
        image: Path of the guest image.
        needs: What a test asks of the machine.
    """
    kernel = Kernel("6.1", KernelVersion(6, 1), "6.1.0", Path(boot_image), None, False, None, None, "", "", "a test")
    return MachineSpec(kernel, Image(Path(image), ""), Acceleration(Accel.TCG, "a test"), needs)
