"""Finds a kernel source tree: on this machine, in a Debian `linux-source-*` package, or on kernel.org.

The cache keeps unpacked trees under the digest of their source, so that a second flavour of the same kernel
unpacks nothing.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import needs
from harness.errors import HarnessError, InfrastructureError, KernelFileError, MirrorError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel.build import kbuild
from harness.kernel.files import signature
from harness.kernel.files.decompress import package_members, write_member
from harness.kernel.files.download import Meter, fetch, get, no_meter, served_by
from harness.kernel.types import Progress
from harness.kernel.version import KernelVersion
from harness.util import cache, proc
from harness.util.data import read_toml

KERNEL_ORG_VARIABLE = "HARNESS_KERNEL_ORG"
KEYRING_VARIABLE = "HARNESS_KERNEL_ORG_KEYRING"
GIT_VARIABLE = "HARNESS_KERNEL_GIT"

_CHECKSUM = re.compile(r"([0-9a-f]{64})  (linux-(\d+\.\d+(?:\.\d+)?)\.tar\.xz)")


@dataclass(frozen=True)
class SourceTree:
    """A kernel source tree on this machine.

    Attributes:
        path: Its top folder.
        origin: Where it came from, as text for the user.
    """

    path: Path
    origin: str


def in_hand(path: Path, ref: str, *, progress: Progress) -> SourceTree:
    """Use a tree, a git repository or an archive that the user has.

    Args:
        path: A source tree, a git repository, a tarball or a linux-source package.
        ref: For a git repository, the commit, tag or branch to build; "" for the files as they are.
        progress: Called with a line of text for each step.

    Raises:
        KernelFileError: It is none of these.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise KernelFileError(f"{path} does not exist", expected="a kernel tree, a git repository or a tarball")
    if ref:
        return _from_git(path, ref, progress)
    if path.is_dir():
        return SourceTree(path, f"the tree {path}")
    return _unpacked(path, cache.digest_file(path), f"the archive {path}", progress)


def _from_git(repository: Path, ref: str, progress: Progress, *, shown: tuple[str, str] = ("", "")) -> SourceTree:
    """Export a commit; `shown`: what messages call it and its repository."""
    name, place = (shown[0] or ref, shown[1] or str(repository))
    git = needs.program("git")
    asked = proc.run([git, "-C", repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], timeout=60)
    commit = asked.stdout.strip()
    if asked.status != 0:
        raise KernelFileError(
            f"{repository} has no commit {ref!r}",
            expected="a git repository and a commit, tag or branch in it",
            hint=f"git -C {repository} tag --list",
            detail=asked.stderr.strip(),
        )
    with tempfile.TemporaryDirectory(prefix="harness-git-") as folder:
        archive = Path(folder, "tree.tar")
        done = proc.run([git, "-C", repository, "archive", "--format=tar", f"--output={archive}", commit], timeout=600)
        if done.status != 0:
            raise KernelFileError(
                f"git cannot export {ref} of {repository}",
                expected="a whole repository: a partial clone lacks objects",
                hint="clone it whole; or, where what it lacks is not compiled, check it out: --source FOLDER",
                detail=done.tail(),
            )
        return _unpacked(archive, commit, f"{name} ({commit[:12]}) of {place}", progress)


def from_remote(url: str, ref: str, *, progress: Progress) -> SourceTree:
    """Fetch one commit from a git repository on a server, without its history.

    Args:
        url: The repository; "" for that of `kernels/kernel-org.toml`, or of $HARNESS_KERNEL_GIT.
        ref: The tag, branch or (where the server allows it) commit.
        progress: Called with a line of text for each step.

    Raises:
        MirrorError: The server cannot be reached, or has no such commit.
        ToolMissing: git is not installed.
    """
    url = url or os.environ.get(GIT_VARIABLE) or str(read_toml("kernels", "kernel-org.toml")["git"])
    git = needs.program("git")
    with tempfile.TemporaryDirectory(prefix="harness-git-") as folder:
        progress(f"fetching {ref} from {url}")
        made = proc.run([git, "init", "--quiet", "--bare", folder], timeout=60)
        assert made.status == 0, made.tail()
        # A server that asks for a password would wait for ever.
        ask_nothing: list[str | Path] = [git, "-c", "core.askPass=true", "-C", folder]
        done = proc.run([*ask_nothing, "fetch", "--quiet", "--depth=1", "--", url, ref], timeout=3600)
        if done.status != 0:
            raise MirrorError(
                f"{ref} cannot be fetched from {url}",
                expected="a git repository that answers and has that tag or branch",
                hint=f"git ls-remote --tags {url}; or name another repository with --source or {GIT_VARIABLE}",
                detail=done.tail(),
            )
        return _from_git(Path(folder), "FETCH_HEAD", progress, shown=(ref, url))


def wanted(text: str) -> tuple[KernelVersion, bool]:
    """Parse the kernel to build: return its version, and whether any release of its series is acceptable.

    Raises:
        SelectorError: It is neither a series nor a release.
    """
    version = KernelVersion.parse(text)
    return version, re.fullmatch(r"v?\d+\.\d+", text.strip()) is not None


