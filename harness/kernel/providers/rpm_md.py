"""Distributions with repositories in the rpm-md format: repomd.xml names primary, primary names the packages.

The signature of repomd.xml is checked where the repository has one. Each package's own signature is always required, so
that a repository without signed metadata cannot bring another kernel than the distribution made.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from harness.errors import MirrorError
from harness.kernel import cache as kernel_cache
from harness.kernel.files import rpm, signature
from harness.kernel.files.decompress import open_stream
from harness.kernel.files.download import get
from harness.kernel.providers import local
from harness.kernel.providers.distributions import Indexed, address
from harness.kernel.types import Choice, Kernel, Progress
from harness.util import cache

KEYS_VARIABLE = "HARNESS_KEYS"

LARGEST_LIST = 512 << 20
"""Bytes that a list of packages may have, compressed; Fedora's has about 30 MB."""

_DIGESTS = ("sha256", "sha384", "sha512")

_REPO = "{http://linux.duke.edu/metadata/repo}"
_COMMON = "{http://linux.duke.edu/metadata/common}"
_CANDIDATE = re.compile(r"0\.rc(\d+)")


class RpmDistribution(Indexed):
    """Kernels of a distribution with rpm-md repositories."""

    def fetch_index(self, base: str, progress: Progress) -> list[dict[str, Any]]:
        """Fetch the index of each repository, and verify what is signed of it."""
        found: dict[str, dict[str, Any]] = {}
        for folder in self.record["repositories"]:
            where = f"{base}/{folder}".rstrip("/")
            for one in kernels_in(self._primary(where, progress), where, self.record):
                found.setdefault(str(one["key"]), one)
        return list(found.values())

    def _primary(self, where: str, progress: Progress) -> bytes:
        repomd = get(f"{where}/repodata/repomd.xml")
        if repomd is None:
            raise MirrorError(
                f"{where} has no repodata/repomd.xml",
                expected="a repository in the rpm-md format",
                hint=f"name another mirror with {self.setting}",
            )
        signed = get(f"{where}/repodata/repomd.xml.asc")
        if signed is not None:
            name = f"{where}/repodata/repomd.xml"
            self._verified(name, partial(signature.detached, repomd, signed, name=name), progress)
        else:
            progress(f"{self.name}: the index of {where} is unsigned; its packages are signed one by one")
        name, algorithm, digest = primary_of(repomd, where)
        data = get(f"{where}/{name}", limit=LARGEST_LIST)
        if data is None:
            raise MirrorError(f"{where}/{name} is named by repomd.xml but not served (404)")
        if hashlib.new(algorithm, data).hexdigest() != digest:
            raise MirrorError(
                f"{where}/{name} is not the file that repomd.xml names",
                expected=f"{algorithm} {digest}",
                hint="the mirror may be in the middle of an update: try again later",
            )
        return data

    def _keys(self, progress: Progress) -> Path:
        """Return the file with the distribution's keys, fetched once."""
        name = str(self.record["key"])
        folder = os.environ.get(KEYS_VARIABLE)
        if folder and (own := Path(folder, name.rpartition("/")[2])).is_file():
            return own
        target = self.folder / f"keys-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}"
        if not target.is_file():
            url = name if "://" in name else f"{address(self.record)}/{name}"
            progress(f"{self.name}: fetching its keys from {url}")
            keys = get(url)
            if keys is None or not signature.has_keys(keys):
                why = "is not served (404)" if keys is None else "has no keys in it"
                raise MirrorError(
                    f"{url} {why}, so nothing of {self.record['title']} can be verified",
                    expected="the keys of the distribution",
                    hint=f"put {name.rpartition('/')[2]} into a folder and name that with {KEYS_VARIABLE}",
                )
            with cache.new_file(target) as made:
                made.write_bytes(keys)
        return target

    def _verified(
        self, name: str, verify: Callable[[Sequence[Path]], signature.Signed], progress: Progress
    ) -> signature.Signed:
        """Verify a file by the distribution's keys, and that the record names the key."""
        keys = self._keys(progress)
        try:
            verified = verify([keys])
            if verified.key not in self.record["fingerprints"]:
                raise MirrorError(
                    f"{name} is signed by key {verified.key}",
                    expected="the key " + " or ".join(self.record["fingerprints"]),
                    hint="the mirror is not to be trusted, or the distribution has a new key: then report that",
                )
        except MirrorError:
            if keys.parent == self.folder:
                keys.unlink(missing_ok=True)  # what is wrong may be the keys that were fetched
            raise
        return verified

    def store(
        self, choice: Choice, kernel: Mapping[str, Any], downloads: list[Path], progress: Progress
    ) -> Kernel | None:
        """Verify the packages of a kernel by their own signatures, and unpack them into the cache."""
        origin = f"{self.record['title']} {kernel['key']}"
        for path in downloads:
            try:
                verified = self._verified(path.name, partial(rpm.verify, rpm.read(path)), progress)
            except MirrorError:
                path.unlink()
                raise
            if verified.note:
                progress(f"{self.name}: {path.name}: {verified.note}")
        with kernel_cache.new_entry(self.name, choice.key) as made:
            if made is not None:
                local.fill_from(downloads, made, origin)
                digests = {path.name: cache.digest_file(path) for path in downloads}
                kernel_cache.seal(made, choice, origin=origin, packages=digests)
        for path in downloads:
            path.unlink(missing_ok=True)
        return kernel_cache.load(choice, progress=progress)


