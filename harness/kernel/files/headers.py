"""A kernel's headers, for programs that are compiled in its guest, and its exported symbols, for modules.

A Debian kernel's headers are in the package `linux-headers-RELEASE` and the package with the common part that it
depends on, found in the same verified indexes as the kernel. For a kernel built here with CONFIG_IKHEADERS (flavour
bcc), the build stores them beside its image.
"""

from __future__ import annotations

import functools
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MirrorError, UsageError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.decompress import package_members, write_member
from harness.kernel.files.download import fetch
from harness.kernel.providers import debian_archive
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.types import Choice, Progress
from harness.util import cache

# No BPF program includes these; they are half of the packages.
_LEFT_OUT = frozenset(
    "clocksource crypto drm dt-bindings keys kunit media memory misc pcmcia ras rdma rv scsi soc sound target ufs "
    "video xen".split()
)


_EXPORTS = "Module.symvers"

Package = dict[str, str]
"""What an index says of a package, and under `base` the address of its archive."""


@dataclass(frozen=True)
class Headers:
    """Headers of one kernel.

    Attributes:
        folder: The headers, laid out as below the root: usr/src/linux-headers-...
        release: What `uname -r` prints on the kernel.
        build: Path of the flavour's part, from the root.
        common: Path of the part that it shares with its other flavours; equal to `build` when there is none.
    """

    folder: Path
    release: str
    build: str
    common: str


def headers_of(choice: Choice, *, progress: Progress) -> Headers:
    """Return the headers of a kernel; from the cache, or fetched.

    Raises:
        UsageError: The kernel is neither Debian's nor built here with its headers.
        MirrorError: The mirror does not have them, or does not answer.
        CacheError: The cache cannot be written.
    """
    packed = kernel_cache.entry_folder(choice.provider, choice.key) / kernel_cache.HEADERS
    if packed.is_file():
        return _built(choice, packed)
    if choice.provider != DebianProvider.name:
        raise UsageError(
            f"there are no headers for the kernel {choice.label}",
            expected="a Debian kernel, whose headers are packaged, or a kernel built here with its headers",
            hint="harness kernels build VERSION --flavour bcc",
        )
    release = _release(choice)
    folder = _folder(choice)
    build = f"usr/src/linux-headers-{release}"
    cache.artefact(folder, whole=lambda: _there(folder), make=lambda: _bring(choice, folder, progress))
    common = next(path.name for path in (folder / "usr/src").iterdir() if path.name != Path(build).name)
    return Headers(folder, release, build, f"usr/src/{common}")


def exports_of(choice: Choice, *, progress: Progress) -> Path | None:
    """Return the list of the symbols that a kernel exports to modules, Module.symvers; from the cache, or fetched.

    Returns:
        None for a kernel that is not Debian's: only there it is packaged.

    Raises:
        MirrorError: The mirror does not have it, or does not answer.
        CacheError: The cache cannot be written.
    """
    if choice.provider != DebianProvider.name:
        return None
    folder = _folder(choice).with_name(f"{_folder(choice).name}-exports")

    def bring() -> Path:
        _find_package, own = _packages(choice, progress)
        progress(f"debian: fetching the exported symbols of {_release(choice)} ({int(own['Size']) / 1e6:.0f} MB)")
        with cache.new_folder(folder) as made:
            _extract(choice, own, made, lambda inner: inner == (_EXPORTS,))
        return folder

    cache.artefact(folder, whole=lambda: _there(folder), make=bring)
    return folder / f"usr/src/linux-headers-{_release(choice)}" / _EXPORTS


def _folder(choice: Choice) -> Path:
    return kernel_cache.folder() / "headers" / choice.key.replace("/", "_")


def _there(folder: Path) -> Path | None:
    # It is made whole or not at all, and what a compiler cannot read it names.
    return folder if folder.is_dir() else None


