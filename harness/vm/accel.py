"""Decides how guests run: hardware virtualisation only after a guest has reached user space under it.

`/dev/kvm` can exist, open and create virtual CPUs and still never run a guest, so nothing short of running one is
believed. What was found holds until the machine boots again, and is kept for that long.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.errors import AccelError, BootError, VngFailed
from harness.util import architecture, cache
from harness.vm.boot import boot
from harness.vm.process import find_qemu
from harness.vm.spec import Accel, Acceleration, MachineSpec

KVM = Path("/dev/kvm")

PROBE_SECONDS = 10.0
"""Seconds that a guest may take to reach user space under KVM. Where KVM works, it takes one to two."""


def decide(wanted: str, spec: MachineSpec) -> Acceleration:
    """Return how to run guests.

    Args:
        wanted: "auto", "kvm" or "tcg".
        spec: A guest for the probe; its acceleration is ignored.

    Raises:
        AccelError: The user chose KVM, and it runs no guest, or none of this architecture.
        VngFailed: vng could not start QEMU.
    """
    if wanted == "tcg":
        return Acceleration(Accel.TCG, "asked for")
    if not spec.architecture.is_own:
        why = f"{spec.architecture.title} on {architecture.own().title}"
        if wanted == "kvm":
            raise AccelError(
                f"KVM cannot run {spec.label}: it is {why}",
                expected=f"a kernel for {architecture.own().title} with --accel=kvm",
                hint="use --accel=auto or --accel=tcg, which emulate other architectures",
            )
        return Acceleration(Accel.TCG, why)
    # When two first runs start together, the second waits and uses the result of the first.
    found = cache.artefact(_record().with_suffix(""), whole=known_acceleration, make=lambda: _probe(spec))
    if wanted == "kvm" and found.accel is not Accel.KVM:
        raise AccelError(
            f"KVM cannot run a guest on this machine: {found.reason}",
            expected=f"a guest that reaches user space under KVM within {PROBE_SECONDS:g} s",
            hint="use --accel=auto or --accel=tcg; software emulation needs no hardware support",
        )
    return found


def known_acceleration() -> Acceleration | None:
    """Return how guests run if that is known without a probe: there is no KVM, or a probe ran before.

    Raises:
        ToolMissing: QEMU is not installed.
    """
    if not KVM.exists():
        return Acceleration(Accel.TCG, "there is no /dev/kvm")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Acceleration(Accel.TCG, "this user may not open /dev/kvm")
    key = _machine_key()
    return cache.from_record(
        _record(),
        lambda known: Acceleration(Accel(known["accel"]), str(known["reason"])) if known["key"] == key else None,
    )


def _record() -> Path:
    return cache.runs_root() / "accel.json"


def _machine_key() -> str:
    qemu = find_qemu()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {qemu} {qemu.stat().st_mtime_ns} {PROBE_SECONDS:g}"


def _probe(spec: MachineSpec) -> Acceleration:
    found = _tried(spec)
    cache.write_record(_record(), {"key": _machine_key(), "accel": found.accel.value, "reason": found.reason})
    return found


def _tried(spec: MachineSpec) -> Acceleration:
    started = time.monotonic()
    try:
        with boot(spec.running_under(Accel.KVM), timeout=PROBE_SECONDS):
            return Acceleration(Accel.KVM, f"a guest reached user space in {time.monotonic() - started:.1f} s")
    except VngFailed:
        raise  # this says nothing about KVM
    except BootError as error:
        if "KVM internal error" in error.detail:
            return Acceleration(Accel.TCG, "/dev/kvm opens, but QEMU stops with a KVM internal error")
        if time.monotonic() - started < PROBE_SECONDS:
            return Acceleration(Accel.TCG, "/dev/kvm opens, but QEMU ends under it")
        why = f"/dev/kvm opens, but no guest reached user space under it in {PROBE_SECONDS:g} s"
        return Acceleration(Accel.TCG, why)
