"""Machines for the tests of one process: a fresh one for each test, or one shared by all, as the user chose."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from harness.errors import (
    BootError,
    GuestError,
    HarnessError,
    InfrastructureError,
    TemplateError,
    UsageError,
    VngFailed,
)
from harness.guest import calls
from harness.image.build import Image, guest_image
from harness.image.rootfs import Rootfs, rootfs
from harness.kernel.boot_needs import modules_for_boot, modules_for_network
from harness.kernel.catalog import Catalog
from harness.kernel.types import Choice, Kernel, Progress
from harness.util import architecture
from harness.util.architecture import Architecture
from harness.vm import accel, template
from harness.vm import clone as clones
from harness.vm.boot import boot
from harness.vm.machine import Machine, State, sweep_abandoned
from harness.vm.network import cards_of
from harness.vm.process import find_qemu, find_vng
from harness.vm.spec import BOOT_TIMEOUT, DISK_MODULES, Accel, Acceleration, MachineSpec, Needs

T = TypeVar("T")

_CLONE_MIB = 96
"""Memory that a clone needs at once: QEMU, its translated code, the pages that a short test writes."""

_SPARE_MIB = 512
"""Memory that must stay free when a clone is prepared ahead."""

_BOOT_ATTEMPTS = 2
"""Boots of a machine that may fail in a row: one failure can be chance on a busy machine, but each costs minutes."""

BCC_IMAGE = "bcc"
"""The guest image with bcc and the kernel's headers in it."""


class Isolation(enum.Enum):
    """What tests share."""

    VM = "vm"
    """Nothing: each test has its own clone."""
    FORK = "fork"
    """The machine: each test has its own guest process."""
    BOOT = "boot"
    """Nothing, not even a template: each test boots."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        isolation: What tests share.
        accel: "auto", "kvm" or "tcg".
        boot_timeout: Seconds that a boot may take.
    """

    isolation: Isolation = Isolation.VM
    accel: str = "auto"
    boot_timeout: float = BOOT_TIMEOUT


