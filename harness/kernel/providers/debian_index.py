"""From a Debian package index to the kernels in it.

Pure: text in, records out. Debian has packaged kernels in two ways: `linux-image-RELEASE` with everything in
it, and since late 6.19 a meta-package of that name beside `linux-binary-RELEASE` (the image),
`linux-modules-RELEASE` and `linux-base-RELEASE` (its configuration and module lists). Either also exists
unsigned; without secure boot it is the same kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.errors import SelectorError
from harness.kernel.version import KernelVersion

META_PACKAGE_BYTES = 100_000
"""A linux-image package smaller than this contains no kernel."""

_STANZA = re.compile(
    rb"(?:\A|\n)Package: (linux-(?:image|binary(?:-unsigned)?|modules|base|source)-\d[^\n]*)\n(.*?)(?=\n\n|\Z)",
    re.DOTALL,
)
_FIELDS = rb"(?:\A|\n)Package: (%s)\n(.*?)(?=\n\n|\Z)"
_NAME = re.compile(r"linux-(image|binary-unsigned|binary|modules|base|source)-(\d.*?)(-unsigned)?")


@dataclass(frozen=True)
class Package:
    """One binary package in one suite.

    Attributes:
        name: Package name.
        version: Debian version.
        url: Its address.
        size: Bytes.
        sha256: Digest.
        suite: The suite whose index lists it.
    """

    name: str
    version: str
    url: str
    size: int
    sha256: str
    suite: str


@dataclass(frozen=True)
class DebianKernel:
    """One exact kernel that Debian packages.

    Attributes:
        release: What `uname -r` prints.
        revision: Debian version of its packages.
        version: Upstream version.
        flavour: The harness's name of the flavour.
        suites: The suites that have it.
        sets: The sets of packages that contain it, best first.
    """

    release: str
    revision: str
    version: KernelVersion
    flavour: str
    suites: tuple[str, ...]
    sets: tuple[tuple[Package, ...], ...]

    @property
    def key(self) -> str:
        """The kernel's key in the harness."""
        return f"{self.release}={self.revision}"

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.sets[0])


_SIZE = re.compile(r"[0-9]{1,15}")


def scan(text: bytes, *, base: str, suite: str) -> list[Package]:
    """Find the kernel packages in a Packages file.

    Args:
        text: The file, decompressed.
        base: The archive's address, without a trailing slash.
        suite: The suite of the file.
    """
    return _packages(_STANZA, text, base, suite)


def scan_for(names: Iterable[str], text: bytes, *, base: str, suite: str) -> list[Package]:
    """Find the packages with these names; other arguments as for :func:`scan`."""
    wanted = b"|".join(re.escape(name.encode()) for name in names)
    return _packages(re.compile(_FIELDS % wanted, re.DOTALL), text, base, suite)


def newest_first(packages: Iterable[Package]) -> dict[str, list[Package]]:
    """Return packages by name, the newest version first."""
    from debian.debian_support import Version

    found: dict[str, list[Package]] = {}
    for package in packages:
        found.setdefault(package.name, []).append(package)
    return {name: sorted(ones, key=lambda one: Version(one.version), reverse=True) for name, ones in found.items()}


def _packages(stanza: re.Pattern[bytes], text: bytes, base: str, suite: str) -> list[Package]:
    packages = []
    for match in stanza.finditer(text):
        name = match[1].decode(errors="replace")
        fields = dict(
            line.split(": ", 1) for line in match[2].decode(errors="replace").split("\n") if ": " in line[:40]
        )
        if name.endswith("-dbg") or not {"Version", "Filename", "Size", "SHA256"} <= fields.keys():
            continue
        if not _SIZE.fullmatch(fields["Size"]):
            continue
        packages.append(
            Package(
                name, fields["Version"], f"{base}/{fields['Filename']}", int(fields["Size"]), fields["SHA256"], suite
            )
        )
    return packages


def upstream(revision: str) -> KernelVersion | None:
    """Return the upstream version in a Debian kernel package's version; None when it has another form.

    "6.12.43-1~bpo12+1" is 6.12.43, "7.3~rc7-1~exp1" is 7.3-rc7.
    """
    try:
        return KernelVersion.parse(revision.split(":", 1)[-1].rpartition("-")[0])
    except SelectorError:
        return None