def primary_of(repomd: bytes, where: str) -> tuple[str, str, str]:
    """Return the place, and algorithm and digest, of the list of packages that a repomd.xml names. Pure.

    Args:
        repomd: The file.
        where: The repository's address, for messages.

    Raises:
        MirrorError: It is not such a file, or names no list with a digest that is good.
    """
    try:
        # expat itself limits what entities expand to.
        data = ET.fromstring(repomd).find(f"{_REPO}data[@type='primary']")  # noqa: S314
    except ET.ParseError as error:
        raise MirrorError(
            f"{where}/repodata/repomd.xml is not XML: {error}",
            expected="a repository in the rpm-md format",
            detail=repomd[:200].decode(errors="replace"),
        ) from error
    location = data.find(f"{_REPO}location") if data is not None else None
    checksum = data.find(f"{_REPO}checksum") if data is not None else None
    algorithm = checksum.attrib.get("type", "") if checksum is not None else ""
    href = location.get("href") if location is not None else None
    if href is None or checksum is None or not checksum.text or algorithm not in _DIGESTS:
        raise MirrorError(
            f"{where}/repodata/repomd.xml names no list of packages with a {' or '.join(_DIGESTS)}",
            expected="data of type primary",
        )
    return href, algorithm, checksum.text.strip()


def kernels_in(primary: bytes, where: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the kernels in a list of packages. Pure.

    Args:
        primary: The list, compressed or not.
        where: The repository's address.
        record: The distribution's record.

    Raises:
        MirrorError: It is damaged.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    wanted = {str(record["image"]), *record["modules"]}
    try:
        for _, element in ET.iterparse(open_stream(io.BytesIO(primary))):  # noqa: S314 - as above
            if element.tag != f"{_COMMON}package":
                continue
            name = element.findtext(f"{_COMMON}name", "")
            if name in wanted and element.findtext(f"{_COMMON}arch") == "x86_64":
                package = _package(element, where)
                found[name, package["version"]] = package
            element.clear()
    except (ET.ParseError, KeyError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise MirrorError(f"the list of packages of {where} is damaged: {error}") from error
    kernels = []
    for (name, revision), package in found.items():
        version, _, release = revision.partition("-")
        if name != record["image"] or not re.match(r"\d+\.\d+", version):
            continue
        candidate = _CANDIDATE.match(release)
        one_set = [package, *(found[other, revision] for other in record["modules"] if (other, revision) in found)]
        kernels.append(
            {
                "key": f"{name}={revision}",
                "version": "-rc".join([version, candidate[1]]) if candidate else version,
                # What `uname -r` prints is not in the list; it is this where the distribution follows Red Hat.
                "release": f"{revision}.x86_64",
                "revision": revision,
                "flavour": "generic",
                "suites": [str(record["name"])],
                "size": sum(one["size"] for one in one_set),
                "sets": [one_set],
            }
        )
    return kernels


def _package(element: ET.Element, where: str) -> dict[str, Any]:
    version, checksum = element.find(f"{_COMMON}version"), element.find(f"{_COMMON}checksum")
    location, size = element.find(f"{_COMMON}location"), element.find(f"{_COMMON}size")
    if version is None or checksum is None or location is None or size is None or not checksum.text:
        raise KeyError("a package lacks its version, checksum, location or size")
    return {
        "name": element.findtext(f"{_COMMON}name", ""),
        "version": f"{version.attrib['ver']}-{version.attrib['rel']}",
        "url": f"{where}/{location.attrib['href']}",
        "size": int(size.attrib["package"]),
        # With another digest in the list, the package's own signature is what verifies it, as always.
        "sha256": checksum.text.strip() if checksum.attrib.get("type") == "sha256" else "",
    }