class Pool:
    """The machines of one test process.

    Args:
        settings: What the user asked for.
        progress: Called with a line of text when something takes time.
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
        self._specs: dict[tuple[Choice, Needs], MachineSpec] = {}
        self._rootfs: dict[tuple[str, str], Rootfs] = {}
        self._templates: dict[MachineSpec, template.Template | None] = {}
        self._shared: dict[MachineSpec, Machine] = {}
        self._open: list[Machine] = []
        self._failures: dict[tuple[Kernel, Needs], BootError] = {}
        self._spoiled: set[Machine] = set()
        self._ahead: tuple[MachineSpec, clones.Clone] | None = None

    def prepare(self, choice: Choice, needs: Needs = Needs()) -> MachineSpec:  # noqa: B008 - frozen
        """Bring a kernel and all else that a machine needs onto this computer, and find out how to run it; once.

        Args:
            choice: The kernel.
            needs: What a test asks of the machine.

        Raises:
            HarnessError: It is unavailable, or cannot be run; any kind but GuestError.
        """
        if (choice, needs) not in self._specs:
            given = with_memory(choice, needs)
            plain = self._specs.get((choice, Needs())) or self._bring(choice)
            self._specs[choice, Needs()] = plain
            image = image_with(plain, choice, needs, self._progress)
            files = self.rootfs(needs.rootfs, plain.architecture.name)
            self._specs[choice, needs] = replace(plain, needs=given, image=image, rootfs=files)
        return self._specs[choice, needs]

    def rootfs(self, what: str, wanted: str) -> Rootfs | None:
        """Return a root file system; what changes in it later changes nothing for this process.

        Args:
            what: As :attr:`harness.vm.spec.Needs.rootfs`; "" for none.
            wanted: The architecture of the guests.

        Raises:
            HarnessError: It is unusable, or cannot be made.
        """
        if not what:
            return None
        if (what, wanted) not in self._rootfs:
            self._rootfs[what, wanted] = rootfs(Path(what), wanted)
        return self._rootfs[what, wanted]

    def known(self, choice: Choice, needs: Needs) -> MachineSpec | None:
        """Return what :meth:`prepare` has returned for this; None when it was not called, or raised."""
        return self._specs.get((choice, needs))

    def _bring(self, choice: Choice) -> MachineSpec:
        wanted = architecture.require(choice.architecture)
        find_qemu(wanted)  # before anything is downloaded
        if not self._specs:
            find_vng()
            sweep_abandoned()
        spec = MachineSpec(
            self._acquire(choice),
            self._image(wanted),
            Acceleration(Accel.TCG, "not tried yet"),
            needs=with_memory(choice, Needs()),
        )
        spec = replace(spec, image=image_with(spec, choice, Needs(), self._progress))
        return replace(spec, acceleration=accel.decide(self._settings.accel, spec))

    def _image(self, wanted: Architecture) -> Image:
        """Return the guest image of an architecture."""
        if wanted.is_own:
            return guest_image()
        from harness.image.build import foreign_image  # few runs need them
        from harness.kernel.providers.userland import userland

        return foreign_image(userland(wanted, progress=self._progress), wanted)

    def take(self, spec: MachineSpec, *, another: bool = False) -> Machine:
        """Return a machine for one test; give it back after the test.

        Args:
            spec: What :meth:`prepare` returned.
            another: Whether it must be none that tests share, because the test has that one already.

        Raises:
            HarnessError: BootError; InfrastructureError when there is no memory for it; CacheError.
        """
        machine = None if another else self._shared.get(spec)
        if machine is None:
            machine = self._bootable(spec)
            if self.shares and not another:
                self._shared[spec] = machine
            self._open.append(machine)
        return machine

    def save(self, choice: Choice, needs: Needs) -> None:
        """Boot a machine and save it, unless that was done before: tests then start from it in no time.

        An error is the first test's that takes the machine: :meth:`prepare` and :meth:`take` raise it again.
        """
        with contextlib.suppress(HarnessError):
            self._retried(self.prepare(choice, needs), lambda spec: self._template(spec, doubted=False))

    def boot_seconds(self, spec: MachineSpec) -> float | None:
        """Return the boot time of the template that such machines are clones of; None when they are not clones."""
        saved = self._templates.get(spec)
        return round(saved.boot_seconds, 3) if saved is not None else None

    def give_back(self, spec: MachineSpec, machine: Machine) -> None:
        """Take a machine back after its test."""
        if self._shared.get(spec) is machine:
            if machine not in self._spoiled and is_healthy(machine):
                return
            del self._shared[spec]
        self._open.remove(machine)
        self._spoiled.discard(machine)
        machine.close()

    @property
    def shares(self) -> bool:
        """Return whether tests share machines."""
        return self._settings.isolation is Isolation.FORK

    def spoil(self, machine: Machine) -> None:
        """Don't reuse this machine."""
        self._spoiled.add(machine)

    def is_spoiled(self, machine: Machine) -> bool:
        """Whether a machine is for no other test than the one that has it."""
        return machine in self._spoiled

    def expect(self, choice: Choice, needs: Needs) -> None:
        """Start the machine of the test after this one, where it was taken before and there is memory for it."""
        if self._settings.isolation is not Isolation.VM or self._ahead is not None:
            return
        spec = self._specs.get((choice, needs))
        saved = self._templates.get(spec) if spec is not None else None
        if spec is not None and saved is not None and available_mib() > spec.needs.memory + _SPARE_MIB:
            # take() handles a damaged template.
            with contextlib.suppress(TemplateError):
                self._ahead = (spec, clones.start_clone(saved, spec))

    def close(self) -> None:
        """End every machine."""
        self._drop_ahead()
        self._shared.clear()
        while self._open:
            self._open.pop().close()

    def _bootable(self, spec: MachineSpec) -> Machine:
        """Return a new machine; after a failed boot, raise the same error again."""
        return self._retried(spec, self._new)

    def _retried(self, spec: MachineSpec, make: Callable[[MachineSpec], T]) -> T:
        """Return what `make` returns.

        A failed boot is tried once more. The reason can be a busy machine, or QEMU: an emulated CPU can run code that
        another CPU has just patched. This was seen once in some hundred boots with two CPUs: a panic in the middle of
        a two-byte nop, where the kernel patches a static branch.
        """
        for lost in (spec.needs, Needs()):
            if (spec.kernel, lost) in self._failures:
                # Without what led to the earlier tests: each raise adds to that, and pytest formats all of it.
                raise self._failures[spec.kernel, lost].with_traceback(None)
        for attempt in range(1, _BOOT_ATTEMPTS + 1):
            try:
                return make(spec)
            except BootError as error:
                if isinstance(error, VngFailed) or attempt == _BOOT_ATTEMPTS:
                    self._failures[spec.kernel, spec.needs] = error
                    raise
                self._progress(f"{error.what}; booting once more")
        raise AssertionError("the last attempt returns or raises")

    def _new(self, spec: MachineSpec) -> Machine:
        for again in (False, True):
            saved = self._template(spec, doubted=again)
            if saved is None:
                break
            try:
                return self._clone(saved, spec)
            except TemplateError as error:
                # The template may be damaged, or this computer too busy.
                self._progress(f"{error.what}; {'booting one instead' if again else 'trying once more'}")
        return boot(spec, timeout=self._settings.boot_timeout)

    def _clone(self, saved: template.Template, spec: MachineSpec) -> Machine:
        if self._ahead is not None and self._ahead[0] == spec:
            clone = self._ahead[1]
            self._ahead = None
            return clone.finish()
        self._drop_ahead()
        available = available_mib()
        if available < _CLONE_MIB:
            raise InfrastructureError(
                f"there is not enough memory for another guest: {available} MiB are available",
                expected=f"{_CLONE_MIB} MiB at the least, and up to {spec.needs.memory} MiB as the guest uses them",
                hint="end other programs, or run with fewer workers (-n)",
            )
        return clones.start_clone(saved, spec).finish()

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].abandon()
            self._ahead = None

    def _template(self, spec: MachineSpec, *, doubted: bool) -> template.Template | None:
        """Return the template of a machine; None where none is to be used, or none can be made.

        Args:
            spec: The machine.
            doubted: Whether a clone of it has failed; it is looked at again.
        """
        if self._settings.isolation is Isolation.BOOT:
            return None
        if doubted or spec not in self._templates:
            try:
                self._templates[spec] = template.find_or_make(
                    spec,
                    boot_timeout=self._settings.boot_timeout,
                    progress=self._progress,
                    doubted=doubted,
                    tried=None if spec.architecture.keeps_timers else lambda new: clones.require_timers(new, spec),
                )
            except TemplateError as error:
                self._progress(f"{error.what}; every test boots {spec.label} instead")
                self._templates[spec] = None
        return self._templates[spec]


