"""Debian's snapshot archive: its JSON interface, and its archives by timestamp.

The interface is that of the service's own file "API": `/mr/package/...`, `/mr/binary/...`, `/mr/file/...`,
`/mr/timestamp/`, `/file/HASH`, `/archive/NAME/TIMESTAMP/...`. A timestamp between two runs redirects to the run before.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from urllib.parse import parse_qs

from tests.servers.http import Answer
from tests.unit.kernel.kernel_fakes import Signer

STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Package:
    """One binary package, as it was put into an archive.

    Attributes:
        name: Binary package.
        version: Its version.
        source: Source package and version.
        content: The .deb.
        archive: "debian", "debian-security", ...
        suite: The suite whose index lists it.
        first_seen: When the file was first in the archive.
        indexed: When the index first listed it; a file can be there before.
        architecture: As in the package.
    """

    name: str
    version: str
    source: tuple[str, str]
    content: bytes
    archive: str
    suite: str
    first_seen: str
    indexed: str
    architecture: str

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version.split(':', 1)[-1]}_{self.architecture}.deb"

    @property
    def path(self) -> str:
        return f"/pool/main/l/{self.source[0]}"


@dataclass
class Snapshot:
    """The service, as one site with everything below it.

    Attributes:
        signer: Whose key signs the indexes.
        packages: Everything that was ever uploaded.
        runs: Timestamps of each archive.
        valid_days: How long an index says that it is valid.
        newest_first: The order of its lists.
        sign: Signs an index; another function makes a bad one.
    """

    signer: Signer
    packages: list[Package] = field(default_factory=list)
    runs: dict[str, set[str]] = field(default_factory=dict)
    valid_days: int = 7
    newest_first: bool = True
    sign: Callable[[str], bytes] | None = None

    def add(
        self,
        name: str,
        version: str,
        content: bytes,
        *,
        seen: str = "20240301T031500Z",
        suite: str = "sid",
        archive: str = "debian",
        indexed: str = "",
        source: str = "linux",
        architecture: str = "amd64",
    ) -> Package:
        """Upload a package.

        Args:
            name: Binary package.
            version: Its version, and its source's.
            content: The .deb.
            seen: When its file was first in the archive.
            suite: The suite that lists it from then on.
            archive: The archive.
            indexed: When the index first listed it; default: at once.
            source: Source package.
            architecture: As in the package.
        """
        package = Package(
            name, version, (source, version), content, archive, suite, seen, indexed or seen, architecture
        )
        self.packages.append(package)
        self.runs.setdefault(archive, set()).update({seen, package.indexed})
        return package

    def answer(self, path: str, query: str) -> Answer | None:
        """Answer as the service does."""
        kind, _, rest = path.partition("/")
        if kind == "mr":
            # Without the slash at the end of a list, the service redirects.
            if re.fullmatch(r"(package|binary)/[^/]+", rest) or rest == "timestamp":
                return Answer(status=308, location=f"/{path}/")
            found = self._mr(rest.strip("/").split("/"), query)
            if found is None:
                return None
            return Answer(json.dumps({"_comment": "a test server", **found}).encode(), "application/json")
        if kind == "file":
            return next((Answer(one.content) for one in self.packages if one.sha1 == rest), None)
        if kind == "archive":
            return self._archive(*rest.split("/", 2))
        return None

    def _order(self, versions: list[str]) -> list[str]:
        from debian.debian_support import Version

        return sorted(set(versions), key=Version, reverse=self.newest_first)

    def _mr(self, words: list[str], query: str) -> dict[str, object] | None:
        fileinfo = parse_qs(query).get("fileinfo") == ["1"]
        if words[0] == "package" and len(words) == 2:
            versions = self._order([one.source[1] for one in self.packages if one.source[0] == words[1]])
            return {"package": words[1], "result": [{"version": one} for one in versions]} if versions else None
        if words[0] == "package" and words[3:] == ["binpackages"]:
            own = sorted({(one.name, one.version) for one in self.packages if one.source == (words[1], words[2])})
            result = [{"name": name, "version": version} for name, version in own]
            return {"package": words[1], "version": words[2], "result": result} if own else None
        if words[0] == "binary" and len(words) == 2:
            named = [one for one in self.packages if one.name == words[1]]
            result = [
                {"name": one.name, "binary_version": one.version, "source": one.source[0], "version": one.source[1]}
                for one in named
            ]
            return {"binary": words[1], "result": result} if named else None
        if words[0] == "binary" and words[3:] == ["binfiles"]:
            files = [one for one in self.packages if (one.name, one.version) == (words[1], words[2])]
            found: dict[str, object] = {
                "binary": words[1],
                "binary_version": words[2],
                "result": [{"architecture": one.architecture, "hash": one.sha1} for one in files],
            }
            if fileinfo:
                found["fileinfo"] = {one.sha1: [self._info(one)] for one in files}
            return found if files else None
        if words[0] == "file" and words[2:] == ["info"]:
            infos = [self._info(one) for one in self.packages if one.sha1 == words[1]]
            return {"hash": words[1], "result": infos} if infos else None
        if words == ["timestamp"]:
            archives = parse_qs(query).get("archive") or list(self.runs)
            return {"result": {name: sorted(self.runs.get(name, ())) for name in archives}}
        return None

    def _info(self, package: Package) -> dict[str, object]:
        return {
            "archive_name": package.archive,
            "first_seen": package.first_seen,
            "name": package.file,
            "path": package.path,
            "size": len(package.content),
        }

    def _archive(self, name: str, stamp: str = "", rest: str = "") -> Answer | None:
        runs = sorted(run for run in self.runs.get(name, ()) if run <= stamp)
        if not runs or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
            return None
        if runs[-1] != stamp:
            return Answer(status=302, location=f"/archive/{name}/{runs[-1]}/{rest}")
        there = [one for one in self.packages if one.archive == name]
        for one in there:
            if rest == f"{one.path}/{one.file}".lstrip("/") and one.first_seen <= stamp:
                return Answer(one.content)
        # A suite's name may have a slash in it: buster/updates.
        match = re.fullmatch(r"dists/(.+?)/(InRelease|main/binary-amd64/Packages(?:\.xz)?)", rest)
        if match is None or match[1] not in {one.suite for one in there}:
            return None
        index = self._index([one for one in there if one.suite == match[1] and one.indexed <= stamp])
        if match[2] == "InRelease":
            release = self._release(match[1], stamp, {"Packages": index, "Packages.xz": lzma.compress(index)})
            return Answer((self.sign or self.signer.sign)(release))
        return Answer(lzma.compress(index) if match[2].endswith(".xz") else index)

    def _index(self, packages: list[Package]) -> bytes:
        return "\n".join(
            f"Package: {one.name}\nVersion: {one.version}\nArchitecture: {one.architecture}\n"
            f"Maintainer: nobody\nDescription: d\nFilename: {one.path.lstrip('/')}/{one.file}\n"
            f"Size: {len(one.content)}\nSHA256: {hashlib.sha256(one.content).hexdigest()}\n"
            for one in packages
        ).encode()

    def _release(self, suite: str, stamp: str, files: dict[str, bytes]) -> str:
        made = datetime.strptime(stamp, STAMP).replace(tzinfo=timezone.utc)
        until = made + timedelta(days=self.valid_days)
        lines = [
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{name}" for name, data in files.items()
        ]
        return (
            f"Origin: Fake\nSuite: {suite}\nCodename: {suite}\nDate: {_date(made)}\nValid-Until: {_date(until)}\n"
            "Architectures: amd64\nComponents: main\nSHA256:\n" + "\n".join(lines) + "\n"
        )


def _date(when: datetime) -> str:
    return format_datetime(when).replace("+0000", "UTC")
