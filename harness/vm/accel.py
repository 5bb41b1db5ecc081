"""Decides how guests run: hardware virtualisation only after a guest has reached user space under it.

`/dev/kvm` can exist, open and create virtual CPUs and still never run a guest, so nothing short of running one is
believed. The verdict holds until the machine boots again, and is kept for that long.

Imports the machine and the command beside it, :mod:`harness.util.cache`, :mod:`harness.errors`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import AccelError, BootError, VngFailed
from harness.util import cache
from harness.vm.boot import boot
from harness.vm.command import Accel, MachineSpec
from harness.vm.process import find_qemu

KVM = Path("/dev/kvm")

PROBE_SECONDS = 10.0
"""How long a guest may take to user space under KVM. It takes one to two where KVM works."""


@dataclass(frozen=True)
class Verdict:
    """How guests run, and why.

    Attributes:
        accel: What is used.
        reason: One clause a person can read.
    """

    accel: Accel
    reason: str

    def __str__(self) -> str:
        return f"{self.accel.value} ({self.reason})"


def decide(wanted: str, spec: MachineSpec, *, label: str) -> Verdict:
    """Return how to run guests.

    Args:
        wanted: "auto", "kvm" or "tcg".
        spec: A guest to probe with; its acceleration is ignored.
        label: What messages call its kernel.

    Raises:
        AccelError: KVM was asked for and runs no guest.
        VngFailed: vng could not start QEMU.
    """
    if wanted == "tcg":
        return Verdict(Accel.TCG, "asked for")
    verdict = _verdict(spec, label)
    if wanted == "kvm" and verdict.accel is not Accel.KVM:
        raise AccelError(
            f"KVM cannot run a guest on this machine: {verdict.reason}",
            expected=f"a guest that reaches user space under KVM within {PROBE_SECONDS:g} s",
            hint="use --accel=auto or --accel=tcg; software emulation needs no hardware support",
        )
    return verdict


def known_verdict() -> Verdict | None:
    """Return how guests run, if no guest has to be tried for it: there is no KVM, or one was tried before.

    Raises:
        ToolMissing: QEMU is not installed.
    """
    if not KVM.exists():
        return Verdict(Accel.TCG, "there is no /dev/kvm")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Verdict(Accel.TCG, "/dev/kvm may not be opened by this user")
    return _read(_record(), _machine_key())


def _record() -> Path:
    return cache.runs_root() / "accel.json"


def _verdict(spec: MachineSpec, label: str) -> Verdict:
    known = known_verdict()
    if known is not None:
        return known
    record, key = _record(), _machine_key()
    # Of two first runs at once the second waits, and finds it known.
    with cache.locked(record.with_suffix(".lock")):
        known = _read(record, key)
        if known is None:
            known = _probe(spec, label)
            content = {"key": key, "accel": known.accel.value, "reason": known.reason}
            with cache.new_file(record) as temporary:
                temporary.write_text(json.dumps(content))
    return known


def _machine_key() -> str:
    qemu = find_qemu()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {qemu} {qemu.stat().st_mtime_ns} {PROBE_SECONDS:g}"


def _read(record: Path, key: str) -> Verdict | None:
    try:
        known = json.loads(record.read_text())
        if known["key"] == key:
            return Verdict(Accel(known["accel"]), str(known["reason"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # none yet, or not one of ours: probe
    return None


def _probe(spec: MachineSpec, label: str) -> Verdict:
    started = time.monotonic()
    try:
        with boot(spec.running_under(Accel.KVM), label=label, timeout=PROBE_SECONDS):
            return Verdict(Accel.KVM, f"a guest reached user space in {time.monotonic() - started:.1f} s")
    except VngFailed:
        raise  # this says nothing of KVM
    except BootError as error:
        if "KVM internal error" in error.detail:
            return Verdict(Accel.TCG, "/dev/kvm opens, but QEMU stops with a KVM internal error")
        if time.monotonic() - started < PROBE_SECONDS:
            return Verdict(Accel.TCG, "/dev/kvm opens, but QEMU ends under it")
        return Verdict(Accel.TCG, f"/dev/kvm opens, but no guest reached user space under it in {PROBE_SECONDS:g} s")
