"""The checks: each looks at one thing on this machine and says what it found; none raises.

Imports :mod:`harness.needs`, kernels and machines below it, as they are needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness import needs
from harness.doctor.findings import Finding, Status
from harness.errors import HarnessError, InfrastructureError, MirrorError
from harness.util import cache as disk_cache
from harness.util import proc

_MIB = 1 << 20

LEAST_DISK = 1024
"""MiB that a first run takes in the cache: a kernel unpacked, the guest image, a saved machine."""

LEAST_MEMORY = 512
"""MiB that a guest, its QEMU and pytest take."""

_PROGRAM_TIMEOUT = 60.0

DEVICE, MACHINE = "ivshmem-plain", "q35"
"""What a guest is made of that a QEMU may have been built without."""

Check = Callable[[], Finding]


def checks(*, online: bool = False) -> Iterator[tuple[str, tuple[str, ...], Check]]:
    """Yield every check: its name, the features that it matters to, and a function that does it.

    Args:
        online: Also ask the package sources whether they answer.
    """
    yield "python", ("run",), python
    yield "python packages", ("run",), packages
    qemu_name = "qemu-system-x86_64"
    for need in needs.table().needs:
        if need.name == qemu_name:
            yield qemu_name, need.features, qemu
            yield "vng", ("run",), vng
        elif need.name != "python3":
            yield short_name(need), need.features, partial(of_need, need)
    yield "accelerator", ("run",), accelerator
    yield "package sources", ("debian",), partial(sources, online=online)
    yield "cache folder", ("run",), cache
    yield "run folder", ("run",), run_folder
    yield "temporary folder", ("run",), temporary_folder
    yield "memory", ("run",), memory


def examine(*, online: bool = False) -> list[Finding]:
    """Do every check. A check that itself fails is a finding, and so is every error.

    Args:
        online: As for :func:`checks`.
    """
    return [_done(name, features, check) for name, features, check in checks(online=online)]


def _done(name: str, features: tuple[str, ...], check: Check) -> Finding:
    try:
        return check()
    except HarnessError as error:
        return Finding(name, Status.WRONG, error.what, _as_root(error.hint), features)
    except Exception as error:  # noqa: BLE001 - whatever happens to one check, the others are done
        what = f"the check itself failed: {type(error).__name__}: {error}"
        return Finding(name, Status.UNKNOWN, what, "report it, with this line", features)


def _as_root(command: str) -> str:
    return f"sudo {command}" if command.startswith("apt-get ") and os.geteuid() != 0 else command


# programs, libraries and files


def short_name(need: needs.Need) -> str:
    """Return what a finding about an entry of the table is called: its name without folders."""
    return need.name.rpartition("/")[2]


def of_need(need: needs.Need) -> Finding:
    """Look for an entry of the table of needs, and ask for its version where some are too old."""
    path = needs.find(need)
    name = short_name(need)
    if path is None:
        error = needs.missing(need.name)
        what = error.what.removeprefix(f"{need.name} is ")
        return Finding(name, Status.WRONG, what, _as_root(error.hint), need.features)
    if not need.enough[:1].isdigit():
        return Finding(name, Status.GOOD, str(path), features=need.features)
    version = needs.version_of(path)
    if not version or not needs.at_least(version, need.enough):
        what = f"{path} is of version {version or 'unknown'}, and {need.enough} is the least that will do"
        mend = f"install a newer one, or name one with {need.variable}"
        return Finding(name, Status.WRONG, what, mend, need.features)
    return Finding(name, Status.GOOD, f"{version}, {path}", features=need.features)


def python() -> Finding:
    """Tell which Python this is, and whether it has what the guest's agent imports."""
    import ctypes  # noqa: F401 - a Python may be built without

    return Finding("python", Status.GOOD, f"{platform.python_version()}, {sys.executable}")


