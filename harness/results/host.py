"""What is known of this machine and of the programs that a run uses.

Imports :mod:`harness.util.proc`, the finding of QEMU, the records beside it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from harness import __version__
from harness.errors import InfrastructureError
from harness.results.types import Host
from harness.util.proc import run
from harness.vm.process import find_qemu


def host() -> Host:
    """Return what this machine is."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""  # a machine need not say
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
    """Return the versions of the programs and libraries that decide what a run does; those that are there."""
    found = {"kernel-harness": __version__, "python": platform.python_version()}
    for name in ("pytest", "pytest-xdist", "virtme-ng"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        said = run([find_qemu(), "--version"], timeout=30).stdout
    except InfrastructureError:
        return found  # a run on no kernel needs none; one that does says so itself
    match = re.search(r"version (.+)", said)
    return {**found, "qemu": match[1].strip() if match else said.strip()[:80]}


def revision(folder: Path) -> str:
    """Return what git calls the state of a folder; "" where there is no git, or nothing to call."""
    try:
        said = run(["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"], timeout=30)
    except InfrastructureError:
        return ""
    return said.stdout.strip() if said.status == 0 else ""