def release_of(name: str, suffixes: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the kernel's release and flavour that a package of an image is for; None for any other package.

    Args:
        name: The package.
        suffixes: Flavour by the suffix of its package names ("cloud-amd64": "cloud").
    """
    match = _NAME.fullmatch(name)
    if match is None or not match[1].startswith(("image", "binary")) or name.endswith(("-dbg", "-dbgsym")):
        return None
    # linux-image-6.12-amd64 and the like follow the newest release: their names contain no exact release.
    if re.match(r"\d+\.\d+(?:\.\d+|-rc\d+)", match[2]) is None:
        return None
    # The longest suffix wins: "amd64" ends every name.
    for suffix in sorted(suffixes, key=len, reverse=True):
        if match[2].endswith(f"-{suffix}"):
            return match[2], suffixes[suffix]
    return None


def names_of(release: str) -> tuple[str, ...]:
    """Return the names that a package with a kernel's image can have, the smallest first.

    Where both exist, linux-image is a meta-package.
    """
    plain = [f"linux-{kind}-{release}{ending}" for kind in ("binary", "image") for ending in ("", "-unsigned")]
    return (*plain, f"linux-binary-unsigned-{release}")


def kernels(packages: Iterable[Package], suffixes: Mapping[str, str]) -> list[DebianKernel]:
    """Group packages into kernels, in order of version.

    Args:
        packages: All kernel packages of all suites.
        suffixes: Flavour by the suffix of its package names ("cloud-amd64": "cloud").
    """
    from debian.debian_support import Version

    found: dict[tuple[str, str], dict[str, list[Package]]] = {}
    for package in packages:
        match = _NAME.fullmatch(package.name)
        if match is None or match[1] == "source":
            continue
        kind, release, unsigned = match.groups()
        if kind == "image" and package.size < META_PACKAGE_BYTES:
            continue
        found.setdefault((release, package.version), {}).setdefault(kind + (unsigned or ""), []).append(package)
    result = []
    # The longest suffix wins: "amd64" ends every name.
    by_length = sorted(suffixes, key=len, reverse=True)
    for (release, revision), parts in found.items():
        version = upstream(revision)
        suffix = next((suffix for suffix in by_length if release.endswith(f"-{suffix}")), None)
        sets = _sets(parts)
        # linux-image-6.12-amd64 and the like follow the newest release: their names contain no exact release.
        if version is None or suffix is None or not sets:
            continue
        suites = dict.fromkeys(package.suite for one in sets for package in one)
        result.append(DebianKernel(release, revision, version, suffixes[suffix], tuple(suites), tuple(sets)))
    return sorted(result, key=lambda kernel: (kernel.version, Version(kernel.revision), kernel.release))


def _sets(parts: Mapping[str, list[Package]]) -> list[tuple[Package, ...]]:
    sets: list[tuple[Package, ...]] = []
    seen: set[str] = set()
    for kind in ("image", "image-unsigned"):
        for package in parts.get(kind, ()):
            if package.url not in seen:
                seen.add(package.url)
                # Ubuntu's packages of an image have nothing else in them.
                sets.append((package, *(parts["modules"][:1] if parts.get("modules") else ())))
    for kind in ("binary", "binary-unsigned"):
        for package in parts.get(kind, ()):
            if package.url not in seen:
                seen.add(package.url)
                companions = [parts[other][0] for other in ("modules", "base") if parts.get(other)]
                sets.append((package, *companions))
    return sets


def sources(packages: Iterable[Package]) -> list[Package]:
    """Return the `linux-source-SERIES` packages, newest of each series, in order of version."""
    from debian.debian_support import Version

    newest: dict[str, Package] = {}
    for package in packages:
        match = _NAME.fullmatch(package.name)
        if match is None or match[1] != "source":
            continue
        known = newest.get(package.name)
        if known is None or Version(package.version) > Version(known.version):
            newest[package.name] = package
    return sorted(newest.values(), key=lambda package: upstream(package.version) or KernelVersion(0, 0))
