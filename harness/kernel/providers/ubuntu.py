"""The Ubuntu provider: mainline builds, through virtme-ng (`vng -r v6.6.17`) and from its cache.

Only https protects what virtme-ng downloads: it verifies no signature. So this provider comes last, and is used only
for a named series or release that no other provider has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from harness.errors import MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.types import ANYTHING, Choice, Kernel, Progress, Wanted
from harness.kernel.version import KernelVersion
from harness.util import cache

MIRROR_VARIABLE = "HARNESS_UBUNTU_MAINLINE"
TIMEOUT = 10.0
"""Seconds to wait for the list of builds."""

LIST_HOURS = 12.0
"""How long the list of builds is used without asking again."""

_LINK = re.compile(r'href=["\'](?:[^"\']*/)?(v\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)/?["\']')


def listed(page: str) -> list[KernelVersion]:
    """Return the versions that the page of builds links to, in order."""
    return sorted({KernelVersion.parse(name) for name in _LINK.findall(page)})


class UbuntuProvider:
    """Ubuntu's builds of mainline kernels, without patches."""

    name = "ubuntu"

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
                where="ubuntu mainline",
                cached=holds(f"v{version}"),
            )
            for version in self._versions(progress)
        ]

    def _versions(self, progress: Progress) -> list[KernelVersion]:
        """Return the versions on the server's list, kept for a while; without it, those on this machine."""
        memory = kernel_cache.folder() / "ubuntu.json"
        address = self._address()
        known = cache.from_record(memory, dict) or {}
        if known.get("address") == address and 0 <= time.time() - known["asked"] < LIST_HOURS * 3600:
            return [KernelVersion.parse(text) for text in known["versions"]]
        try:
            versions = listed(self._page(address, progress))
        except MirrorError as error:
            versions = self._here()
            if not versions:
                raise
            progress(f"{error.what}; using the {len(versions)} builds that virtme-ng has fetched")
            return versions
        if not cache.is_writable(memory):
            return versions
        with cache.locked(memory.with_suffix(".lock")):
            facts = {"address": address, "asked": time.time(), "versions": [str(version) for version in versions]}
            cache.write_record(memory, facts)
        return versions

    def _page(self, address: str, progress: Progress) -> str:
        import requests

        progress(f"ubuntu: fetching the list of builds from {address}")
        try:
            answer = requests.get(f"{address}/", timeout=TIMEOUT)
            answer.raise_for_status()
        except requests.RequestException as error:
            raise MirrorError(
                f"Ubuntu's mainline builds at {address} cannot be listed: {type(error).__name__}",
                expected="a server that answers",
                hint=f"check the network, or name a mirror with {MIRROR_VARIABLE}",
                detail=str(error),
            ) from error
        return answer.text

    def _here(self) -> list[KernelVersion]:
        """Return the versions in virtme-ng's cache."""
        from virtme_ng import mainline

        names = {path.parents[2].name for path in Path(mainline.CACHE_DIR).glob("v*/amd64/boot/vmlinuz*generic")}
        return sorted(KernelVersion.parse(name) for name in names)

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Fetch one build; None when the server no longer has it.

        Raises:
            MirrorError: The server cannot be reached, or has no kernel for x86-64 in that build.
            KernelFileError: The downloaded file is not a usable kernel.
            CacheError: The cache cannot be written.
        """
        with kernel_cache.new_entry(self.name, choice.key) as made:
            if made is not None:
                folder = self._download(choice.key, progress)
                image = next(iter(sorted((folder / "boot").glob("vmlinuz*generic"))))
                shutil.copyfile(image, made / "vmlinuz")
                release = image.name.removeprefix("vmlinuz-")
                config = folder / "boot" / f"config-{release}"
                if config.is_file():
                    shutil.copyfile(config, made / "config")
                for modules in (folder / "lib/modules" / release, folder / "usr/lib/modules" / release):
                    if modules.is_dir():
                        shutil.copytree(modules, made / "lib/modules" / release, symlinks=True)
                        break
                kernel_cache.seal(
                    made,
                    version=choice.version,
                    provider=self.name,
                    key=choice.key,
                    flavour=choice.flavour,
                    origin=f"ubuntu mainline {choice.key}",
                )
        return kernel_cache.load(choice, progress=progress)

    def _address(self) -> str:
        from virtme_ng import mainline

        return str(os.environ.get(MIRROR_VARIABLE, mainline.BASE_URL)).rstrip("/")

    def _download(self, name: str, progress: Progress) -> Path:
        import requests
        from virtme_ng import mainline

        mainline.BASE_URL = self._address()
        folder = Path(mainline.CACHE_DIR, name, "amd64")
        progress(f"ubuntu: fetching {name} from {mainline.BASE_URL} with virtme-ng")
        with cache.locked(kernel_cache.folder() / "locks" / f"virtme-ng-{name}.lock"):
            try:
                mainline.KernelDownloader(name, "amd64")
            except (requests.RequestException, OSError, subprocess.CalledProcessError) as error:
                raise MirrorError(
                    f"virtme-ng could not fetch Ubuntu's build {name}: {error}",
                    expected="its linux-image package for amd64",
                    hint=f"check the network, or name a mirror with {MIRROR_VARIABLE}",
                ) from error
            finally:
                # virtme-ng takes an existing package for complete, even when its download was interrupted.
                if not list(folder.glob("boot/vmlinuz*generic")):
                    shutil.rmtree(folder, ignore_errors=True)
        if not folder.is_dir():
            raise MirrorError(f"Ubuntu's build {name} has no kernel for amd64", expected="boot/vmlinuz-*-generic in it")
        return folder
