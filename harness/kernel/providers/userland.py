"""The programs of guests of another architecture: Python and its libraries from Debian's packages of that architecture.

The packages come from the same verified archive as the kernels. They are unpacked without root, and nothing of them is
run on this machine. The result is a folder like a root file system, complete or absent. It is made once for each
architecture and version of Python, and not made again when Debian updates a package: kernels are under test, not it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import BuildError, KernelFileError, MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.decompress import package_members, write_member
from harness.kernel.files.download import fetch
from harness.kernel.providers import debian_archive
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.types import Progress
from harness.util import cache
from harness.util.architecture import Architecture

RECORD = "packages.json"
"""Name of the file with the packages that the folder was made of: file and sha256, by name."""

# Not needed in a guest.
_LEFT_OUT = re.compile(r"usr/share/|usr/lib/python[^/]*/(test|idlelib|lib2to3|ensurepip|tkinter|turtledemo)/")


def own_python() -> str:
    """Return this Python's version without its last part: guests run its bytecode."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def packed(python: str, wanted: Architecture) -> Mapping[str, Any]:
    """Return the entry of `kernels/debian.toml` for a version of Python.

    Args:
        python: The version, "3.11".
        wanted: The architecture.

    Raises:
        BuildError: Debian has no such Python for the architecture.
    """
    known: Sequence[Mapping[str, Any]] = debian_archive.settings()["userland"]
    served = [one for one in known if wanted.name not in one["lacks"]]
    found = next((one for one in served if one["python"] == python), None)
    if found is None:
        raise BuildError(
            f"guests of {wanted.title} cannot run the bytecode of this machine's Python {python}",
            expected="Python " + " or ".join(str(one["python"]) for one in served) + ", which Debian has for it",
            hint="make the virtual environment with such a Python",
        )
    return found


def folder_of(wanted: Architecture) -> Path:
    """Return the folder of an architecture's programs for this Python. It may not exist yet."""
    return kernel_cache.folder().parent / "userlands" / f"{wanted.name}-python{own_python()}"


def userland(wanted: Architecture, *, progress: Progress) -> Path:
    """Return a folder with an architecture's programs, laid out as below the root; made once.

    Args:
        wanted: The architecture.
        progress: Called with a line of text when something takes time.

    Raises:
        BuildError: Debian has no Python of this version.
        MirrorError: The mirror does not answer, or lacks a package.
        KernelFileError: A package is damaged.
        CacheError: The cache cannot be written.
    """
    entry = packed(own_python(), wanted)
    folder = folder_of(wanted)

    def whole() -> Path | None:
        return cache.from_record(
            folder / RECORD, lambda known: folder if list(known) == list(entry["packages"]) else None
        )

    return cache.artefact(folder, whole=whole, make=lambda: _make(folder, wanted, entry, progress))


def _make(folder: Path, wanted: Architecture, entry: Mapping[str, Any], progress: Progress) -> Path:
    provider = DebianProvider(wanted.name)
    served, proxy = provider.userland(str(entry["python"]), entry["packages"], progress=progress)
    progress(f"debian: fetching Python {entry['python']} and its libraries for {wanted.name}")
    taken = [_fetch(name, served.get(name, []), wanted, proxy, progress) for name in entry["packages"]]
    with cache.new_folder(folder) as made:
        for path in taken:
            unpack(path, made)
        known = {
            name: f"{path.name} {cache.digest_file(path)}" for name, path in zip(entry["packages"], taken, strict=True)
        }
        cache.write_record(made / RECORD, known)
    for path in taken:
        path.unlink()
    return folder


def _fetch(
    name: str, versions: Sequence[Mapping[str, Any]], wanted: Architecture, proxy: str, progress: Progress
) -> Path:
    """Fetch a package, in its newest version that is served."""
    for package in versions:
        path = kernel_cache.folder() / "downloads" / str(package["url"]).rpartition("/")[2]
        if fetch(package["url"], path, size=package["size"], sha256=package["sha256"], proxy=proxy):
            return path
        progress(f"debian: {name} {package['version']} is indexed but not served (404); trying an older one")
    raise MirrorError(
        f"the mirror serves no package {name} for {wanted.name}",
        expected="it, for the programs of guests",
        hint=f"harness kernels list --arch {wanted.name} --refresh",
    )


def unpack(package: Path, target: Path) -> None:
    """Extract a package's files and links; what Debian still has below /lib goes below /usr/lib.

    Args:
        package: The .deb file.
        target: The folder that stands for the root.

    Raises:
        KernelFileError: It is not a Debian package, is damaged, or has a path that leads out of the folder.
    """
    with package_members(package) as members:
        for member in members:
            name = member.name.removeprefix("./")
            name = f"usr/{name}" if name.startswith(("lib/", "bin/", "sbin/")) else name
            if _LEFT_OUT.match(name) or not (member.isfile() or member.issym()):
                continue
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise KernelFileError(f"{package.name} has the path {member.name}", expected="paths below the root")
            place = target / name
            place.unlink(missing_ok=True)
            if member.isfile():
                write_member(members, member, place)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(_inside(member.linkname, name))


def _inside(points_to: str, name: str) -> str:
    """Return a link's target, relative, so that it leads to no file of this machine."""
    if not points_to.startswith("/"):
        return points_to
    below = points_to.lstrip("/")
    below = f"usr/{below}" if below.startswith(("lib/", "bin/", "sbin/")) else below
    return "/".join([".."] * (len(PurePosixPath(name).parts) - 1) + [below])
