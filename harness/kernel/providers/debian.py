"""The Debian provider: released kernels from the mirror that this machine's apt uses.

The signed indexes of all suites in `kernels/debian.toml` are condensed into one small JSON file, so that a warm run
reads no package list. After `index_hours` the mirror is asked again; when it does not answer, the old file is used
further, with a message.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.download import Meter, no_meter
from harness.kernel.providers import debian_archive, debs
from harness.kernel.providers.kept import KeptList
from harness.kernel.types import ANYTHING, Choice, Kernel, Progress, Wanted
from harness.util import architecture, cache

INDEX_FORMAT = 2

_VARIABLES = (debian_archive.MIRROR_VARIABLE, debian_archive.SECURITY_VARIABLE, debian_archive.KEYRING_VARIABLE)


class DebianProvider:
    """Kernels from Debian packages.

    Args:
        name: Name of the kernels' architecture; "" for this machine's own.
        meter: Called with the progress of each download.
        refresh: Ask the mirror even when the index is recent.
    """

    name = "debian"
    setting = debian_archive.MIRROR_VARIABLE

    def __init__(self, name: str = "", *, meter: Meter = no_meter, refresh: bool = False) -> None:
        self.architecture = architecture.or_own(name)
        self.meter = meter
        self.folder = kernel_cache.folder() / ("debian" if self.architecture.is_own else f"debian-{name}")
        self.settings = debian_archive.settings()
        self.kept = KeptList(
            self.folder / "index.json",
            name=self.name,
            what="package index",
            hours=self.settings["index_hours"],
            refresh=refresh,
            retry_minutes=self.settings["retry_minutes"],
        )

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:  # noqa: ARG002 - protocol
        """Return every packaged kernel, in order of version.

        Raises:
            MirrorError: There is no index, and none can be fetched.
        """
        kernels = self.index(progress=progress)["kernels"]
        return debs.choices(self.name, kernels, architecture=self.architecture.name)

    def index(self, *, progress: Progress) -> dict[str, Any]:
        """Return the index, asking the mirror first when it is due.

        Raises:
            MirrorError: There is no index, and none can be fetched.
        """
        origin = {
            "format": INDEX_FORMAT,
            "architecture": self.architecture.name,
            # What it depends on besides the machine's apt sources.
            "settings": [os.environ.get(variable, "") for variable in _VARIABLES],
        }
        return self.kept.get(origin, lambda: self._fetch_index(progress), progress)

    def _fetch_index(self, progress: Progress) -> dict[str, Any]:
        from harness.kernel.providers import apt_sources, debian_index

        found = debian_archive.mirrors(self.settings, apt_sources.read_machine())
        what = "package indexes" if self.architecture.is_own else f"package indexes of {self.architecture.name}"
        progress(f"debian: fetching {what} from " + ", ".join(mirror.uri for mirror in found))
        archive = debian_archive.best_archive(
            self.folder, component=self.settings["component"], architecture=self.architecture.name
        )
        refreshed = archive.refresh(found)
        if not any(file.uri == found[0].uri for file in refreshed.files):
            raise MirrorError(
                f"no package index could be fetched from {found[0].uri}",
                expected="a Debian mirror that answers and has a valid signature",
                hint=f"check the network and the address, or name another mirror with {debian_archive.MIRROR_VARIABLE}",
                detail="\n".join(refreshed.lines()[:12]),
            )
        for trouble in refreshed.lines():
            progress(f"debian: {trouble}")
        packages = []
        # Guests of this machine's own architecture run its own programs.
        wanted = () if self.architecture.is_own else self.settings["userland"]
        userlands: dict[str, list[debian_index.Package]] = {one["python"]: [] for one in wanted}
        for file in refreshed.files:
            text = debian_archive.read_index(file.path)
            packages += debian_index.scan(text, base=file.uri, suite=file.suite)
            for one in wanted:
                if file.suite in (one["suite"], f"{one['suite']}-updates", f"{one['suite']}-security"):
                    userlands[one["python"]] += debian_index.scan_for(
                        one["packages"], text, base=file.uri, suite=file.suite
                    )
        suffixes = {suffix: flavour for flavour, suffix in self.architecture.flavours.items()}
        return {
            "mirrors": [mirror.uri for mirror in found],
            "troubles": refreshed.troubles,
            "proxy": refreshed.proxy,
            "suites": [file.suite for file in refreshed.files],
            "kernels": [debs.kernel_facts(kernel) for kernel in debian_index.kernels(packages, suffixes)],
            "userlands": {
                python: {
                    name: [dataclasses.asdict(package) for package in versions]
                    for name, versions in debian_index.newest_first(found).items()
                }
                for python, found in userlands.items()
            },
            "sources": [dataclasses.asdict(package) for package in debian_index.sources(packages)],
        }

    def userland(
        self, python: str, names: Sequence[str], *, progress: Progress
    ) -> tuple[dict[str, list[dict[str, Any]]], str]:
        """Return the packages of a guest's programs by name, newest first, and the proxy to fetch them through.

        Args:
            python: The version of Python, as in `kernels/debian.toml`.
            names: The packages' names, as there.
            progress: Called with a line of text when something takes time.

        Raises:
            MirrorError: There is no index, and none can be fetched.
        """
        index = self.index(progress=progress)
        found: dict[str, list[dict[str, Any]]] = index.get("userlands", {}).get(python, {})
        if not found.keys() >= set(names):  # an older version of the harness made it
            self.kept.must_refresh = True
            index = self.index(progress=progress)
            found = index.get("userlands", {}).get(python, {})
        return found, str(index["proxy"])

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one kernel; None when the mirror no longer has its packages.

        Raises:
            MirrorError: The mirror does not answer, or sends other files than its index names.
            KernelFileError: A package has no usable kernel.
            CacheError: The cache cannot be written.
        """
        index = self.index(progress=progress)
        kernel = next((one for one in index["kernels"] if one["key"] == choice.key), None)
        if kernel is None:
            return None
        packages = self._fetch(kernel, str(index["proxy"]), progress)
        return debs.store(self.name, choice, kernel, packages, progress) if packages is not None else None

    def changelog(self, choice: Choice, *, progress: Progress) -> str | None:
        """Return the changelog in a kernel's packages; None when they have none, or are no longer served.

        From late 6.19 on, it is in a separate package, which the mirror does not keep for all kernels.

        Raises:
            MirrorError: The mirror does not answer, or sends other files than its index names.
            KernelFileError: A package is damaged.
            CacheError: The cache cannot be written.
        """
        kept = kernel_cache.entry_folder(self.name, choice.key) / debs.CHANGELOG
        # For kernels that were unpacked before the harness kept changelogs.
        beside = self.folder / "changelogs" / kernel_cache.entry_folder(self.name, choice.key).name
        if not kept.exists() and not beside.exists():
            index = self.index(progress=progress)
            kernel = next((one for one in index["kernels"] if one["key"] == choice.key), None)
            sets = [found for one in (kernel or {"sets": ()})["sets"] if (found := _with_changelog(one))]
            packages = self._fetch({**kernel, "sets": sets}, str(index["proxy"]), progress) if kernel else None
            if not packages:
                return None
            with cache.new_folder(beside) as made:
                for path in packages:
                    debs.unpack(path, None, made)
                    path.unlink()
        for folder in (kept.parent, beside):
            if (folder / debs.CHANGELOG).exists():
                return gzip.decompress((folder / debs.CHANGELOG).read_bytes()).decode(errors="replace")
        return None

    def _fetch(self, kernel: Mapping[str, Any], proxy: str, progress: Progress) -> list[Path] | None:
        return debs.fetch_set(self.name, kernel, progress, proxy=proxy, meter=self.meter)


def _with_changelog(packages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the packages of a kernel that may have its changelog."""
    return [package for package in packages if re.match(r"linux-(image|base)-", str(package["name"]))]