def packages() -> Finding:
    """Compare the installed Python packages with what kernel-harness declares."""
    from importlib import metadata

    from packaging.requirements import Requirement

    name, trouble, seen = "python packages", [], 0
    for line in metadata.requires("kernel-harness") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        seen += 1
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            trouble.append(f"{wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            trouble.append(f"{wanted.name} is {version}, not {wanted.specifier}")
    if trouble:
        mend = f"{sys.executable} -m pip install --upgrade kernel-harness"
        return Finding(name, Status.WRONG, "; ".join(trouble), mend)
    return Finding(name, Status.GOOD, f"all {seen} are of versions that kernel-harness declares")


def qemu() -> Finding:
    """Ask QEMU for its version, and whether it has the machine and the device that guests are made of.

    Raises:
        ToolMissing: There is none.
    """
    from harness.vm.process import QEMU_NAME, find_qemu

    path = find_qemu()
    machines = proc.run([path, "-machine", "help"], timeout=_PROGRAM_TIMEOUT)
    if machines.status != 0:
        what = f"{path} ends with status {machines.status}: {machines.tail(1)}"
        return Finding(QEMU_NAME, Status.WRONG, what, _as_root(needs.need(QEMU_NAME).install))
    devices = proc.run([path, "-device", "help"], timeout=_PROGRAM_TIMEOUT)
    lacking = [
        f"the {kind} {name}"
        for kind, name, text in (
            ("machine", MACHINE, re.findall(r"^(\S+)", machines.stdout, re.MULTILINE)),
            ("device", DEVICE, re.findall(r'^name "([^"]+)"', devices.stdout, re.MULTILINE)),
        )
        if name not in text
    ]
    about = f"{needs.version_of(path) or 'unknown version'}, {path}"
    if lacking:
        what = f"{about}, was built without {' and '.join(lacking)}"
        return Finding(QEMU_NAME, Status.WRONG, what, "put another QEMU first on PATH")
    return Finding(QEMU_NAME, Status.GOOD, f"{about}; has {MACHINE} and {DEVICE}")


def vng() -> Finding:
    """Ask vng for its version and options: those that the harness passes have to be among them.

    Raises:
        ToolMissing: There is none.
        InfrastructureError: It does not end.
    """
    from harness.image.build import Image
    from harness.kernel.types import Kernel
    from harness.kernel.version import KernelVersion
    from harness.vm.command import vng_argv
    from harness.vm.process import find_vng, vng_environment
    from harness.vm.spec import Accel, Acceleration, MachineSpec

    path = find_vng()
    asked = proc.run([path, "--help"], timeout=_PROGRAM_TIMEOUT, env=vng_environment(path))
    mend = f"{sys.executable} -m pip install --upgrade virtme-ng"
    if asked.status != 0:
        return Finding("vng", Status.WRONG, f"{path} ends with status {asked.status}: {asked.tail(1)}", mend)
    nowhere = Path("/nowhere")
    kernel = Kernel("", KernelVersion(0, 0), "", nowhere, None, False, None, None, "", "", "")
    spec = MachineSpec(kernel, Image(nowhere, ""), Acceleration(Accel.TCG, "nothing is run"))
    argv = vng_argv(spec, kernel=nowhere, vng=path, qemu=nowhere, run_dir=nowhere)
    wanted = {word.partition("=")[0] for word in argv if word.startswith("--")}
    known = set(re.findall(r"--[a-z0-9-]+", asked.stdout))
    about = f"{needs.version_of(path) or 'unknown version'}, {path}"
    if lacking := sorted(wanted - known):
        return Finding("vng", Status.WRONG, f"{about}, does not know {', '.join(lacking)}", mend)
    return Finding("vng", Status.GOOD, f"{about}; knows all {len(wanted)} options that a boot passes")


# how guests run


def accelerator() -> Finding:
    """Tell how guests will run. A kernel in the cache is booted under KVM where nobody has tried that yet.

    Raises:
        HarnessError: No guest image can be made, or the cache cannot be used.
    """
    from harness.image.build import guest_image
    from harness.kernel import cache as kernel_cache
    from harness.vm import accel
    from harness.vm.spec import Accel, Acceleration, MachineSpec

    found = accel.known_acceleration()
    if found is None:
        kernels = sorted(kernel_cache.entries(), key=lambda entry: entry.last_used)
        if not kernels:
            what = f"{accel.KVM} opens; the first kernel will show whether it works"
            return Finding("accelerator", Status.GOOD, what)
        kernel = kernels[-1].kernel(str(kernels[-1].record["release"]))
        found = accel.decide("auto", MachineSpec(kernel, guest_image(), Acceleration(Accel.TCG, "not tried yet")))
    return Finding("accelerator", Status.GOOD, str(found))


# where kernels come from


def sources(*, online: bool) -> Finding:
    """Find the package sources and their keys, and ask each whether it answers.

    Args:
        online: Whether to ask.

    Raises:
        MirrorError: There is none, its keys are missing, or it does not answer.
    """
    from harness.kernel.files.download import fetch
    from harness.kernel.providers import apt_sources, debian_archive

    mirrors = debian_archive.mirrors(debian_archive.settings(), apt_sources.read_machine())
    for mirror in mirrors if online else []:
        with tempfile.TemporaryDirectory(prefix="harness-doctor-") as folder:
            urls = [f"{mirror.uri}/dists/{suite}/InRelease" for suite in mirror.suites]
            if not any(fetch(url, Path(folder, "InRelease")) for url in urls):
                raise MirrorError(f"{mirror.uri} has none of {', '.join(mirror.suites)}", hint="name another mirror")
    what = ", ".join(f"{mirror.uri} (keys: {mirror.keyring})" for mirror in mirrors)
    asked = "they answer" if online else "not asked whether they answer: --online"
    return Finding("package sources", Status.GOOD, f"{what}; {asked}", features=("debian",))


# room and rights


def _writable(folder: Path) -> bool:
    """Tell whether a folder, or the nearest one above it that is there, can be written."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def cache() -> Finding:
    """Look at the cache folder: whether it can be written, and the room on its disk.

    Raises:
        CacheError: Something that is no folder is in its place.
    """
    folder = disk_cache.cache_root()
    if not _writable(folder):
        return Finding("cache folder", Status.WRONG, f"{folder} cannot be written", "set HARNESS_CACHE to one that can")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free // _MIB
    if free < LEAST_DISK:
        what = f"{folder} has {free} MiB free, and a first run takes {LEAST_DISK}"
        mend = "harness kernels prune, or set HARNESS_CACHE to a folder on a larger disk"
        return Finding("cache folder", Status.WRONG, what, mend)
    return Finding("cache folder", Status.GOOD, f"{folder}, {free} MiB free")


def run_folder() -> Finding:
    """Make the folder for running machines.

    Raises:
        CacheError: Somebody else's folder is in its place.
    """
    return Finding("run folder", Status.GOOD, str(disk_cache.runs_root()))


def temporary_folder() -> Finding:
    """Write a file where temporary files go.

    Raises:
        InfrastructureError: That is not possible.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        raise InfrastructureError(f"no temporary file can be made: {error}", hint="set TMPDIR to a folder") from error
    return Finding("temporary folder", Status.GOOD, tempfile.gettempdir())


def memory() -> Finding:
    """Compare the memory that is free with what a guest takes."""
    match = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if match is None:
        return Finding("memory", Status.UNKNOWN, "/proc/meminfo does not say how much is available")
    available = int(match[1]) // 1024
    if available < LEAST_MEMORY:
        what = f"{available} MiB are available, and a guest takes {LEAST_MEMORY}"
        return Finding("memory", Status.WRONG, what, "end other programs")
    return Finding("memory", Status.GOOD, f"{available} MiB available")