def debian_package(text: str, index: dict[str, Any]) -> dict[str, Any] | None:
    """Return the `linux-source-SERIES` package of a series or release; None when the mirror has none.

    Args:
        text: A series, or the exact release that the package must have.
        index: The Debian provider's index.

    Raises:
        SelectorError: `text` is neither.
    """
    from harness.kernel.providers.debian_index import upstream

    version, any_release = wanted(text)
    for package in index["sources"]:
        if str(package["name"]).rpartition("-")[2] == "{}.{}".format(*version.series):
            fits = any_release or upstream(str(package["version"])) == version
            return dict(package) if fits else None
    return None


def from_debian(text: str, index: dict[str, Any], *, progress: Progress, meter: Meter = no_meter) -> SourceTree:
    """Fetch the tree of a series from its `linux-source-SERIES` package.

    Args:
        text: A series, or the exact release that the package must have.
        index: The Debian provider's index.
        progress: Called with a line of text for each step.
        meter: Called with the progress of the download.

    Raises:
        SelectorError: The mirror has no such package.
        MirrorError: It cannot be fetched.
    """
    package = debian_package(text, index)
    if package is None:
        has = ", ".join(f"{one['name']} {one['version']}" for one in index["sources"])
        raise SelectorError(f"the Debian mirror has no source package of {text}", expected=f"one of {has or 'none'}")
    path = kernel_cache.folder() / "downloads" / str(package["url"]).rpartition("/")[2]
    origin = f"{package['name']} {package['version']}"
    if (tree := _known(str(package["sha256"]), origin)) is not None:
        return tree
    progress(f"fetching {origin} ({package['size'] / 1e6:.0f} MB)")
    if not fetch(
        package["url"], path, size=package["size"], sha256=package["sha256"], proxy=index.get("proxy", ""), meter=meter
    ):
        raise MirrorError(f"{origin} is indexed but not served (404)", hint="`harness kernels list --refresh`")
    tree = _unpacked(path, str(package["sha256"]), origin, progress)
    path.unlink(missing_ok=True)
    return tree


def parse_checksums(text: str) -> dict[KernelVersion, tuple[str, str]]:
    """Read kernel.org's sha256sums.asc: file name and digest by version."""
    return {KernelVersion.parse(match[3]): (match[2], match[1]) for match in _CHECKSUM.finditer(text)}


@served_by(KERNEL_ORG_VARIABLE)
def on_kernel_org(text: str, *, progress: Progress) -> tuple[str, KernelVersion, str, str]:
    """Find a release on kernel.org.

    Args:
        text: A release, or a series for its newest one.
        progress: Called with a line of text for each step.

    Returns:
        The address of its folder, its version, the name of its tarball, and the sha256 of that.

    Raises:
        SelectorError: There is no such release.
        MirrorError: kernel.org cannot be reached, or its list is not signed by a key in $HARNESS_KERNEL_ORG_KEYRING.
    """
    version, any_release = wanted(text)
    settings = read_toml("kernels", "kernel-org.toml")
    base = f"{os.environ.get(KERNEL_ORG_VARIABLE, settings['server']).rstrip('/')}/v{version.major}.x"
    try:
        sums = get(f"{base}/sha256sums.asc")
    except MirrorError as error:
        error.hint = f"name a mirror with {KERNEL_ORG_VARIABLE}, or a tree on this machine with --source"
        raise
    if sums is None:
        raise MirrorError(
            f"{base} has no sha256sums.asc", expected="kernel.org's layout", hint=f"check {KERNEL_ORG_VARIABLE}"
        )
    if named := os.environ.get(KEYRING_VARIABLE):
        if not Path(named).is_file():
            raise MirrorError(f"the keyring {named} is missing", hint=f"check {KEYRING_VARIABLE}")
        verified = signature.clear_signed(sums, [Path(named)], f"{base}/sha256sums.asc")
        sums = verified.text
        if verified.key != settings["fingerprint"]:
            progress(f"{base}/sha256sums.asc is signed by key {verified.key}, which {KEYRING_VARIABLE} names")
    else:
        progress(
            f"unsigned: the signature of {base}/sha256sums.asc is not verified without the key ({KEYRING_VARIABLE});"
            " only https protects it"
        )
    releases = parse_checksums(sums.decode(errors="replace"))
    fit = [one for one in releases if one == version or (any_release and one.series == version.series)]
    if not fit:
        raise SelectorError(f"kernel.org has no release {text}", expected=f"a release listed in {base}/sha256sums.asc")
    return (base, max(fit), *releases[max(fit)])


