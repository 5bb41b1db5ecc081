"""Facts about this machine and the programs that a run uses."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from harness import __version__
from harness.errors import InfrastructureError
from harness.results.types import Host, RecordedRun
from harness.util.proc import run
from harness.vm.process import find_qemu


def new_run(arguments: Sequence[str], folder: Path) -> RecordedRun:
    """Return a run that begins now, on this machine.

    Args:
        arguments: Its command line.
        folder: The tests' folder.
    """
    return RecordedRun(
        id=uuid.uuid4().hex[:12],
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=host(),
        arguments=tuple(arguments),
        revision=revision(folder),
        tools=tools(),
    )


def host() -> Host:
    """Return a description of this machine."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""  # the file is optional
    return Host(
        name=platform.node(),
        system=system,
        kernel=platform.release(),
        machine=platform.machine(),
        processor=_field(Path("/proc/cpuinfo"), "model name"),
        cpus=len(os.sched_getaffinity(0)),
        memory=int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]) // 1024,
    )


def _field(path: Path, name: str) -> str:
    match = re.search(rf"^{name}\s*: *(.*)$", path.read_text(), re.MULTILINE)
    return match[1].strip() if match else ""


def tools() -> dict[str, str]:
    """Return the versions of the installed programs and libraries that a run depends on."""
    found = {"kernel-harness": __version__, "python": platform.python_version()}
    for name in ("pytest", "pytest-xdist", "virtme-ng"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        said = run([find_qemu(), "--version"], timeout=30).stdout
    except InfrastructureError:
        return found  # a run without kernels needs no QEMU; any other run reports that it is missing
    match = re.search(r"version (.+)", said)
    return {**found, "qemu": match[1].strip() if match else said.strip()[:80]}


def revision(folder: Path) -> str:
    """Return git's description of a folder; "" without git or a repository."""
    try:
        said = run(["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"], timeout=30)
    except InfrastructureError:
        return ""
    return said.stdout.strip() if said.status == 0 else ""