def _built(choice: Choice, packed: Path) -> Headers:
    """Unpack the headers stored in a kernel that was built here."""
    entry = kernel_cache.read_entry(packed.parent)
    assert entry is not None, "a kernel that is used has an entry"
    release = str(entry.record["release"])
    build = f"usr/src/linux-headers-{release}"
    # A kernel that is built again has other headers.
    folder = _folder(choice).with_name(f"{_folder(choice).name}-{entry.digest[:16]}")

    def unpack() -> Path:
        with cache.new_folder(folder) as made, tarfile.open(packed) as archive:
            for member in archive:
                place = made / build / member.name
                if member.isfile() and member.name.endswith(".h") and ".." not in place.parts:
                    write_member(archive, member, place)
        return folder

    cache.artefact(folder, whole=lambda: _there(folder), make=unpack)
    return Headers(folder, release, build, build)


def _bring(choice: Choice, folder: Path, progress: Progress) -> Path:
    find, own = _packages(choice, progress)
    common_name = re.search(r"linux-headers-\S+-common\S*", own["Depends"])
    common = find(common_name[0]) if common_name is not None else None
    if common is None:
        raise _missing(choice)
    size = int(own["Size"]) + int(common["Size"])
    progress(f"debian: fetching headers of {_release(choice)} ({size / 1e6:.0f} MB)")
    with cache.new_folder(folder) as made:
        for package in (own, common):
            _extract(choice, package, made, _is_included)
    return folder


def _release(choice: Choice) -> str:
    return choice.key.partition("=")[0]


def _packages(choice: Choice, progress: Progress) -> tuple[Callable[[str], Package | None], Package]:
    """Return what finds packages of a kernel's version, and the one with the flavour's headers."""
    provider = DebianProvider(choice.architecture)
    index = provider.index(progress=progress)
    kernel = next((one for one in index["kernels"] if one["key"] == choice.key), None)
    if kernel is None:
        raise _missing(choice)
    find = functools.partial(_find, provider.folder, kernel)
    own = find(f"linux-headers-{_release(choice)}")
    if own is None:
        raise _missing(choice)
    return find, own


def _missing(choice: Choice) -> MirrorError:
    return MirrorError(
        f"the mirror has no headers for the kernel {choice.key}",
        expected="the package linux-headers of the same version as the kernel",
        hint="choose another release of the series, or refresh the index: harness kernels list --refresh",
    )


def _find(provider_folder: Path, kernel: dict[str, Any], name: str) -> Package | None:
    """Find a package of the kernel's version in the indexes that the kernel was found in."""
    bases = {package["suite"]: package["url"].partition("/pool/")[0] for one in kernel["sets"] for package in one}
    stanza = re.compile(rb"(?:\A|\n)Package: " + re.escape(name.encode()) + rb"\n(.*?)(?=\n\n|\Z)", re.DOTALL)
    for suite, base in bases.items():
        for path in _indexes(provider_folder, suite):
            for match in stanza.finditer(debian_archive.read_index(path)):
                lines = match[1].decode(errors="replace").split("\n")
                fields = dict(line.split(": ", 1) for line in lines if ": " in line)
                if fields.get("Version") == kernel["revision"]:
                    return fields | {"base": base}
    return None


def _indexes(provider_folder: Path, suite: str) -> Iterator[Path]:
    for pattern in (f"*_dists_{suite}_*_Packages*", f"{suite}_Packages_*"):
        yield from (path for path in provider_folder.rglob(pattern) if path.suffix != ".lock")


def _extract(choice: Choice, package: Package, target: Path, is_wanted: Callable[[tuple[str, ...]], bool]) -> None:
    """Fetch a package, and extract files of it by their paths below a folder of usr/src."""
    path = kernel_cache.folder() / "downloads" / Path(package["Filename"]).name
    url = f"{package['base']}/{package['Filename']}"
    if not fetch(url, path, size=int(package["Size"]), sha256=package["SHA256"]):
        raise _missing(choice)
    with package_members(path) as members:
        for member in members:
            parts = Path(member.name.removeprefix("./")).parts
            if member.isfile() and parts[:2] == ("usr", "src") and ".." not in parts and is_wanted(parts[3:]):
                write_member(members, member, target.joinpath(*parts))
    path.unlink()


def _is_included(inner: tuple[str, ...]) -> bool:
    """Return whether programs for the kernel's architecture include a file."""
    of_kernel = inner[:2] == ("arch", "x86") or (inner[:1] == ("include",) and inner[1] not in _LEFT_OUT)
    return of_kernel and inner[-1].endswith(".h")
