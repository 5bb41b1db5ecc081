"""Machines for the tests of one process: booted when first asked for, shared while healthy, replaced when not.

Imports kernels, images and machines below it; knows nothing of pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness import kernel as kernels
from harness.image.build import guest_image
from harness.kernel.types import Choice, Kernel
from harness.vm import accel
from harness.vm.boot import BOOT_TIMEOUT, boot
from harness.vm.command import Accel, MachineSpec
from harness.vm.machine import Machine, State, sweep_abandoned


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        accel: "auto", "kvm" or "tcg".
        boot_timeout: Seconds a boot may take.
        memory: MiB of a guest's memory.
        cpus: Virtual CPUs of a guest.
    """

    accel: str = "auto"
    boot_timeout: float = BOOT_TIMEOUT
    memory: int = 256
    cpus: int = 1


@dataclass(frozen=True)
class Prepared:
    """A kernel with everything that booting it needs, on this machine.

    Attributes:
        kernel: The kernel.
        spec: What to boot.
        verdict: How it runs, and why.
    """

    kernel: Kernel
    spec: MachineSpec
    verdict: accel.Verdict


class Pool:
    """The machines of one test process, one per kernel.

    Args:
        settings: What the user asked for.
        progress: Called with a line when something takes time.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        self._settings = settings
        self._progress = progress
        self._prepared: dict[Choice, Prepared] = {}
        self._machines: dict[Choice, Machine] = {}

    def prepare(self, choice: Choice) -> Prepared:
        """Bring a kernel onto this machine and find out how to run it.

        Raises:
            HarnessError: It cannot be had, or cannot be run; any kind but GuestError.
        """
        found = self._prepared.get(choice)
        if found is None:
            if not self._prepared:
                sweep_abandoned()
            kernel = kernels.acquire(choice, progress=self._progress)
            spec = MachineSpec(
                kernel.boot_image,
                guest_image().path,
                Accel.TCG,
                memory=self._settings.memory,
                cpus=self._settings.cpus,
            )
            verdict = accel.decide(self._settings.accel, spec, label=choice.label)
            found = Prepared(kernel, spec.running_under(verdict.accel), verdict)
            self._prepared[choice] = found
        return found

    def machine(self, choice: Choice) -> Machine:
        """Return a machine that runs this kernel and is healthy.

        Raises:
            HarnessError: As :meth:`prepare`, and BootError.
        """
        machine = self._machines.get(choice)
        if machine is not None and machine.state is State.READY:
            return machine
        if machine is not None:
            machine.close()
        prepared = self.prepare(choice)
        machine = boot(prepared.spec, label=choice.label, timeout=self._settings.boot_timeout)
        self._machines[choice] = machine
        return machine

    def close(self) -> None:
        """End every machine."""
        for machine in self._machines.values():
            machine.close()
        self._machines.clear()
