"""The checks: each examines one thing on this machine and returns a finding, also when it fails itself."""

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
from harness.util import architecture, proc
from harness.util import cache as disk_cache
from harness.util.architecture import Architecture

_MIB = 1 << 20

LEAST_DISK = 1024
"""MiB that a first run needs in the cache: an unpacked kernel, the guest image, a saved machine."""

LEAST_MEMORY = 512
"""MiB that a guest, its QEMU and pytest need."""

_PROGRAM_TIMEOUT = 60.0

DEVICE = "ivshmem-plain"
"""The device of guests that some builds of QEMU lack."""

Check = Callable[[], Finding]


def checks(*, online: bool = False) -> Iterator[tuple[str, tuple[str, ...], Check]]:
    """Yield every check: its name, the features that depend on it, and its function.

    Args:
        online: Also check that the package sources answer.
    """
    yield "python", ("run",), python
    yield "python packages", ("run",), packages
    emulated = {one.qemu: one for one in architecture.known().values()}
    for need in needs.table().needs:
        if need.name in emulated:
            yield need.name, need.features, partial(qemu, emulated[need.name])
            if emulated[need.name].is_own:
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
    """Run every check. An error, and a check that itself fails, are findings too.

    Args:
        online: As for :func:`checks`.
    """
    return [_done(name, features, check) for name, features, check in checks(online=online)]


def _done(name: str, features: tuple[str, ...], check: Check) -> Finding:
    try:
        return check()
    except HarnessError as error:
        return Finding(name, Status.WRONG, error.what, _as_root(error.hint), features)
    except Exception as error:  # noqa: BLE001 - an error in one check must not stop the others
        what = f"the check itself failed: {type(error).__name__}: {error}"
        return Finding(name, Status.UNKNOWN, what, "report this line", features)


def _as_root(command: str) -> str:
    return f"sudo {command}" if command.startswith("apt-get ") and os.geteuid() != 0 else command


# programs, libraries and files


def short_name(need: needs.Need) -> str:
    """Return the name of a finding about an entry of the table: the entry's name without folders."""
    return need.name.rpartition("/")[2]


def of_need(need: needs.Need) -> Finding:
    """Check that an entry of the table of needs exists, and its version if one is required."""
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
        what = f"{path} has version {version or 'unknown'}; {need.enough} or later is needed"
        mend = f"install a newer version, or name another with {need.variable}"
        return Finding(name, Status.WRONG, what, mend, need.features)
    return Finding(name, Status.GOOD, f"{version}, {path}", features=need.features)


def python() -> Finding:
    """Check that this Python has the modules that the guest's agent imports."""
    import ctypes  # noqa: F401 - a Python may be built without it

    return Finding("python", Status.GOOD, f"{platform.python_version()}, {sys.executable}")


def packages() -> Finding:
    """Compare the installed Python packages with the requirements of kernel-harness."""
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
    return Finding(name, Status.GOOD, f"all {seen} have the versions that kernel-harness requires")


def qemu(wanted: Architecture) -> Finding:
    """Check the version of QEMU, and that it has the machine type of guests, and the device where they have it.

    Args:
        wanted: The architecture of the guests.

    Raises:
        ToolMissing: It is not installed.
    """
    from harness.vm.process import find_qemu

    name, machine, device = wanted.qemu, wanted.qemu_machine, DEVICE if wanted.shared else ""
    features = needs.need(name).features
    path = find_qemu(wanted)
    machines = proc.run([path, "-machine", "help"], timeout=_PROGRAM_TIMEOUT)
    if machines.status != 0:
        what = f"{path} ends with status {machines.status}: {machines.tail(1)}"
        return Finding(name, Status.WRONG, what, _as_root(needs.need(name).install), features)
    devices = proc.run([path, "-device", "help"], timeout=_PROGRAM_TIMEOUT)
    lacking = [
        f"the {kind} {part}"
        for kind, part, text in (
            ("machine", machine, re.findall(r"^(\S+)", machines.stdout, re.MULTILINE)),
            ("device", device, re.findall(r'^name "([^"]+)"', devices.stdout, re.MULTILINE)),
        )
        if part and part not in text
    ]
    about = f"{needs.version_of(path) or 'unknown version'}, {path}"
    if lacking:
        what = f"{about}, was built without {' and '.join(lacking)}"
        return Finding(name, Status.WRONG, what, "put another QEMU first on PATH", features)
    has = " and ".join(filter(None, (machine, device)))
    return Finding(name, Status.GOOD, f"{about}; has {has}", features=features)