@served_by(KERNEL_ORG_VARIABLE)
def from_kernel_org(text: str, *, progress: Progress, meter: Meter = no_meter) -> SourceTree:
    """Fetch a release's tarball from kernel.org and compare it with the sha256 published there.

    Args:
        text: A release, or a series for its newest one.
        progress: Called with a line of text for each step.
        meter: Called with the progress of the download.

    Raises:
        SelectorError: There is no such release.
        MirrorError: kernel.org cannot be reached, or sends another file.
    """
    base, _, name, digest = on_kernel_org(text, progress=progress)
    downloads = kernel_cache.folder() / "downloads"
    origin = f"kernel.org {name}"
    if (tree := _known(digest, origin)) is not None:
        return tree
    progress(f"fetching {base}/{name}")
    if not fetch(f"{base}/{name}", downloads / name, sha256=digest, meter=meter):
        raise MirrorError(f"{base}/{name} is listed but not served (404)", hint="try another release")
    tree = _unpacked(downloads / name, digest, origin, progress)
    (downloads / name).unlink(missing_ok=True)
    return tree


def find(text: str, index: Any, *, progress: Progress, meter: Meter = no_meter) -> SourceTree:
    """Fetch a tree from the first place that has it: Debian's source package, then kernel.org.

    Args:
        text: A series or a release.
        index: Returns the Debian provider's index; called once.
        progress: Called with a line of text for each step.
        meter: Called with the progress of the download.

    Raises:
        InfrastructureError: No place has it; the message has the reason of each.
    """
    reasons = []
    for name, bring in (
        ("debian", lambda: from_debian(text, index(), progress=progress, meter=meter)),
        ("kernel.org", lambda: from_kernel_org(text, progress=progress, meter=meter)),
    ):
        tree = _attempt(bring)
        if isinstance(tree, SourceTree):
            return tree
        progress(f"{name}: {tree.what}")
        reasons.append(f"{name}: {tree.what}")
    raise InfrastructureError(
        f"the source of {text} is unavailable",
        expected="a Debian source package or a release on kernel.org",
        hint=f"give a tree on this machine with --source, or a mirror with {KERNEL_ORG_VARIABLE}",
        detail="\n".join(reasons),
    )


def _attempt(bring: Any) -> SourceTree | HarnessError:
    try:
        tree: SourceTree = bring()
    except (SelectorError, InfrastructureError) as error:
        return error
    return tree


def _place(identity: str) -> Path:
    return kernel_cache.folder() / "sources" / identity[:20]


def _known(identity: str, origin: str) -> SourceTree | None:
    place = _place(identity)
    return SourceTree(place, origin) if place.is_dir() else None


def _unpacked(archive: Path, identity: str, origin: str, progress: Progress) -> SourceTree:
    """Return the tree in an archive, unpacked into the cache under `identity`."""
    place = _place(identity)
    with cache.locked(place.with_name(f"{place.name}.lock")):
        if not place.is_dir():
            progress(f"unpacking {origin}")
            with cache.new_folder(place) as made, tempfile.TemporaryDirectory(prefix="harness-source-") as scratch:
                _extract(_tarball(archive, Path(scratch)), made)
                try:
                    kbuild.tree_version(made)
                except KernelFileError as error:
                    error.what = error.what.replace(str(made), origin)
                    raise
    return SourceTree(place, origin)


def _tarball(archive: Path, scratch: Path) -> Path:
    """Return the tarball inside a linux-source package; other archives are returned unchanged."""
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            return archive
    target = scratch / "linux-source.tar"
    with package_members(archive) as members:
        for member in members:
            if member.isfile() and re.search(r"usr/src/linux-source-[^/]*\.tar\.\w+$", member.name):
                write_member(members, member, target)
                return target
    raise KernelFileError(f"{archive} is a package that has no kernel sources", expected="a linux-source-* package")


def _extract(tarball: Path, target: Path) -> None:
    """Unpack a tarball without its top folder."""
    try:
        with tarfile.open(tarball) as members:
            names = members.getnames()
            top = names[0].split("/", 1)[0] if names else ""
            strip = all(name == top or name.startswith(f"{top}/") for name in names)
            chosen = _stripped(members.getmembers(), top) if strip else members.getmembers()
            # Python before 3.11.4 may lack the filter that keeps members inside the folder.
            outside = [one.name for one in chosen if one.name.startswith("/") or ".." in Path(one.name).parts]
            if outside:
                raise tarfile.TarError(f"it has a member outside its folder: {outside[0]}")
            options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            members.extractall(target, members=chosen, **options)  # noqa: S202 - checked above
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise _damaged(tarball, error) from error


def _stripped(members: Sequence[tarfile.TarInfo], top: str) -> list[tarfile.TarInfo]:
    result = []
    for member in members:
        if member.name == top:
            continue
        member.name = member.name.removeprefix(f"{top}/")
        if member.islnk():
            member.linkname = member.linkname.removeprefix(f"{top}/")
        result.append(member)
    return result


def _damaged(archive: Path, error: BaseException) -> KernelFileError:
    return KernelFileError(
        f"{archive} is not a complete archive of a kernel tree: {error or type(error).__name__}",
        expected="a tarball (.tar, .tar.gz, .tar.bz2, .tar.xz) or a linux-source package",
        hint="fetch it again",
    )
