"""Bringing a Debian archive's package indexes onto this machine, their signatures checked.

Where apt is installed it does the work, under a private configuration: own sources, lists and cache, nothing
of the system's touched, no root needed; the machine's proxy settings hold. Elsewhere :class:`PlainArchive`
does the same with gpgv, from the same mirrors.

Imports the foundations and :mod:`harness.kernel.aptsources`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness import proc
from harness.data import read_toml
from harness.errors import MirrorError, ToolMissing
from harness.kernel import aptsources

MIRROR_VARIABLE = "HARNESS_DEBIAN_MIRROR"
SECURITY_VARIABLE = "HARNESS_DEBIAN_SECURITY_MIRROR"
KEYRING_VARIABLE = "HARNESS_DEBIAN_KEYRING"


@dataclass(frozen=True)
class Mirror:
    """One archive to ask.

    Attributes:
        uri: Its address, without a trailing slash.
        keyring: File of the keys that may sign it.
        suites: The suites to ask it for.
    """

    uri: str
    keyring: str
    suites: tuple[str, ...]


@dataclass(frozen=True)
class IndexFile:
    """A verified Packages file on this machine.

    Attributes:
        path: The file, perhaps compressed.
        uri: The archive's address.
        suite: The suite.
    """

    path: Path
    uri: str
    suite: str


@dataclass
class Refreshed:
    """What a refresh brought.

    Attributes:
        files: The indexes that are there now.
        troubles: One line for each suite or mirror that did not answer or was not believed.
    """

    files: list[IndexFile] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


class Archive(Protocol):
    """A way to bring indexes."""

    def refresh(self, mirrors: Sequence[Mirror]) -> Refreshed:
        """Ask every mirror for every suite, and verify what comes."""
        ...


def settings() -> dict[str, Any]:
    """Return `kernels/debian.toml`."""
    return read_toml("kernels", "debian.toml")


def mirrors(data: dict[str, Any], machine: Sequence[aptsources.Source]) -> list[Mirror]:
    """Find the mirrors: a setting, else the machine's own apt sources.

    Args:
        data: `kernels/debian.toml`.
        machine: The machine's apt sources.

    Raises:
        MirrorError: There is none.
    """
    found = []
    troubles = []
    for variable, suites, extra in (
        (MIRROR_VARIABLE, data["archive"], data["aliases"]),
        (SECURITY_VARIABLE, data["security"], [f"{alias}-security" for alias in data["aliases"]]),
    ):
        named = os.environ.get(variable, "").rstrip("/")
        hit = (named, "") if named else aptsources.find_mirror(machine, [*suites, *extra], data["component"])
        if hit is None:
            troubles.append(variable)
            continue
        uri, keyring = hit
        found.append(Mirror(uri, os.environ.get(KEYRING_VARIABLE) or keyring or data["keyring"], tuple(suites)))
    if MIRROR_VARIABLE in troubles:
        raise MirrorError(
            "this machine's apt sources name no Debian mirror",
            expected="a source of Debian's main archive in /etc/apt, or a setting",
            hint=f"set {MIRROR_VARIABLE} (and {SECURITY_VARIABLE}) to a mirror's address",
        )
    for mirror in found:
        if not Path(mirror.keyring).is_file():
            raise MirrorError(
                f"the keyring {mirror.keyring} is missing, so nothing of {mirror.uri} can be verified",
                expected="the keys of Debian's archive",
                hint=f"install the package debian-archive-keyring, or name a keyring with {KEYRING_VARIABLE}",
            )
    return found


class AptArchive:
    """The archive by way of apt-get.

    Args:
        folder: Where its private configuration, lists and cache are kept.
        component: Component of the archive.
        architecture: Architecture of the packages.
    """

    def __init__(self, folder: Path, *, component: str, architecture: str) -> None:
        self.folder = folder
        self.component = component
        self.architecture = architecture

    def refresh(self, mirrors: Sequence[Mirror]) -> Refreshed:
        """Run `apt-get update` under the private configuration."""
        config = self._configure(mirrors)
        environment = os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C"}
        done = proc.run(["apt-get", "--quiet", "update"], timeout=900, env=environment)
        result = Refreshed(list(self._files(environment)))
        for line in (done.stderr + done.stdout).splitlines():
            if match := re.match(r"(?:[WE]: |Err:\d+ )(.+)", line):
                result.troubles.append(match[1])
        if done.status != 0 and not result.troubles:
            result.troubles.append(f"apt-get update ended with status {done.status}: {done.tail(1)}")
        return result

    def _configure(self, mirrors: Sequence[Mirror]) -> Path:
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        sources = "".join(
            # target=Packages: a machine may be configured to fetch file lists and icons with every index.
            f"deb [arch={self.architecture} target=Packages signed-by={mirror.keyring}] "
            f"{mirror.uri} {suite} {self.component}\n"
            for mirror in mirrors
            for suite in mirror.suites
        )
        (self.folder / "sources.list").write_text(sources)
        config = self.folder / "apt.conf"
        config.write_text(
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{self.folder}/parts";\n'
            f'Dir::Etc::preferencesparts "{self.folder}/parts";\n'
            f'Dir::State "{self.folder}";\n'
            f'Dir::State::Lists "{self.folder}/lists";\n'
            f'Dir::State::status "{self.folder}/status";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            # The lists are read once; building apt's own cache of them would take longer than that.
            'Dir::Cache::pkgcache "";\n'
            'Dir::Cache::srcpkgcache "";\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
            'Acquire::PDiffs "false";\n'
            'Acquire::GzipIndexes "true";\n'
            'Acquire::Retries "2";\n'
            'Acquire::http::Timeout "20";\n'
            'Acquire::https::Timeout "20";\n'
            # The machine's own hooks are about its own lists and packages.
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )
        return config

    def _files(self, environment: dict[str, str]) -> Iterator[IndexFile]:
        done = proc.run(
            [
                "apt-get",
                "indextargets",
                "--no-release-info",
                "--format",
                "$(FILENAME)|$(REPO_URI)|$(RELEASE)|$(ARCHITECTURE)",
                "Created-By: Packages",
            ],
            timeout=120,
            env=environment,
        )
        for line in done.stdout.splitlines():
            name, uri, suite, architecture = line.split("|")
            if architecture != self.architecture:
                continue
            # apt names the file as if it were not compressed, whatever it did.
            for path in (Path(name), *Path(name).parent.glob(f"{Path(name).name}.*")):
                if path.is_file():
                    yield IndexFile(path, uri.rstrip("/"), suite)
                    break


def best_archive(folder: Path, *, component: str, architecture: str) -> Archive:
    """Choose the way to bring indexes on this machine.

    Args:
        folder: Where it may keep what it needs.
        component: Component of the archive.
        architecture: Architecture of the packages.

    Raises:
        ToolMissing: There is none.
    """
    if shutil.which("apt-get") is None:
        raise ToolMissing("apt-get is not installed; it is needed to read Debian's package indexes")
    return AptArchive(folder / "apt", component=component, architecture=architecture)


def read_index(path: Path) -> bytes:
    """Return a Packages file, decompressed by what its name ends in.

    Raises:
        MirrorError: It is damaged.
    """
    try:
        if path.suffix == ".lz4":
            import lz4.frame

            with lz4.frame.open(path) as stream:
                return bytes(stream.read())
        if path.suffix == ".xz":
            import lzma

            return lzma.decompress(path.read_bytes())
        if path.suffix == ".gz":
            import gzip

            return gzip.decompress(path.read_bytes())
        if path.suffix == ".zst":
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        if path.suffix == ".bz2":
            import bz2

            return bz2.decompress(path.read_bytes())
        return path.read_bytes()
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise MirrorError(
            f"the package index {path} is damaged: {error}", hint=f"remove {path.parent} and run the command again"
        ) from error
