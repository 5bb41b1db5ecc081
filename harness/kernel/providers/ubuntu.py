"""The Ubuntu provider: Ubuntu's builds of mainline kernels, without patches.

A build's CHECKSUMS has the digest of each package. Its signature is verified when the key is on this machine; else only
https protects the packages, and a message says so. The packages with the image and with the modules are fetched: the
newest builds have everything but the core as modules.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from harness.errors import MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.files.download import Meter, fetch, get, no_meter
from harness.kernel.providers import local
from harness.kernel.providers.kept import KeptList
from harness.kernel.types import ANYTHING, OTHERS, Choice, Kernel, Progress, Wanted
from harness.kernel.version import KernelVersion
from harness.util import cache
from harness.util.data import read_toml

MIRROR_VARIABLE = "HARNESS_UBUNTU_MAINLINE"
KEYRING_VARIABLE = "HARNESS_UBUNTU_MAINLINE_KEYRING"

_LINK = re.compile(r'href=["\'](?:[^"\']*/)?(v\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)/?["\']')
_FILE_LINK = re.compile(r'href=["\'](?:[^"\']*/)?([^"\'/]+\.deb)["\']')
_CHECKSUM = re.compile(r"^([0-9a-f]{64}) [ *](?:\./|amd64/)?([^/\s]+\.deb)$", re.MULTILINE)
_WANTED = re.compile(r"linux-(?:image(?:-unsigned)?|modules)-\d[^_]*-generic_[^_]*_amd64\.deb")


def listed(page: str) -> list[KernelVersion]:
    """Return the versions that the page of builds links to, in order."""
    return sorted({KernelVersion.parse(name) for name in _LINK.findall(page)})


def parse_checksums(text: str) -> dict[str, str]:
    """Return the sha256 of each package in a CHECKSUMS file, by name; its other digests are not used."""
    return {name: digest for digest, name in _CHECKSUM.findall(text)}


class UbuntuProvider:
    """Ubuntu's builds of mainline kernels.

    Args:
        meter: Called with the progress of each download.
    """

    name = "ubuntu"
    setting = MIRROR_VARIABLE

    def __init__(self, *, meter: Meter = no_meter) -> None:
        self.meter = meter
        self.settings: dict[str, Any] = read_toml("kernels", "ubuntu.toml")
        self.server = os.environ.get(MIRROR_VARIABLE, str(self.settings["server"])).rstrip("/")

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:  # noqa: ARG002 - protocol
        """Return every build, in order of version.

        Raises:
            MirrorError: The list of builds cannot be fetched.
        """
        holds = kernel_cache.holder(self.name)
        return [
            Choice(
                "",
                version,
                self.name,
                f"v{version}",
                "generic",
                architecture=OTHERS,
                where="ubuntu mainline",
                cached=holds(f"v{version}"),
            )
            for version in self._versions(progress)
        ]

    def _versions(self, progress: Progress) -> list[KernelVersion]:
        """Return the versions on the server's list."""

        def ask() -> dict[str, Any]:
            progress(f"ubuntu: fetching the list of builds from {self.server}")
            versions = [str(version) for version in listed(self._page(f"{self.server}/"))]
            if not versions:
                raise MirrorError(
                    f"the page {self.server}/ links to no build",
                    expected="Ubuntu's list of mainline builds",
                    hint=f"check {MIRROR_VARIABLE}",
                )
            return {"versions": versions}

        file = kernel_cache.folder() / "ubuntu.json"
        kept = KeptList(file, name=self.name, what="list", hours=self.settings["list_hours"])
        known = kept.get({"address": self.server}, ask, progress)
        return [KernelVersion.parse(text) for text in known["versions"]]

    def _page(self, url: str) -> str:
        try:
            page = get(url)
        except MirrorError as error:
            raise MirrorError(
                f"Ubuntu's mainline builds at {self.server} cannot be listed: {error.what}",
                expected="a server that answers",
                hint=f"check the network, or name a mirror with {MIRROR_VARIABLE}",
                detail=error.detail,
            ) from error
        if page is None:
            raise MirrorError(
                f"Ubuntu's mainline builds at {self.server} cannot be listed: {url} is not served (404)",
                expected="a page with links",
                hint=f"name a mirror with {MIRROR_VARIABLE}",
            )
        return page.decode(errors="replace")

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one build; None when the server no longer has it.

        Raises:
            MirrorError: The server cannot be reached, has no kernel for x86-64 in that build, or sends packages that
                differ from its list.
            KernelFileError: The packages have no usable kernel.
            CacheError: The cache cannot be written.
        """
        with kernel_cache.new_entry(self.name, choice.key) as made:
            if made is not None:
                found = self._packages(choice.key, progress)
                if found is None:
                    raise MirrorError(
                        f"Ubuntu's build {choice.key} at {self.server} has no kernel for amd64",
                        expected="a linux-image-*-generic package in it",
                        hint="some builds failed; name another release",
                    )
                base, digests, signed = found
                paths = self._fetch(choice.key, base, digests, progress)
                local.fill_from(paths, made, f"Ubuntu's build {choice.key}")
                kernel_cache.seal(
                    made,
                    choice,
                    origin=f"ubuntu mainline {choice.key} ({signed})",
                    packages={path.name: cache.digest_file(path) for path in paths},
                )
                for path in paths:
                    path.unlink()
        return kernel_cache.load(choice, progress=progress)

    def _packages(self, name: str, progress: Progress) -> tuple[str, dict[str, str], str] | None:
        """Return a build's address, the sha256 of each wanted package ("" when unknown), and "signed" or "unsigned"."""
        for base in (f"{self.server}/{name}/amd64", f"{self.server}/{name}"):
            checksums = get(f"{base}/CHECKSUMS")
            if checksums is not None:
                signed = self._signed(base, checksums, progress)
                known = parse_checksums(checksums.decode(errors="replace"))
            else:
                page = get(f"{base}/")
                known = dict.fromkeys(_FILE_LINK.findall(page.decode(errors="replace")), "") if page else {}
                signed = "unsigned"
            wanted = {file: digest for file, digest in known.items() if _WANTED.fullmatch(file)}
            if any("-image-" in file for file in wanted):
                if checksums is None:
                    progress(f"ubuntu: {base} has no CHECKSUMS; only https protects its packages")
                return base, wanted, signed
        return None

    def _signed(self, base: str, checksums: bytes, progress: Progress) -> str:
        """Verify the signature of a CHECKSUMS file; return "signed" or "unsigned"."""
        from harness.kernel.files import signature

        named = os.environ.get(KEYRING_VARIABLE)
        made = get(f"{base}/CHECKSUMS.gpg")
        if not named or made is None:
            why = "has no CHECKSUMS.gpg" if made is None else f"is not verified without the key ({KEYRING_VARIABLE})"
            progress(f"ubuntu: unsigned: {base} {why}; only https protects its packages")
            return "unsigned"
        if not Path(named).is_file():
            raise MirrorError(f"the keyring {named} is missing", hint=f"check {KEYRING_VARIABLE}")
        verified = signature.detached(checksums, made, [Path(named)], f"{base}/CHECKSUMS")
        if verified.key != self.settings["fingerprint"]:
            progress(f"ubuntu: {base}/CHECKSUMS is signed by key {verified.key}, which {KEYRING_VARIABLE} names")
        return "signed"

    def _fetch(self, name: str, base: str, digests: dict[str, str], progress: Progress) -> list[Path]:
        progress(f"ubuntu: fetching {name} from {base}: {', '.join(digests)}")
        paths = []
        for file, digest in sorted(digests.items()):
            path = kernel_cache.folder() / "downloads" / file
            if not digest:
                path.unlink(missing_ok=True)  # nothing says whether it is the same as then
            if not fetch(f"{base}/{file}", path, sha256=digest, meter=self.meter):
                raise MirrorError(f"{base}/{file} is listed but not served (404)", hint="try again later")
            paths.append(path)
        return paths