def with_memory(choice: Choice, needs: Needs) -> Needs:
    """Return what a test asks for, with the memory that guests of the kernel's architecture have at the least.

    Raises:
        UsageError: A machine of that architecture cannot have as much as the test asks for.
    """
    wanted = architecture.require(choice.architecture)
    if needs.memory % wanted.memory_step:
        raise UsageError(
            f"a guest of {choice.label} cannot have {needs.memory} MiB of memory",
            expected=f"a multiple of {wanted.memory_step} MiB, for {wanted.title}",
        )
    return replace(needs, memory=max(needs.memory, wanted.least_memory))


def image_with(plain: MachineSpec, choice: Choice, needs: Needs, progress: Progress) -> Image:
    """Return the guest image, with the modules and the rest that is needed.

    Args:
        plain: The machine that asks for nothing.
        choice: What its kernel was chosen by.
        needs: What a test asks of its machine.
        progress: Called with a line of text when something takes time.

    Raises:
        HarnessError: Something that the image is to hold is unavailable, or the kernel's configuration lacks what the
            guest needs.
    """
    wanted = [*modules_for_boot(plain.kernel), *(DISK_MODULES if needs.rootfs else ())]
    wanted += [*(modules_for_network(plain.kernel) if cards_of(needs.network, needs.nics) else ()), *needs.modules]
    if not wanted and not needs.image:
        return plain.image
    if needs.image and not plain.architecture.is_own:
        raise UsageError(
            f"a guest of {plain.label} cannot have {needs.image}: it is installed for this machine's architecture, and "
            f"the kernel is for {plain.architecture.title}",
            expected=f"a kernel for {architecture.own().title}",
            hint="deselect these tests there, or load compiled objects: --loader=libbpf",
        )
    # Most machines need none of this.
    from harness.image.bcc import bcc_archive, headers_archive
    from harness.image.extend import extended, modules_archive
    from harness.kernel.files import headers, modules

    plan = modules.find_in(plain.kernel, wanted)
    files = [(modules.canonical(path.name), modules.read_module(path)) for path in plan.files]
    archives = [modules_archive(files)] if files else []
    if needs.image == BCC_IMAGE:
        found = headers.headers_of(choice, progress=progress)
        archives.append(bcc_archive())
        archives.append(headers_archive(found.folder, found.release, found.build, found.common))
    return extended(plain.image, archives)


def is_healthy(machine: Machine) -> bool:
    """Return whether a used machine can serve another test: it answers, and its kernel is not tainted."""
    if machine.state is not State.READY:
        return False
    try:
        tainted = machine.ask_agent(calls.Agent.tainted)
    except (GuestError, InfrastructureError):
        return False  # on any error, another machine is used
    return bool(tainted == machine.about["tainted"])


def available_mib(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the memory that programs can still get, in MiB."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) // 1024
