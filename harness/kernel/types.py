"""The records that describe a kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.kernel.version import KernelVersion
from harness.util import architecture

Progress = Callable[[str], None]
"""Called with lines about slow work and other things that a person should see."""


OTHERS = "amd64"
"""The architecture of all kernels that come neither from Debian's archive nor from this machine."""


@dataclass(frozen=True)
class Choice:
    """One exact kernel, not yet on this machine: what a provider offers, and what a selector resolves to.

    It is apart from :class:`Kernel` because a run names its kernels before it downloads any. What is known of a package
    besides its identity (`release` and all below it) does not count when two choices are compared: a lock file does not
    say it.

    Attributes:
        label: What names it in test ids and reports: the selector's own words when it named one kernel ("6.1"). "" for
            an offer, which no selector has named.
        version: The upstream version.
        provider: Name of the provider that offers it.
        key: The provider's stable, exact name for it (package name and version, or path).
        flavour: "cloud", "generic", "minimal", "debug", ...
        alternatives: What to take instead, best first, when this one is unavailable; only for selectors that left the
            release open.
        sha256: Digest that the boot image must have, from a lock file; "" for any.
        architecture: Name of its architecture, as in kernels/architectures.toml; default: this machine's.
        release: Its `uname -r`, "" when not known in advance.
        revision: The package version ("6.1.192-2"), "" without a package.
        rank: Orders the offers of one upstream version and flavour; the greatest is the newest.
        size: Bytes to download, 0 for none.
        where: Suites or folder that have it, as text for the user.
        cached: Whether it was on this machine when it was offered.
    """

    label: str
    version: KernelVersion
    provider: str
    key: str
    flavour: str = ""
    alternatives: tuple[Choice, ...] = ()
    sha256: str = ""
    architecture: str = field(default_factory=architecture.own_name)
    release: str = field(default="", compare=False)
    revision: str = field(default="", compare=False)
    rank: int = field(default=0, compare=False)
    size: int = field(default=0, compare=False)
    where: str = field(default="", compare=False)
    cached: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Kernel:
    """A kernel that is on this machine, verified and ready to boot: what a provider makes of a :class:`Choice`.

    Attributes:
        label: As in :class:`Choice`.
        version: The upstream version, "6.1.192".
        release: What `uname -r` prints in the guest ("6.1.0-56-cloud-amd64"); "" when not known in advance.
        bzimage: The compressed image, or None when only a vmlinux was given.
        vmlinux: The uncompressed ELF image, or None when the bzImage could not be unpacked.
        pvh: Whether QEMU can boot `vmlinux` directly: it has the PVH ELF note and no known problem.
        config: The kernel's configuration file, if it has one.
        modules: The folder `lib/modules/RELEASE`, if it has one.
        digest: sha256 of the image that is booted.
        flavour: As in :class:`Choice`.
        origin: Where it came from, as one line for the user: provider, package and version, or path.
        architecture: As in :class:`Choice`.
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
    architecture: str = field(default_factory=architecture.own_name)

    @property
    def boot_image(self) -> Path:
        """The file for QEMU: the ELF image if QEMU can boot it, which saves decompression in the guest."""
        if self.vmlinux is not None and self.pvh:
            return self.vmlinux
        image = self.bzimage or self.vmlinux
        assert image is not None, "a Kernel has at least one image"
        return image

    @functools.cached_property
    def settings(self) -> Mapping[str, str] | None:
        """The configuration, values by symbol; None when the kernel has none."""
        from harness.kernel.build.kconfig import parse_config  # few tests ask

        return parse_config(self.config.read_text()) if self.config is not None else None


@dataclass(frozen=True)
class Wanted:
    """What a selector asks of a provider, for providers that cannot list everything.

    Attributes:
        version: Says whether a version matches.
        revision: The package version asked for, or "".
        flavour: The flavour asked for, or "".
        every: Whether every release of a series is wanted, not only the newest.
    """

    version: Callable[[KernelVersion], bool]
    revision: str = ""
    flavour: str = ""
    every: bool = False


ANYTHING = Wanted(lambda _version: True)


class Provider(Protocol):
    """A source of kernels. Providers are tried in the order of :mod:`harness.kernel.catalog`.

    Attributes:
        name: Its name in selectors.
        setting: What names its server, for messages: an environment variable; "" when it has no server.
    """

    name: str
    setting: str

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:
        """Return what it can bring, in order of version, without labels.

        A provider with a complete list returns all of it. One that has to ask for each kernel returns of each series
        that is wanted the newest release, or every one.

        Raises:
            InfrastructureError: It cannot list kernels now; the error says why.
        """
        ...

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one kernel onto this machine; None when its source no longer has it.

        Raises:
            HarnessError: The kernel could not be fetched; the error says why.
        """
        ...
