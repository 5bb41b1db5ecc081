"""The snapshot provider: Debian's archive as it was on any day, through its machine-readable interface.

Finding a release takes two requests: the versions of the source package, and the binary packages of one version.
Bringing it takes one more for the day on which its file arrived, and two for the signed index of that day. The packages
are verified against that index. An index of years ago has expired, and no newer one of that day will ever exist: it is
accepted here alone, with a message. Requests are made one at a time, and what was learned of a version is kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness import needs
from harness.errors import MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.decompress import unpacked
from harness.kernel.files.download import Meter, fetch, get, no_meter
from harness.kernel.providers import debian_archive, debian_index, debs
from harness.kernel.providers.kept import KeptList
from harness.kernel.types import ANYTHING, OTHERS, Choice, Kernel, Progress, Wanted
from harness.kernel.version import KernelVersion
from harness.util import architecture, cache

SERVER_VARIABLE = "HARNESS_DEBIAN_SNAPSHOT"
REMOVED_KEYS_VARIABLE = "HARNESS_DEBIAN_REMOVED_KEYS"

LOOK_AT = 5
"""Versions of a series to look at, newest first, for one that has the flavour asked for."""

_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class SignedIndex:
    """A signed index that may list a package.

    Attributes:
        archive: The archive: "debian", "debian-security".
        stamp: The time, as the service writes it.
        suite: The suite.
    """

    archive: str
    stamp: str
    suite: str


def places(revision: str, infos: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> Iterator[SignedIndex]:
    """Yield the indexes that may list a package, the likeliest first. Pure.

    Args:
        revision: The package's version.
        infos: What the service knows of its file: archive and first day.
        data: `kernels/debian.toml`.
    """
    known = sorted(
        (info for info in infos if info["archive_name"] in ("debian", "debian-security")),
        key=lambda info: (info["archive_name"], info["first_seen"]),
    )
    for days in data["snapshot"]["later_days"]:
        for info in known:
            when = datetime.strptime(info["first_seen"], _STAMP) + timedelta(days=days)
            for suite in _suites(revision, info["archive_name"], data["release"]):
                yield SignedIndex(info["archive_name"], when.strftime(_STAMP), suite)


def _suites(revision: str, archive: str, releases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the suites that a version of that form goes into first."""
    version = debian_index.upstream(revision)
    series = "{}.{}".format(*version.series) if version else ""
    number = re.search(r"~bpo(\d+)|[+~]deb(\d+)", revision)
    named = [one for one in releases if number and str(one["number"]) == (number[1] or number[2])]
    stable = named or [one for one in releases if one["series"] == series]
    if archive == "debian-security":
        return [f"{one['name']}-security" if one["number"] >= 11 else f"{one['name']}/updates" for one in stable]
    if "~bpo" in revision:
        return [f"{one['name']}-backports" for one in named]
    if "~exp" in revision or "~rc" in revision:
        return ["experimental", "sid"]
    return ["sid", *(suite for one in stable for suite in (f"{one['name']}-proposed-updates", one["name"]))]


