"""Debian packages that contain a kernel: fetched as a set, unpacked, put into the kernel cache."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import KernelFileError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.decompress import package_members, write_member
from harness.kernel.files.download import Meter, fetch, no_meter
from harness.kernel.providers.debian_index import DebianKernel
from harness.kernel.types import Choice, Kernel, Progress
from harness.kernel.version import KernelVersion
from harness.util import cache

CHANGELOG = "changelog.gz"
"""Name of a kernel's changelog in its entry."""

# Named without "usr/": see unpack.
_CHANGELOG_MEMBER = re.compile(r"share/doc/linux-(?:image|base)-[^/]+/changelog(?:\.Debian)?\.gz")


def kernel_facts(kernel: DebianKernel) -> dict[str, Any]:
    """Return a kernel as data for a JSON file."""
    return {
        "key": kernel.key,
        "version": str(kernel.version),
        "release": kernel.release,
        "revision": kernel.revision,
        "flavour": kernel.flavour,
        "suites": kernel.suites,
        "size": kernel.size,
        "sets": [[dataclasses.asdict(package) for package in one] for one in kernel.sets],
    }


def choices(provider: str, kernels: Iterable[Mapping[str, Any]], *, architecture: str, where: str = "") -> list[Choice]:
    """Return the choices that kernels of a package index are.

    Args:
        provider: Name of the provider.
        kernels: What :func:`kernel_facts` returned for each, in order of version.
        architecture: Name of their architecture.
        where: Where they are, for lists; by default the suites that each is in.
    """
    holds = kernel_cache.holder(provider)
    return [
        Choice(
            label="",
            version=KernelVersion.parse(kernel["version"]),
            provider=provider,
            key=kernel["key"],
            architecture=architecture,
            flavour=kernel["flavour"],
            release=kernel["release"],
            revision=kernel["revision"],
            rank=rank,
            size=kernel["size"],
            where=where or " ".join(kernel["suites"]),
            cached=holds(kernel["key"]),
        )
        for rank, kernel in enumerate(kernels)
    ]


def fetch_set(
    provider: str, kernel: Mapping[str, Any], progress: Progress, *, proxy: str = "", meter: Meter = no_meter
) -> list[Path] | None:
    """Fetch the first set of a kernel's packages that is served whole; None when none is.

    Args:
        provider: Name of the provider, for messages.
        kernel: What :func:`kernel_facts` returned.
        progress: Called with a line of text for each step.
        proxy: Address of the proxy to go through; "" to use the environment's.
        meter: Called with the progress of each download.

    Raises:
        MirrorError: The server does not answer, or sends other files than its index names.
        CacheError: The cache cannot be written.
    """
    for packages in kernel["sets"]:
        size = sum(package["size"] for package in packages)
        progress(f"{provider}: fetching {packages[0]['name']} {kernel['revision']} ({size / 1e6:.0f} MB)")
        paths = []
        for package in packages:
            path = kernel_cache.folder() / "downloads" / package["url"].rpartition("/")[2]
            checks = {"size": package["size"], "sha256": package["sha256"]}
            if not fetch(package["url"], path, **checks, proxy=proxy, meter=meter):
                progress(f"{provider}: {package['name']} {package['version']} is indexed but not served (404)")
                break
            paths.append(path)
        else:
            return paths
    return None


def store(
    provider: str, choice: Choice, kernel: Mapping[str, Any], packages: Sequence[Path], progress: Progress
) -> Kernel | None:
    """Unpack a kernel's packages into the cache, and remove them.

    Args:
        provider: Name of the provider.
        choice: The kernel.
        kernel: What :func:`kernel_facts` returned.
        packages: Its packages, verified.
        progress: Called with a line of text for each step.

    Raises:
        KernelFileError: A package has no usable kernel.
        CacheError: The cache cannot be written.
    """
    with kernel_cache.new_entry(provider, choice.key) as made:
        if made is not None:
            for path in packages:
                unpack(path, str(kernel["release"]), made)
            origin = f"{provider} {kernel['key']} ({', '.join(kernel['suites'])})"
            if not any((made / name).is_file() for name in ("vmlinuz", "vmlinux")):
                raise KernelFileError(f"the packages of {origin} have no kernel image", expected="a vmlinuz in one")
            has = {"modules": (made / "lib").is_dir(), "configuration": (made / "config").is_file()}
            lacks = " and ".join(name for name, there in has.items() if not there)
            if lacks:
                progress(f"{provider}: the packages of {kernel['release']} have no {lacks}")
            digests = {path.name: cache.digest_file(path) for path in packages}
            kernel_cache.seal(made, choice, origin=origin, packages=digests)
    revision = str(kernel["revision"]).split(":", 1)[-1]
    for path in (kernel_cache.folder() / "downloads").glob(f"*{kernel['release']}*_{revision}_*.deb*"):
        path.unlink(missing_ok=True)
    return kernel_cache.load(choice, progress=progress)


def unpack(package: Path, release: str | None, target: Path) -> None:
    """Extract image, configuration, modules and changelog of one kernel from a package.

    Args:
        package: The .deb file.
        release: The kernel's release; None for the changelog alone.
        target: Folder to put the image, `config`, `lib/modules/RELEASE` and `changelog.gz` into. The image is called
            `vmlinuz`, or `vmlinux` where it is an ELF file.

    Raises:
        KernelFileError: It is not a Debian package, or is damaged.
    """
    plain = {f"boot/{name}-{release}": name for name in ("vmlinuz", "vmlinux")} | {f"boot/config-{release}": "config"}
    tree = f"lib/modules/{release}/"
    with package_members(package) as members:
        for member in members:
            if not member.isfile():
                continue
            name = member.name.removeprefix("./").removeprefix("usr/")
            inner = name.removeprefix(tree)
            if name in plain:
                place = target / plain[name]
            elif inner in ("vmlinuz", "config"):
                place = target / inner
            elif _CHANGELOG_MEMBER.fullmatch(name):
                place = target / CHANGELOG
            elif release is None:
                continue
            elif inner != name and ".." not in Path(inner).parts:
                place = target / name
            else:
                continue
            write_member(members, member, place)
            if place == target / "vmlinuz" and _is_elf(place):
                # Packages of linux-binary have ppc64el's image under that name too.
                place.rename(target / "vmlinux")


def _is_elf(path: Path) -> bool:
    from harness.kernel.files.bzimage import ELF_MAGIC  # with it come decompressors

    with path.open("rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC
