"""Distributions by name: the records of `kernels/distributions.toml`, and the provider for each.

Reading the records costs nothing but one small file; a distribution is asked only when a selector names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import MirrorError, SelectorError, UsageError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.download import Meter, get
from harness.kernel.providers import debian_archive, debian_index, debs
from harness.kernel.providers.kept import KeptList
from harness.kernel.selection import package_order
from harness.kernel.types import ANYTHING, OTHERS, Choice, Kernel, Progress, Provider, Wanted
from harness.kernel.version import KernelVersion
from harness.util.data import read_toml, read_user_toml

RECORDS_VARIABLE = "HARNESS_DISTRIBUTIONS"
UBUNTU_KEYRING_VARIABLE = "HARNESS_UBUNTU_KEYRING"
INDEX_HOURS = 12.0
"""Hours for which what a distribution has is used without asking again."""

_FIELDS = {
    "rpm": ("repositories", "key", "fingerprints", "image", "modules"),
    "apt": ("suites", "component", "keyring"),
}


def records() -> dict[str, Mapping[str, Any]]:
    """Return every distribution's record, by name; those of the user's file replace those of the same name.

    Raises:
        UsageError: The user's file cannot be read, or a record in it is incomplete.
    """
    found = {str(one["name"]): one for one in read_toml("kernels", "distributions.toml")["distribution"]}
    named = os.environ.get(RECORDS_VARIABLE)
    if named:
        for one in read_user_toml(Path(named)).get("distribution", []):
            lacks = [field for field in ("name", "kind", *_FIELDS.get(one.get("kind"), ())) if field not in one]
            lacks += ["mirror or mirror_list"] if not ("mirror" in one or "mirror_list" in one) else []
            if lacks or one["kind"] not in _FIELDS or not re.fullmatch(r"[a-z]{2}[a-z-]*\d+(\.\d+)?", one["name"]):
                raise UsageError(
                    f"{named} has a distribution that cannot be used: {one.get('name', 'without a name')}"
                    + (f" lacks {', '.join(lacks)}" if lacks else ""),
                    expected="records as in kernels/distributions.toml, of kind rpm or apt, with a name such as alma9",
                )
            found[one["name"]] = {"title": one["name"], "tried": "", **one}
    return found


def address(record: Mapping[str, Any]) -> str:
    """Return the address of a distribution's server, without a trailing slash.

    Raises:
        MirrorError: The list of its mirrors cannot be fetched.
    """
    named = os.environ.get(str(record.get("variable", "")), "")
    if named or "mirror" in record:
        return (named or str(record["mirror"])).rstrip("/")
    listed = get(str(record["mirror_list"]))
    if not listed or not listed.split():
        raise MirrorError(
            f"{record['mirror_list']} names no mirror",
            expected="an address in its first line",
            hint=f"name a mirror with {record['variable']}",
        )
    return listed.split()[0].decode(errors="replace").rstrip("/")


def provider(name: str, *, debian: Provider, snapshot: Provider, meter: Meter, refresh: bool = False) -> Provider:
    """Return the provider of a distribution.

    Args:
        name: As selectors call it.
        debian: The provider of Debian's archive, for its releases.
        snapshot: The provider of Debian's snapshot archive, for releases that have left the archive.
        meter: Called with the progress of each download.
        refresh: Ask the server even when the index is recent.

    Raises:
        SelectorError: There is no such distribution.
    """
    known = records()
    record = known.get(name)
    if record is None:
        raise SelectorError(
            f"there is no distribution {name!r}",
            expected="one of " + ", ".join(known),
            hint=f"{RECORDS_VARIABLE}=FILE adds others",
        )
    if record["kind"] == "debian":
        return DebianRelease(name, str(record["codename"]), debian, snapshot)
    if record["kind"] == "apt":
        return AptDistribution(record, meter=meter, refresh=refresh)
    from harness.kernel.providers.rpm_md import RpmDistribution

    return RpmDistribution(record, meter=meter, refresh=refresh)


class DebianRelease:
    """A release of Debian: a part of what its archive has, or of what the archive had.

    Args:
        name: As selectors call it.
        codename: Debian's own name for it.
        debian: The provider of the archive.
        snapshot: The provider of the snapshot archive.
    """

    def __init__(self, name: str, codename: str, debian: Provider, snapshot: Provider) -> None:
        self.name = name
        self.setting = debian.setting
        self._codename = codename
        self._debian = debian
        self._snapshot = snapshot

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:
        """Return its kernels; of a release that has left the archive, those of its series.

        Raises:
            MirrorError: The archive cannot be asked.
        """
        data = debian_archive.settings()
        if any(suite.startswith(self._codename) for suite in data["archive"]):
            own = re.compile(rf"{self._codename}(-updates|-security)?")
            offers = self._debian.offers(progress=progress, wanted=wanted)
            return [one for one in offers if any(own.fullmatch(suite) for suite in one.where.split())]
        series = next(one["series"] for one in data["release"] if one["name"] == self._codename)
        own_series = KernelVersion.parse(series).series
        narrowed = replace(wanted, version=lambda version: version.series == own_series and wanted.version(version))
        return self._snapshot.offers(progress=progress, wanted=narrowed)

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:  # noqa: ARG002 - protocol
        """Its offers are another provider's, which brings them."""
        raise AssertionError(f"{choice.key} belongs to {choice.provider}")


class Indexed:
    """What distributions with an index share: it is kept for some hours, and each kernel in it is an offer.

    Args:
        record: The distribution's record.
        meter: Called with the progress of each download.
        refresh: Ask the server even when the index is recent.
    """

    def __init__(self, record: Mapping[str, Any], *, meter: Meter, refresh: bool = False) -> None:
        self.name = str(record["name"])
        self.setting = str(record.get("variable") or f"its record in {RECORDS_VARIABLE}")
        self.record = record
        self.meter = meter
        self.folder = kernel_cache.folder() / "distributions" / self.name
        self.index = KeptList(
            self.folder / "index.json", name=self.name, what="package index", hours=INDEX_HOURS, refresh=refresh
        )

    def fetch_index(self, base: str, progress: Progress) -> list[dict[str, Any]]:
        """Return the kernels that the server at `base` has, as :func:`debs.kernel_facts` writes them."""
        raise NotImplementedError

    def kernels(self, progress: Progress) -> list[dict[str, Any]]:
        """Return the distribution's kernels in order of version, from the kept index when it is recent.

        Raises:
            MirrorError: There is no index, and none can be fetched.
        """

        def ask() -> dict[str, Any]:
            base = address(self.record)
            progress(f"{self.name}: fetching the package index from {base}")
            found = self.fetch_index(base, progress)
            return {"kernels": sorted(found, key=lambda one: package_order(str(one["revision"])))}

        named = os.environ.get(str(self.record.get("variable", "")), "")
        record = {field: value for field, value in self.record.items() if field != "tried"}
        return list(self.index.get({"named": named, "record": record}, ask, progress)["kernels"])

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:  # noqa: ARG002 - protocol
        """Return every kernel of the distribution, in order of version.

        Raises:
            MirrorError: There is no index, and none can be fetched.
        """
        return debs.choices(self.name, self.kernels(progress), architecture=OTHERS, where=self.name)

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one kernel; None when the server no longer has it.

        Raises:
            MirrorError: The server does not answer, or something that it sends cannot be verified.
            KernelFileError: A package has no usable kernel.
            CacheError: The cache cannot be written.
        """
        kernel = next((one for one in self.kernels(progress) if one["key"] == choice.key), None)
        if kernel is None:
            return None
        packages = debs.fetch_set(self.name, kernel, progress, meter=self.meter)
        return self.store(choice, kernel, packages, progress) if packages is not None else None

    def store(
        self, choice: Choice, kernel: Mapping[str, Any], packages: list[Path], progress: Progress
    ) -> Kernel | None:
        """Verify and unpack the packages of a kernel into the cache."""
        raise NotImplementedError


class AptDistribution(Indexed):
    """Kernels of a distribution with an apt archive, such as Ubuntu."""

    def fetch_index(self, base: str, progress: Progress) -> list[dict[str, Any]]:
        """Fetch and verify the index of each suite."""
        keyring = Path(os.environ.get(UBUNTU_KEYRING_VARIABLE) or self.record["keyring"])
        if not keyring.is_file():
            raise MirrorError(
                f"the keyring {keyring} is missing, so nothing of {base} can be verified",
                expected=f"the keys of {self.record['title']}'s archive",
                hint=f"copy it from such a machine, and name it with {UBUNTU_KEYRING_VARIABLE}",
            )
        archive = debian_archive.PlainArchive(self.folder, component=str(self.record["component"]), architecture=OTHERS)
        mirror = debian_archive.Mirror(base, str(keyring), tuple(self.record["suites"]))
        refreshed = archive.refresh([mirror])
        for trouble in refreshed.lines():
            progress(f"{self.name}: {trouble}")
        if not refreshed.files:
            raise MirrorError(f"no package index could be fetched from {base}", detail="\n".join(refreshed.lines()))
        packages = []
        for file in refreshed.files:
            packages += debian_index.scan(debian_archive.read_index(file.path), base=file.uri, suite=file.suite)
            file.path.unlink()
        return [debs.kernel_facts(kernel) for kernel in debian_index.kernels(packages, {"generic": "generic"})]

    def store(
        self, choice: Choice, kernel: Mapping[str, Any], packages: list[Path], progress: Progress
    ) -> Kernel | None:
        """Unpack the packages of a kernel, which the signed index has verified."""
        return debs.store(self.name, choice, kernel, packages, progress)