class SnapshotProvider:
    """Every kernel that Debian ever shipped.

    Args:
        meter: Called with the progress of each download.
        refresh: Ask for the list of versions even when it is recent.
    """

    name = "snapshot"
    setting = SERVER_VARIABLE

    def __init__(self, *, meter: Meter = no_meter, refresh: bool = False) -> None:
        self.meter = meter
        self.folder = kernel_cache.folder() / "snapshot"
        self.data = debian_archive.settings()
        self.architecture = architecture.require(OTHERS)
        self.settings: dict[str, Any] = self.data["snapshot"]
        self.server = os.environ.get(SERVER_VARIABLE, str(self.settings["server"])).rstrip("/")
        hours = self.settings["list_hours"]
        self.list = KeptList(self.folder / "versions.json", name=self.name, what="list", hours=hours, refresh=refresh)

    # offers

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:
        """Return the newest wanted release of each series, or every one.

        Raises:
            MirrorError: The service cannot be asked.
        """
        by_series: dict[tuple[int, int], list[tuple[KernelVersion, str]]] = {}
        for revision in self._versions(progress):
            version = debian_index.upstream(revision)
            if version is not None and wanted.version(version) and wanted.revision in ("", revision):
                by_series.setdefault(version.series, []).append((version, revision))
        found: list[Choice] = []
        for releases in by_series.values():
            for version, revision in reversed(releases if wanted.every else releases[-LOOK_AT:]):
                kernels = self._kernels(version, revision, progress)
                fit = [one for one in kernels if wanted.flavour in ("", one.flavour)]
                found += fit
                if fit and not wanted.every:
                    break
        return sorted(found, key=lambda one: (one.version, one.rank))

    def _versions(self, progress: Progress) -> list[str]:
        """Return all versions of the source package, in order."""

        def ask() -> dict[str, Any]:
            progress(f"snapshot: asking {self.server} for the versions of {self.settings['source']}")
            answer = self._ask(f"mr/package/{self.settings['source']}/")
            versions = _ordered([str(one["version"]) for one in answer["result"]]) if answer else []
            if not versions:
                raise MirrorError(
                    f"{self.server} knows no source package {self.settings['source']}",
                    expected="Debian's snapshot service",
                    hint=f"check {SERVER_VARIABLE}",
                )
            return {"versions": versions}

        return [str(one) for one in self.list.get({"server": self.server}, ask, progress)["versions"]]

    def _kernels(self, version: KernelVersion, revision: str, progress: Progress) -> list[Choice]:
        """Return the kernels among the binary packages of one version."""
        suffixes = {suffix: flavour for flavour, suffix in self.architecture.flavours.items()}
        holds = kernel_cache.holder(self.name)
        found = {}
        for name, binary_version in self._binaries(revision, progress):
            release = debian_index.release_of(name, suffixes)
            if release is None:
                continue
            key = f"{release[0]}={binary_version}"
            found[key] = Choice(
                label="",
                version=version,
                provider=self.name,
                key=key,
                architecture=self.architecture.name,
                flavour=release[1],
                release=release[0],
                revision=binary_version,
                rank=self._versions(progress).index(revision),
                where="snapshot",
                cached=holds(key),
            )
        return list(found.values())

    def _binaries(self, revision: str, progress: Progress) -> list[tuple[str, str]]:
        """Return name and version of the binary packages of one version of the source."""
        memory = self.folder / "binaries" / f"{revision.replace('/', '_')}.json"
        known = cache.from_record(memory, dict) or {}
        if known.get("server") != self.server:
            progress(f"snapshot: asking for the packages of {self.settings['source']} {revision}")
            answer = self._ask(f"mr/package/{self.settings['source']}/{quote(revision, safe='')}/binpackages")
            packages = [(str(one["name"]), str(one["version"])) for one in answer["result"]] if answer else []
            known = {"server": self.server, "packages": packages}
            cache.write_record(memory, known)
        return [(name, version) for name, version in known["packages"]]

    # acquire

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one kernel; None when the service does not know it.

        Raises:
            MirrorError: The service does not answer, or something that it sends cannot be verified.
            KernelFileError: A package has no usable kernel.
            CacheError: The cache cannot be written.
        """
        memory = self.folder / "kernels" / f"{kernel_cache.entry_folder('', choice.key).name}.json"
        kernel = cache.from_record(memory, lambda known: known["kernel"] if known["server"] == self.server else None)
        if kernel is None:
            kernel = self._locate(choice.key, progress)
            if kernel is None:
                return None
            cache.write_record(memory, {"server": self.server, "kernel": kernel})
        with self._one_at_a_time():
            packages = debs.fetch_set(self.name, kernel, progress, meter=self.meter)
        return debs.store(self.name, choice, kernel, packages, progress) if packages is not None else None

    def _locate(self, key: str, progress: Progress) -> dict[str, Any] | None:
        """Find a kernel's packages in the signed index of a day."""
        release, _, revision = key.partition("=")
        # A rebuild without changes has a version of its own: 4.14.2-1+b1 is built from 4.14.2-1.
        names = dict(self._binaries(re.sub(r"\+b\d+$", "", revision), progress))
        name = next((one for one in debian_index.names_of(release) if one in names), None)
        if name is None:
            return None
        answer = self._ask(f"mr/binary/{name}/{quote(revision, safe='')}/binfiles?fileinfo=1")
        if answer is None:
            return None
        infos = [
            info
            for one in answer["result"]
            if one["architecture"] == self.architecture.name
            for info in answer["fileinfo"][one["hash"]]
        ]
        tried: list[str] = []
        for place in places(revision, infos, self.data):
            kernel = self._in_index(place, key, progress)
            if kernel is not None:
                return kernel
            tried.append(f"{place.archive} {place.stamp} {place.suite}")
        raise MirrorError(
            f"no signed index lists {name} {revision}",
            expected="the package in the index of the day on which its file arrived",
            hint=f"`harness kernels build {key.partition('=')[2].partition('-')[0]}` builds it from source",
            detail="\n".join(tried),
        )

    def _in_index(self, place: SignedIndex, key: str, progress: Progress) -> dict[str, Any] | None:
        """Return a kernel's packages from one signed index; None when there is no such index, or it lacks them."""
        base = f"{self.server}/archive/{place.archive}/{place.stamp}"
        where = f"{base}/dists/{place.suite}"
        signed = self._get(f"{where}/InRelease")
        if signed is None:
            return None
        release = self._verified(signed, f"{where}/InRelease", progress)

        def expired(until: str) -> None:
            progress(
                f"snapshot: the index of {place.suite} at {place.stamp} was valid until {until}; accepted, as the"
                " snapshot of a day is never renewed"
            )

        index = f"{self.data['component']}/binary-{self.architecture.name}/Packages"
        digest, size, name = debian_archive.named_index(release, index, place.suite, expired=expired)
        target = self.folder / f"{place.suite.replace('/', '_')}_{digest[:16]}{Path(name).suffix}"
        with self._one_at_a_time():
            if not fetch(f"{where}/{name}", target, size=size, sha256=digest, meter=self.meter):
                raise MirrorError(f"{where}/{name} is named by its Release file but not served (404)")
        suffixes = {suffix: flavour for flavour, suffix in self.architecture.flavours.items()}
        suite = f"{place.suite} {place.stamp}"
        try:
            text = unpacked(target.read_bytes(), target.suffix)
        except ValueError as error:
            raise MirrorError(f"{where}/{name} is damaged: {error}") from error
        # A large file, and only these few lines of it are needed again.
        target.unlink()
        packages = debian_index.scan(text, base=base, suite=suite)
        found = next((one for one in debian_index.kernels(packages, suffixes) if one.key == key), None)
        return debs.kernel_facts(found) if found is not None else None

    def _verified(self, signed: bytes, name: str, progress: Progress) -> str:
        from harness.kernel.files import signature

        named = os.environ.get(debian_archive.KEYRING_VARIABLE)
        keyring = Path(named or self.data["keyring"])
        removed = Path(os.environ.get(REMOVED_KEYS_VARIABLE) or self.settings["removed_keyring"])
        keyrings = [path for path in (keyring, removed) if path.is_file()]
        try:
            verified = signature.clear_signed(signed, keyrings, name)
        except MirrorError as error:
            if not removed.is_file():
                need = needs.need(self.settings["removed_keyring"])
                error.hint = (
                    f"keys of earlier years are in {removed}, which is missing: {need.install},"
                    f" or name a keyring with {REMOVED_KEYS_VARIABLE}"
                )
            raise
        if verified.note:
            progress(f"snapshot: {name}: {verified.note}")
        return verified.text.decode(errors="replace")

    # the service

    def _one_at_a_time(self) -> AbstractContextManager[None]:
        return cache.locked(self.folder / "lock")

    def _get(self, url: str) -> bytes | None:
        with self._one_at_a_time():
            try:
                return get(url)
            except MirrorError as error:
                error.hint = f"check the network, or name another snapshot server with {SERVER_VARIABLE}"
                raise

    def _ask(self, path: str) -> dict[str, Any] | None:
        """Return the service's answer; None when it does not know the thing.

        Raises:
            MirrorError: It does not answer, or not in its own language.
        """
        data = self._get(f"{self.server}/{path}")
        return parsed(data, f"{self.server}/{path}") if data is not None else None


def parsed(data: bytes, url: str) -> dict[str, Any]:
    """Return an answer of the service. Pure.

    Args:
        data: What it sent.
        url: What was asked, for messages.

    Raises:
        MirrorError: It is not an answer of the service.
    """
    trouble = ""
    answer: Any = None
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        trouble = f"it is not JSON: {error}"
    result = answer.get("result") if isinstance(answer, dict) else None
    if not trouble and not (isinstance(result, list) and all(isinstance(one, dict) for one in result)):
        trouble = "it has no list named result"
    if trouble:
        raise MirrorError(
            f"{url} does not answer as Debian's snapshot service does: {trouble}",
            expected="its machine-readable interface",
            hint=f"check {SERVER_VARIABLE}",
            detail=data[:200].decode(errors="replace"),
        )
    return dict(answer)


def _ordered(versions: Sequence[str]) -> list[str]:
    from debian.debian_support import Version

    return [str(one) for one in sorted({Version(text) for text in versions})]
