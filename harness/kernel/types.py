"""The records that the rest of the package knows a kernel by.

Imports only the standard library and :mod:`harness.kernel.version`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.kernel.version import KernelVersion


@dataclass(frozen=True)
class Choice:
    """One kernel that a selector resolved to: an exact identity, not yet on this machine.

    Attributes:
        label: What names it in test ids and reports: the selector's own words when it named one kernel ("6.1").
        version: The upstream version.
        provider: Name of the provider that offers it.
        key: What the provider knows it by (a package name and version, a path); stable and exact.
        flavour: "cloud", "generic", "minimal", "debug", ...
    """

    label: str
    version: KernelVersion
    provider: str
    key: str
    flavour: str = ""


@dataclass(frozen=True)
class Kernel:
    """A kernel that is on this machine, verified and ready to boot.

    Attributes:
        label: As in :class:`Choice`.
        version: The upstream version, "6.1.192".
        release: What `uname -r` prints in the guest ("6.1.0-56-cloud-amd64"); "" when it cannot be known beforehand.
        bzimage: The compressed image, or None when only a vmlinux was given.
        vmlinux: The uncompressed ELF image, or None when the payload could not be unpacked.
        pvh: Whether `vmlinux` has the PVH ELF note, without which QEMU cannot boot it directly.
        config: The kernel's configuration file, when one came with it.
        modules: The folder `lib/modules/RELEASE`, when one came with it.
        digest: sha256 of the image that is booted.
        flavour: As in :class:`Choice`.
        origin: Where it came from, one line a person can read: provider, package and version, or path.
    """

    label: str
    version: KernelVersion
    release: str
    bzimage: Path | None
    vmlinux: Path | None
    pvh: bool
    config: Path | None
    modules: Path | None
    digest: str
    flavour: str
    origin: str

    @property
    def boot_image(self) -> Path:
        """The file to hand to QEMU: the ELF image where it can be booted (no decompression in the guest)."""
        if self.vmlinux is not None and self.pvh:
            return self.vmlinux
        image = self.bzimage or self.vmlinux
        assert image is not None, "a Kernel has at least one image"
        return image
