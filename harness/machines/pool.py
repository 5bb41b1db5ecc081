"""Machines for the tests of one process: a pristine one for each test, or one shared by all, as the user chose.

Imports kernels, images and machines below it; knows nothing of pytest.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import BootError, GuestError, InfrastructureError, TemplateError, VngFailed
from harness.image.bcc import bcc_archive, headers_archive
from harness.image.build import Image, guest_image
from harness.image.extend import extended, modules_archive
from harness.kernel.catalog import Catalog
from harness.kernel.files import headers, modules
from harness.kernel.types import Choice, Kernel
from harness.vm import accel, template
from harness.vm import clone as clones
from harness.vm.boot import BOOT_TIMEOUT, boot
from harness.vm.command import Accel, MachineSpec
from harness.vm.machine import Machine, State, sweep_abandoned
from harness.vm.process import find_qemu, find_vng

_CLONE_MIB = 96
"""What a clone takes at once: QEMU, its translated code, the pages that a short test writes."""

_SPARE_MIB = 512
"""Memory that is left alone when a clone is prepared ahead."""

_BOOT_ATTEMPTS = 2
"""Boots of a machine that may fail in a row: one is bad luck on a busy machine, each costs minutes."""

BCC_IMAGE = "bcc"
"""The guest image with bcc and the kernel's headers in it."""


class Isolation(enum.Enum):
    """What tests share."""

    VM = "vm"
    """Nothing: each test has a clone of its own."""
    FORK = "fork"
    """The machine: each test has a guest process of its own."""
    BOOT = "boot"
    """Nothing, not even a template: each test boots."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        isolation: What tests share.
        accel: "auto", "kvm" or "tcg".
        boot_timeout: Seconds a boot may take.
    """

    isolation: Isolation = Isolation.VM
    accel: str = "auto"
    boot_timeout: float = BOOT_TIMEOUT


@dataclass(frozen=True)
class Needs:
    """What a test asks of its machine.

    Attributes:
        memory: MiB, at least 128.
        cpus: Virtual CPUs, at least 1.
        parameters: Words added to the kernel command line.
        modules: Names of kernel modules that are loaded, with all they need, before the machine is ready.
        image: What the guest image holds besides Python: "" for nothing, "bcc" for bcc and the kernel's headers.
    """

    memory: int = 256
    cpus: int = 1
    parameters: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True)
class Prepared:
    """A kernel with everything that booting it needs, on this machine.

    Attributes:
        kernel: The kernel.
        verdict: How it runs, and why.
    """

    kernel: Kernel
    verdict: accel.Verdict


@dataclass(frozen=True)
class Wanted:
    """A kernel and what is asked of its machine; names a template."""

    choice: Choice
    needs: Needs = Needs()


