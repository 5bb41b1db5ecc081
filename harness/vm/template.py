"""Templates: a booted machine's memory and state on disk, from which clones start in tens of milliseconds.

The harness stops a machine whose memory is a file, and saves its state beside that file. A clone is a QEMU that maps
the file copy-on-write and loads the state. A template's key contains everything that it depends on. It is made once
under a lock, checked before use, and made again when it is damaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MonitorError, TemplateError
from harness.guest import calls, wire
from harness.image.build import Image
from harness.util import cache
from harness.vm.boot import boot
from harness.vm.command import QEMU_ARGV, QMP_SOCKET, kernel_words, qemu_options
from harness.vm.machine import State
from harness.vm.process import find_qemu
from harness.vm.sandbox import abilities
from harness.vm.spec import Accel, MachineSpec

log = logging.getLogger("harness.vm")

FORMAT = 4
"""Part of every key: increase it when earlier templates must no longer be used."""

_SAVE_TIMEOUT = 60.0
_CHECKED_DAYS = 1.0
_DAY = 86400.0

RAM, STATE, RECORD = "ram", "state", "template.json"


@dataclass(frozen=True)
class Template:
    """A saved machine, on disk: what clones of one :class:`MachineSpec` start from, in this run and in later ones.

    Attributes:
        folder: The folder of its files.
        about: The agent's report when the machine was ready.
        boot_log: The kernel log up to then.
        argv: QEMU's command.
        whole_stream: Whether the state file also contains the memory.
        private_rom: Whether QEMU can use a memory file that it may only read.
        marks: For each file, a mark that changes when the file changes.
        boot_seconds: Seconds from process start to agent ready.
        save_seconds: Seconds from agent ready to the saved state.
    """

    folder: Path
    about: dict[str, Any]
    boot_log: list[bytes]
    argv: list[str]
    whole_stream: bool
    private_rom: bool
    marks: dict[str, list[int]]
    boot_seconds: float
    save_seconds: float


def key_of(spec: MachineSpec) -> str:
    """Return the key of a machine's template: a digest of everything that the template depends on.

    Args:
        spec: What to boot.
    """
    qemu = find_qemu(spec.architecture)
    found = qemu.stat()
    parts = (
        FORMAT,
        f"{spec.kernel.digest} {spec.image.digest}",
        spec.rootfs.digest if spec.rootfs is not None else "",
        f"{qemu} {found.st_size} {found.st_mtime_ns}",
        importlib.metadata.version("virtme-ng"),
        spec.accel.value,
        spec.needs.memory,
        spec.needs.cpus,
        kernel_words(spec),
        # The command with placeholders for folders and files.
        qemu_options(dataclasses.replace(spec, ram=Path("ram"), image=Image(Path("initrd"), "")), Path("run")),
        _host_cpu(spec.accel),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _host_cpu(accel: Accel) -> str:
    """Return the part of the host's processor that the guest sees: nothing under software emulation."""
    if accel is Accel.TCG:
        return platform.machine()
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model", "flags", "microcode", "stepping")))


def folder_of(key: str) -> Path:
    """Return the folder of the template with this key."""
    return cache.cache_root() / "templates" / key


def find_or_make(
    spec: MachineSpec,
    *,
    boot_timeout: float,
    progress: Callable[[str], None],
    doubted: bool = False,
    tried: Callable[[Template], None] | None = None,
) -> Template:
    """Return the template for a machine; make it when there is no usable one.

    Args:
        spec: The machine; `ram` is set here.
        doubted: Whether a clone of it has failed. It is read in full then, and made anew only when it is damaged: other
            processes have clones of it.
        boot_timeout: Seconds that a boot may take.
        progress: Called with a line of text when something takes time.
        tried: Called with a new template; raises TemplateError when it is of no use. It is removed then.

    Raises:
        TemplateError: The machine boots but cannot be saved, or is of no use.
        BootError: It does not boot.
        CacheError: The cache folder cannot be used.
    """
    folder = folder_of(key_of(spec))
    found = None if doubted else _whole(folder)
    if found is not None:
        return found
    if not cache.is_writable(folder):
        found = _read(folder)
        if found is None:
            raise TemplateError(f"no machine of {spec.label} is saved in {folder.parent}, which cannot be written")
        return found
    with cache.locked(folder.with_name(f"{folder.name}.lock")):
        # Another process may have made it, or read it in full, while this one waited.
        found = _read(folder)
        if found is None:
            if folder.exists():
                progress(f"the saved machine of {spec.label} is damaged; booting it anew")
            else:
                progress(f"booting {spec.label} and saving it; tests start from that, also in later runs")
            found = make(folder, spec, boot_timeout=boot_timeout)
            if tried is not None:
                try:
                    tried(found)
                except TemplateError:
                    shutil.rmtree(folder)
                    raise
            cache.drop_unused(folder.parent.glob("*"))
    return found