def vng() -> Finding:
    """Check vng's version, and that it knows the options that the harness passes.

    Raises:
        ToolMissing: It is not installed.
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
    """Check how guests will run. If KVM was not tried yet, boot a kernel from the cache under KVM.

    Raises:
        HarnessError: The guest image cannot be made, or the cache cannot be used.
    """
    from harness.image.build import guest_image
    from harness.kernel import cache as kernel_cache
    from harness.vm import accel
    from harness.vm.spec import Accel, Acceleration, MachineSpec

    found = accel.known_acceleration()
    if found is None:
        kernels = sorted(kernel_cache.entries(), key=lambda entry: entry.last_used)
        if not kernels:
            what = f"{accel.KVM} opens; the first boot will show whether it works"
            return Finding("accelerator", Status.GOOD, what)
        kernel = kernels[-1].kernel(str(kernels[-1].record["release"]))
        found = accel.decide("auto", MachineSpec(kernel, guest_image(), Acceleration(Accel.TCG, "not tried yet")))
    return Finding("accelerator", Status.GOOD, str(found))


# where kernels come from


def sources(*, online: bool) -> Finding:
    """Check the package sources and their keys, and with `online` that each answers.

    Args:
        online: Whether to connect to them.

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
                raise MirrorError(
                    f"{mirror.uri} has none of {', '.join(mirror.suites)}",
                    hint=f"name another mirror with {debian_archive.MIRROR_VARIABLE}",
                )
    what = ", ".join(f"{mirror.uri} (keys: {mirror.keyring})" for mirror in mirrors)
    asked = "they answer" if online else "--online also checks that they answer"
    return Finding("package sources", Status.GOOD, f"{what}; {asked}", features=("debian",))


# disk space and permissions


def _writable(folder: Path) -> bool:
    """Return whether a folder, or its nearest existing parent, can be written."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def cache() -> Finding:
    """Check that the cache folder can be written, and the free space on its disk.

    Raises:
        CacheError: Something that is not a folder is in its place.
    """
    folder = disk_cache.cache_root()
    if not _writable(folder):
        return Finding("cache folder", Status.WRONG, f"{folder} cannot be written", "set HARNESS_CACHE to another")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free // _MIB
    if free < LEAST_DISK:
        what = f"{folder} has {free} MiB free; a first run needs {LEAST_DISK}"
        mend = "harness kernels prune, or set HARNESS_CACHE to a folder on a larger disk"
        return Finding("cache folder", Status.WRONG, what, mend)
    return Finding("cache folder", Status.GOOD, f"{folder}, {free} MiB free")


def run_folder() -> Finding:
    """Make the folder for running machines.

    Raises:
        CacheError: Another user's folder is in its place.
    """
    return Finding("run folder", Status.GOOD, str(disk_cache.runs_root()))


def temporary_folder() -> Finding:
    """Write a temporary file.

    Raises:
        InfrastructureError: It cannot be written.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        raise InfrastructureError(f"no temporary file can be made: {error}", hint="set TMPDIR to a folder") from error
    return Finding("temporary folder", Status.GOOD, tempfile.gettempdir())


def memory() -> Finding:
    """Compare the free memory with the needs of a guest."""
    match = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if match is None:
        return Finding("memory", Status.UNKNOWN, "/proc/meminfo does not say how much is available")
    available = int(match[1]) // 1024
    if available < LEAST_MEMORY:
        what = f"{available} MiB are available; a guest needs {LEAST_MEMORY}"
        return Finding("memory", Status.WRONG, what, "end other programs")
    return Finding("memory", Status.GOOD, f"{available} MiB available")
