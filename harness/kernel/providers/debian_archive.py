"""Fetches the package indexes of a Debian archive and verifies their signatures.

Where apt is installed, apt does it with a private configuration: its own sources, lists and cache. It changes nothing
of the system's, needs no root, and uses the machine's proxy settings. Elsewhere :class:`PlainArchive` does the same:
gpgv verifies each suite's InRelease, which has the sha256 of its indexes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from harness import needs
from harness.errors import MirrorError
from harness.kernel.files.decompress import unpacked
from harness.kernel.files.download import fetch
from harness.kernel.providers import apt_sources
from harness.util import proc
from harness.util.data import read_toml

MIRROR_VARIABLE = "HARNESS_DEBIAN_MIRROR"
SECURITY_VARIABLE = "HARNESS_DEBIAN_SECURITY_MIRROR"
KEYRING_VARIABLE = "HARNESS_DEBIAN_KEYRING"


@dataclass(frozen=True)
class Mirror:
    """One archive to ask.

    Attributes:
        uri: Its address, without a trailing slash.
        keyring: File with the keys that may sign it.
        suites: The suites to fetch.
    """

    uri: str
    keyring: str
    suites: tuple[str, ...]


@dataclass(frozen=True)
class IndexFile:
    """A verified Packages file on this machine.

    Attributes:
        path: The file, possibly compressed.
        uri: The archive's address.
        suite: The suite.
    """

    path: Path
    uri: str
    suite: str


@dataclass
class Refreshed:
    """The result of a refresh.

    Attributes:
        files: The indexes on this machine now.
        absent: Suites that a mirror does not have, by its address.
        troubles: One line for each suite or mirror that did not answer or failed verification.
        proxy: The proxy for fetching packages; "" for none.
    """

    files: list[IndexFile] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    proxy: str = ""

    def lines(self) -> list[str]:
        """Return everything that went wrong, the most important first."""
        return self.troubles + [f"{uri} does not carry {', '.join(suites)}" for uri, suites in self.absent.items()]


class Archive(Protocol):
    """A way to fetch indexes."""

    def refresh(self, mirrors: Sequence[Mirror]) -> Refreshed:
        """Fetch every suite from every mirror and verify it."""
        ...


def settings() -> dict[str, Any]:
    """Return `kernels/debian.toml`."""
    return read_toml("kernels", "debian.toml")


def mirrors(data: dict[str, Any], machine: Sequence[apt_sources.Source]) -> list[Mirror]:
    """Find the mirrors: from a setting, else from this machine's apt sources.

    Args:
        data: `kernels/debian.toml`.
        machine: The machine's apt sources.

    Raises:
        MirrorError: There is no mirror.
    """
    found = []
    troubles = []
    for variable, suites, extra in (
        (MIRROR_VARIABLE, data["archive"], data["aliases"]),
        (SECURITY_VARIABLE, data["security"], [f"{alias}-security" for alias in data["aliases"]]),
    ):
        named = os.environ.get(variable, "").rstrip("/")
        hit = (named, "") if named else apt_sources.find_mirror(machine, [*suites, *extra], data["component"])
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
                hint=f"{needs.need(data['keyring']).install}, or name a keyring with {KEYRING_VARIABLE}",
            )
    return found


@dataclass(frozen=True)
class _Archive:
    """An archive.

    Attributes:
        folder: Folder of its indexes, and of apt-get's private configuration and cache.
        component: Component of the archive.
        architecture: Architecture of the packages.
    """

    folder: Path
    component: str
    architecture: str


class AptArchive(_Archive):
    """The archive through apt-get."""

    def refresh(self, mirrors: Sequence[Mirror]) -> Refreshed:
        """Run `apt-get update` under the private configuration."""
        config = self._configure(mirrors)
        environment = os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C"}
        done = proc.run(["apt-get", "--quiet", "update"], timeout=900, env=environment)
        result = Refreshed(list(self._files(mirrors)))
        asked = proc.run(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"], timeout=20, env=environment)
        result.proxy = proxy_of(asked.stdout)
        read_complaints(done.stderr, result)
        if done.status != 0 and not result.lines():
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
            f'APT::Architecture "{self.architecture}";\n'
            f'#clear APT::Architectures;\nAPT::Architectures {{ "{self.architecture}"; }};\n'
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\n'
            f'Dir::Etc::sourceparts "{self.folder}/parts";\n'
            f'Dir::Etc::preferencesparts "{self.folder}/parts";\n'
            f'Dir::State "{self.folder}";\n'
            f'Dir::State::Lists "{self.folder}/lists";\n'
            f'Dir::State::status "{self.folder}/status";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            # The harness reads the lists once; building apt's own cache of them would take longer than fetching them.
            'pkgCacheFile::Generate "false";\n'
            'Dir::Cache::pkgcache "";\n'
            'Dir::Cache::srcpkgcache "";\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
            'Acquire::PDiffs "false";\n'
            'Acquire::GzipIndexes "true";\n'
            'Acquire::Retries "2";\n'
            'Acquire::http::Timeout "20";\n'
            'Acquire::https::Timeout "20";\n'
            # The machine's hooks concern its own lists and packages.
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
        )
        return config

    def _files(self, mirrors: Sequence[Mirror]) -> Iterator[IndexFile]:
        # `apt-get indextargets` lists the names, but takes three seconds. apt removes the lists of sources
        # that are no longer configured, and no two mirrors are asked for the same suite.
        for mirror in mirrors:
            for suite in mirror.suites:
                name = f"*_dists_{suite}_{self.component}_binary-{self.architecture}_Packages"
                for path in (*self.folder.glob(f"lists/{name}"), *self.folder.glob(f"lists/{name}.*")):
                    yield IndexFile(path, mirror.uri, suite)
                    break


def read_complaints(stderr: str, result: Refreshed) -> None:
    """Parse the standard error of `apt-get update`: one line for each mirror and reason, not for each suite.

    Args:
        stderr: Its output, in the C locale.
        result: Receives what was found.
    """
    failed: dict[str, tuple[list[str], str]] = {}
    for line in dict.fromkeys(stderr.splitlines()):
        if match := re.match(r"E: The repository '(\S+) (\S+) Release' does not have a Release file", line):
            result.absent.setdefault(match[1], []).append(match[2])
        elif match := re.match(r"[WE]: Failed to fetch (\S+)/dists/([^/ ]+)/\S*\s*(.*)", line):
            uri, suite, reason = match.groups()
            failed.setdefault(uri, ([], reason))[0].append(suite)
        elif "Some index files failed to download" not in line and (match := re.match(r"[WE]: (.+)", line)):
            result.troubles.append(match[1])
    for uri, (suites, reason) in failed.items():
        result.troubles.append(f"{uri}: {', '.join(dict.fromkeys(suites))} could not be fetched: {reason}")


def proxy_of(shell: str) -> str:
    """Return the proxy in what `apt-config shell PROXY Acquire::http::Proxy` prints; "" when there is none."""
    words = shlex.split(shell)
    value = words[0].partition("=")[2] if words else ""
    return "" if value.upper() == "DIRECT" else value


class PlainArchive(_Archive):
    """The archive without apt."""

    def refresh(self, mirrors: Sequence[Mirror]) -> Refreshed:
        """Fetch and verify each suite's InRelease and the index that it names.

        Raises:
            ToolMissing: gpgv is not installed.
        """
        gpgv = needs.program("gpgv")
        result = Refreshed()
        for mirror in mirrors:
            for suite in mirror.suites:
                self._try_suite(gpgv, mirror, suite, result)
        wanted = {file.path for file in result.files}
        for path in self.folder.glob("*_Packages_*"):
            if path not in wanted and not path.name.endswith(".lock"):
                path.unlink(missing_ok=True)
        return result

    def _try_suite(self, gpgv: Path, mirror: Mirror, suite: str, result: Refreshed) -> None:
        try:
            path = self._suite(gpgv, mirror, suite)
        except MirrorError as error:
            result.troubles.append(error.what)
            return
        if path is None:
            result.absent.setdefault(mirror.uri, []).append(suite)
        else:
            result.files.append(IndexFile(path, mirror.uri, suite))

    def _suite(self, gpgv: Path, mirror: Mirror, suite: str) -> Path | None:
        base = f"{mirror.uri}/dists/{suite}"
        with tempfile.TemporaryDirectory(prefix="harness-release-") as folder:
            signed, text = Path(folder, "InRelease"), Path(folder, "Release")
            if not fetch(f"{base}/InRelease", signed):
                return None
            # Only gpgv's output is signed; the file may have more in it.
            done = proc.run([gpgv, "--keyring", mirror.keyring, "--output", text, signed], timeout=60)
            if done.status != 0:
                raise MirrorError(
                    f"the signature of {base}/InRelease is not valid: {done.tail(1)}",
                    expected=f"a signature by a key in {mirror.keyring}",
                )
            release = text.read_text(errors="replace")
        digest, size, name = named_index(release, f"{self.component}/binary-{self.architecture}/Packages", suite)
        target = self.folder / f"{suite}_Packages_{digest[:16]}{Path(name).suffix}"
        # By its digest: during an update, a mirror still has the old index under that name.
        by_hash = f"{name.rpartition('/')[0]}/by-hash/SHA256/{digest}"
        places = [by_hash, name] if re.search(r"^Acquire-By-Hash: yes$", release, re.MULTILINE) else [name]
        for place in places:
            if fetch(f"{base}/{place}", target, size=size, sha256=digest):
                return target
        raise MirrorError(f"{base}/{name} is not served (404)")


def named_index(
    release: str,
    name: str,
    suite: str,
    *,
    now: datetime | None = None,
    expired: Callable[[str], None] | None = None,
) -> tuple[str, int, str]:
    """Find an index in a Release file.

    Args:
        release: The file's signed text.
        name: The index's path, without the ending for compression.
        suite: The suite that was asked for.
        now: The time; default: now.
        expired: Accept a file that is too old, and call this with its Valid-Until.

    Returns:
        Its sha256, its size in bytes, and its path.

    Raises:
        MirrorError: The file is for another suite, is too old, or does not name the index.
    """
    from email.utils import parsedate_to_datetime

    fields = dict(re.findall(r"^(Suite|Codename|Valid-Until): (.*)$", release, re.MULTILINE))
    # Debian's security archive named its suites buster/updates, and their Release files buster, up to Debian 10.
    if suite.removesuffix("/updates") not in (fields.get("Suite"), fields.get("Codename")):
        raise MirrorError(
            f"the Release file of {suite} is for {fields.get('Codename', 'an unnamed suite')}",
            expected=f"Suite or Codename {suite}",
        )
    if "Valid-Until" in fields:
        try:
            until = parsedate_to_datetime(fields["Valid-Until"].replace("UTC", "+0000"))
            until = until if until.tzinfo is not None else until.replace(tzinfo=timezone.utc)
        except (ValueError, OverflowError) as error:
            raise MirrorError(f"the Release file of {suite} has a malformed Valid-Until: {error}") from error
        if until < (now or datetime.now(timezone.utc)):
            if expired is None:
                raise MirrorError(
                    f"the Release file of {suite} was valid until {fields['Valid-Until']}",
                    expected="an up-to-date mirror and a correct clock",
                )
            expired(fields["Valid-Until"])
    checksums = release.partition("\nSHA256:")[2]
    for ending in (".xz", ".gz", ""):
        found = re.search(rf"^ ([0-9a-f]{{64}}) +(\d+) {re.escape(name + ending)}$", checksums, re.MULTILINE)
        if found:
            return found[1], int(found[2]), name + ending
    raise MirrorError(f"the Release file of {suite} names no {name}", expected="an index of that component")


def best_archive(folder: Path, *, component: str, architecture: str) -> Archive:
    """Choose how to fetch indexes on this machine.

    Args:
        folder: Folder for its files.
        component: Component of the archive.
        architecture: Architecture of the packages.

    """
    kind = PlainArchive if shutil.which("apt-get") is None else AptArchive
    return kind(folder / ("plain" if kind is PlainArchive else "apt"), component=component, architecture=architecture)


def read_index(path: Path) -> bytes:
    """Return a Packages file, decompressed by the ending of its name.

    Raises:
        MirrorError: It is damaged.
    """
    try:
        return unpacked(path.read_bytes(), path.suffix)
    except (OSError, ValueError) as error:
        raise MirrorError(
            f"the package index {path} is damaged: {error}", hint=f"remove {path.parent} and run the command again"
        ) from error