def make(folder: Path, spec: MachineSpec, *, boot_timeout: float) -> Template:
    """Boot a machine and save it into a folder, which is complete or absent afterwards.

    Args:
        folder: The template's folder.
        spec: The machine; `ram` is set here.
        boot_timeout: Seconds that a boot may take.

    Raises:
        TemplateError: The machine boots but cannot be saved.
        BootError: It does not boot.
        CacheError: The folder cannot be written.
    """
    _require_room(folder, spec)
    with cache.new_folder(folder) as temporary:
        booted = dataclasses.replace(spec, ram=temporary / RAM)
        started = time.monotonic()
        with boot(booted, timeout=boot_timeout) as machine:
            ready = time.monotonic()
            reason = machine.why_not_cloned()
            if reason is not None:
                raise TemplateError(f"no template can be made of the machine of {spec.label}: {reason}")
            argv = os.fsdecode((machine.folder / QEMU_ARGV).read_bytes()).split("\0")[:-1]
            machine.ask_agent_within(_SAVE_TIMEOUT, calls.Agent.hold, polls=spec.architecture.clone_polls)
            machine.move(State.SAVED)
            whole_stream = _save(
                machine.folder / QMP_SOCKET,
                temporary / STATE,
                spec.label,
                has_shared=bool(spec.architecture.shared),
            )
            saved = time.monotonic()
            about, boot_log = machine.about, machine.boot_log
        if whole_stream:
            (temporary / RAM).unlink()
        record = {
            "about": about,
            "boot_log": [record.decode("ascii") for record in boot_log],  # /dev/kmsg escapes bytes that are not ASCII
            "argv": argv,
            "whole_stream": whole_stream,
            "private_rom": abilities(find_qemu(spec.architecture)).private_rom,
            "seconds": [ready - started, saved - ready],
            "checked": time.time(),
            "boot": _boot_id(),
            "files": {name: _facts(temporary / name) for name in (RAM, STATE) if (temporary / name).exists()},
        }
        cache.write_record(temporary / RECORD, record)
    template = _whole(folder)
    if template is None:
        raise TemplateError(f"the template of {spec.label} was damaged while it was written", hint="run it again")
    return template


def _require_room(folder: Path, spec: MachineSpec) -> None:
    """Raise when the disk is too full: a guest whose memory file cannot grow dies without a message."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free >> 20
    if free < spec.needs.memory:
        raise TemplateError(
            f"there is not enough disk space to save the machine of {spec.label}: {folder.parent} has {free} MiB free",
            expected=f"{spec.needs.memory} MiB, the guest's memory",
            hint="`harness kernels prune`, or set HARNESS_CACHE to a larger disk",
        )


def _save(monitor: Path, state: Path, label: str, *, has_shared: bool) -> bool:
    """Save the state, without the memory if QEMU can; return whether the state contains the memory.

    Args:
        monitor: QEMU's monitor.
        state: The file; created.
        label: What messages call the machine's kernel.
        has_shared: Whether the machine has memory that it shares with the host.
    """
    from harness.vm.qmp import save_state  # clones do not need it, and asyncio is slow to import

    try:
        save_state(monitor, state, ignore_shared=True, timeout=_SAVE_TIMEOUT)
    except MonitorError as error:
        log.info("saving %s without its memory: %s", label, error)
    else:
        if has_shared:
            _forget_address(state)
        return False
    try:
        save_state(monitor, state, ignore_shared=False, timeout=_SAVE_TIMEOUT)
    except MonitorError as error:
        raise TemplateError(f"the machine of {label} cannot be saved: {error.what}") from error
    return True


_SHARED_BLOCK = re.compile(
    rb"[0-9a-f:.]+/harness-shared" + re.escape(struct.pack(">Q", wire.SHARED_SIZE)) + rb"(.{8})", re.DOTALL
)


def _forget_address(state: Path) -> None:
    """Clear the guest address of the shared memory in a saved state.

    QEMU compares the addresses of omitted memory, so that a machine is not restored with the memory of another
    machine. This memory belongs to a PCI device. In a QEMU that has not loaded its state yet, the device is not mapped
    (address 0), so the comparison would fail, although the state that is loaded next maps it (QEMU's migration/ram.c,
    ram_save_setup and parse_ramblock).
    """
    data = state.read_bytes()
    found = list(_SHARED_BLOCK.finditer(data))
    if len(found) != 1:
        raise TemplateError(
            f"the saved state names the shared memory {len(found)} times",
            expected="the layout of QEMU 4.0 to 10: name, size and address of each block of memory, once",
            hint="use --isolation=fork or boot, and report your version of QEMU",
        )
    state.write_bytes(data[: found[0].start(1)] + bytes(8) + data[found[0].end(1) :])


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": cache.digest_file(path), "mark": mark_of(path)}


def mark_of(path: Path) -> list[int]:
    """Return a mark that changes with every write to the file; no program can set its last part (st_ctime)."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _whole(folder: Path) -> Template | None:
    """Return the template if nothing shows that it was touched since its files were read in full.

    None when it is absent or looks touched, and when that was before the host booted or more than a day ago.
    """
    return cache.from_record(folder / RECORD, lambda record: _untouched(folder, record))


def _untouched(folder: Path, record: dict[str, Any]) -> Template | None:
    if record["boot"] != _boot_id() or time.time() - record["checked"] >= _CHECKED_DAYS * _DAY:
        return None
    if any(mark_of(folder / name) != facts["mark"] for name, facts in record["files"].items()):
        return None
    return _template(folder, record)


def _read(folder: Path) -> Template | None:
    """Return the template if its files, which are read in full, are those that were written; its lock is held."""
    return cache.from_record(folder / RECORD, lambda record: _checked(folder, record))


def _checked(folder: Path, record: dict[str, Any]) -> Template | None:
    if any(cache.digest_file(folder / name) != facts["sha256"] for name, facts in record["files"].items()):
        return None
    files = {name: {**facts, "mark": mark_of(folder / name)} for name, facts in record["files"].items()}
    record = {**record, "files": files, "checked": time.time(), "boot": _boot_id()}
    if cache.is_writable(folder):
        cache.write_record(folder / RECORD, record)
    return _template(folder, record)


def _template(folder: Path, record: dict[str, Any]) -> Template:
    cache.mark_used(folder)
    marks = {name: facts["mark"] for name, facts in record["files"].items()}
    boot_log = [line.encode("ascii") for line in record["boot_log"]]
    return Template(
        folder,
        record["about"],
        boot_log,
        record["argv"],
        record["whole_stream"],
        record["private_rom"],
        marks,
        *record["seconds"],
    )