class Pool:
    """The machines of one test process.

    Args:
        settings: What the user asked for.
        progress: Called with a line when something takes time.
        acquire: Brings a kernel onto this machine; that of a catalogue of its own by default.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Callable[[str], None],
        *,
        acquire: Callable[[Choice], Kernel] | None = None,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._acquire = acquire or Catalog(progress=progress).acquire
        self._prepared: dict[Choice, Prepared] = {}
        self._images: dict[tuple[Choice, tuple[str, ...], str], Image] = {}
        self._templates: dict[Wanted, template.Template | None] = {}
        self._shared: dict[Wanted, Machine] = {}
        self._open: list[Machine] = []
        self._failures: dict[Wanted, BootError] = {}
        self._spoiled: set[Machine] = set()
        self._ahead: tuple[Wanted, clones.Clone] | None = None

    def prepare(self, choice: Choice) -> Prepared:
        """Bring a kernel onto this machine and find out how to run it.

        Raises:
            HarnessError: It cannot be had, or cannot be run; any kind but GuestError.
        """
        found = self._prepared.get(choice)
        if found is None:
            if not self._prepared:
                find_vng(), find_qemu()  # before anything is downloaded
                sweep_abandoned()
            kernel = self._acquire(choice)
            spec = self._spec(kernel, guest_image(), Needs(), Accel.TCG)
            found = Prepared(kernel, accel.decide(self._settings.accel, spec, label=choice.label))
            self._prepared[choice] = found
        return found

    def take(self, wanted: Wanted) -> Machine:
        """Return a machine for one test; give it back afterwards.

        Raises:
            HarnessError: As :meth:`prepare`; BootError; InfrastructureError when there is no memory for it.
        """
        machine = self._shared.get(wanted)
        if machine is None:
            machine = self._bootable(wanted)
            if self.shares:
                self._shared[wanted] = machine
            self._open.append(machine)
        return machine

    def boot_seconds(self, wanted: Wanted) -> float | None:
        """Return how long the boot took that such machines are clones of; None when they are clones of none."""
        saved = self._templates.get(wanted)
        return round(saved.boot_seconds, 3) if saved is not None else None

    def give_back(self, wanted: Wanted, machine: Machine) -> None:
        """Take a machine back when its test is over."""
        if self._shared.get(wanted) is machine:
            if machine not in self._spoiled and is_healthy(machine):
                return
            del self._shared[wanted]
        self._open.remove(machine)
        self._spoiled.discard(machine)
        machine.close()

    @property
    def shares(self) -> bool:
        """Whether tests share machines."""
        return self._settings.isolation is Isolation.FORK

    def spoil(self, machine: Machine) -> None:
        """Keep a machine from other tests than the one that has it: somebody did in it what no test would."""
        self._spoiled.add(machine)

    def expect(self, wanted: Wanted) -> None:
        """Start the machine of the test after this one, if there is memory for it."""
        if self._settings.isolation is not Isolation.VM or self._ahead is not None:
            return
        saved = self._templates.get(wanted)
        if saved is not None and available_mib() > wanted.needs.memory + _SPARE_MIB:
            # Damage is dealt with when the machine is asked for.
            with contextlib.suppress(TemplateError):
                self._ahead = (wanted, self._start(saved, wanted))

    def close(self) -> None:
        """End every machine."""
        self._drop_ahead()
        self._shared.clear()
        while self._open:
            self._open.pop().close()

    def _bootable(self, wanted: Wanted) -> Machine:
        """Return a new machine; where one has failed to boot, the same error says so again.

        A boot that fails is tried once more. Besides a busy machine, QEMU can be the reason: an emulated CPU can run
        code that another one has just patched. That was seen once in some hundred boots with two CPUs: a panic in the
        middle of a two-byte nop, where the kernel patches a static branch.
        """
        for lost in (wanted, Wanted(wanted.choice)):
            if lost in self._failures:
                raise self._failures[lost]
        for attempt in range(1, _BOOT_ATTEMPTS + 1):
            try:
                return self._new(wanted)
            except BootError as error:
                if isinstance(error, VngFailed) or attempt == _BOOT_ATTEMPTS:
                    self._failures[wanted] = error
                    raise
                self._progress(f"{error.what}; booting once more")
        raise AssertionError("the last attempt returns or raises")

    def _new(self, wanted: Wanted) -> Machine:
        saved = self._template(wanted)
        if saved is None:
            return boot(self.spec_of(wanted), label=wanted.choice.label, timeout=self._settings.boot_timeout)
        try:
            return self._clone(saved, wanted)
        except TemplateError as error:
            # Damaged or removed since it was checked: made anew, once.
            self._progress(f"{error.what}; booting {wanted.choice.label} anew")
            template.discard(saved)
            del self._templates[wanted]
            again = self._template(wanted)
            if again is None:
                raise
            return self._clone(again, wanted)

    def _clone(self, saved: template.Template, wanted: Wanted) -> Machine:
        if self._ahead is not None and self._ahead[0] == wanted:
            clone = self._ahead[1]
            self._ahead = None
            return clone.finish()
        self._drop_ahead()
        available = available_mib()
        if available < _CLONE_MIB:
            raise InfrastructureError(
                f"there is no memory for another guest: {available} MiB are available",
                expected=f"{_CLONE_MIB} MiB at the least, and up to {wanted.needs.memory} MiB as the guest uses them",
                hint="end other programs, or run with fewer workers (-n)",
            )
        return self._start(saved, wanted).finish()

    def _start(self, saved: template.Template, wanted: Wanted) -> clones.Clone:
        return clones.start_clone(saved, self.spec_of(wanted), label=wanted.choice.label)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].abandon()
            self._ahead = None

    def _template(self, wanted: Wanted) -> template.Template | None:
        """Return the template of a machine; None where none is to be used, or none can be made."""
        if self._settings.isolation is Isolation.BOOT:
            return None
        if wanted not in self._templates:
            kernel = self.prepare(wanted.choice).kernel
            try:
                self._templates[wanted] = template.find_or_make(
                    self.spec_of(wanted),
                    f"{kernel.digest} {self._image(wanted).digest}",
                    label=wanted.choice.label,
                    boot_timeout=self._settings.boot_timeout,
                    progress=self._progress,
                )
            except TemplateError as error:
                self._progress(f"{error.what}; every test boots {wanted.choice.label} instead")
                self._templates[wanted] = None
        return self._templates[wanted]

    def spec_of(self, wanted: Wanted) -> MachineSpec:
        """Return what is booted for a machine; errors as :meth:`prepare`."""
        prepared = self.prepare(wanted.choice)
        needs = wanted.needs
        if needs.image:
            # Imported before the template is saved, so that no test waits for it.
            needs = replace(needs, parameters=(*needs.parameters, f"harness.preload={needs.image}"))
        return self._spec(prepared.kernel, self._image(wanted), needs, prepared.verdict.accel)

    def _image(self, wanted: Wanted) -> Image:
        """Return the guest image, with the modules and the rest that is asked for."""
        key = (wanted.choice, wanted.needs.modules, wanted.needs.image)
        if key not in self._images:
            plan = modules.find_in(self.prepare(wanted.choice).kernel, wanted.needs.modules)
            files = [(modules.canonical(path.name), modules.read_module(path)) for path in plan.files]
            archives = [modules_archive(files)] if files else []
            if wanted.needs.image == BCC_IMAGE:
                found = headers.headers_of(wanted.choice, progress=self._progress)
                archives.append(bcc_archive())
                archives.append(headers_archive(found.folder, found.release, found.build, found.common))
            self._images[key] = extended(guest_image(), archives)
        return self._images[key]

    @staticmethod
    def _spec(kernel: Kernel, image: Image, needs: Needs, running_under: Accel) -> MachineSpec:
        return MachineSpec(
            kernel.boot_image,
            image.path,
            running_under,
            memory=needs.memory,
            cpus=needs.cpus,
            append=needs.parameters,
        )


def is_healthy(machine: Machine) -> bool:
    """Whether a machine that tests have run on can serve another: it answers, and its kernel has not been tainted."""
    if machine.state is not State.READY:
        return False
    try:
        health = machine.ask_agent("health")
    except (GuestError, InfrastructureError):
        return False  # whatever it is, another machine takes its place
    return bool(health["tainted"] == machine.about["tainted"])


def available_mib(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return how much memory programs can still get, in MiB."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) // 1024
