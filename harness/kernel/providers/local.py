"""The local provider: a kernel file, a package, a built tree, a folder with boot/ and modules, the running kernel."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError, KernelFileError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel import selection
from harness.kernel.files import bzimage, raw_image
from harness.kernel.types import ANYTHING, Choice, Kernel, Progress, Wanted
from harness.kernel.version import KernelVersion
from harness.util import architecture, cache

_UPSTREAM = re.compile(r"(\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)")
_DEBIAN_BUILD = re.compile(r"\bDebian (\d+\.\d+[^\s-]*)-")


@dataclass(frozen=True)
class LocalKernel:
    """The files of a kernel on this machine.

    Attributes:
        image: The bzImage, Image or vmlinux.
        config: Its configuration, if there is one.
        modules: The folder lib/modules/RELEASE, if there is one.
        others: Where there is none: the releases that lib/modules has instead.
    """

    image: Path
    config: Path | None
    modules: Path | None
    others: tuple[str, ...] = ()


def find(path: Path) -> LocalKernel:
    """Find a kernel's files at a path that a user named.

    Raises:
        KernelFileError: There is no kernel, or it cannot be read.
        SelectorError: There are several kernels.
    """
    from harness.kernel.files import packages  # only for a path

    path = path.expanduser()
    try:
        if path.is_dir():
            return _find_unpacked(path) if packages.is_oci(path) else _find_in_folder(path)
        if not path.exists():
            raise KernelFileError(
                f"{path} does not exist",
                expected="a bzImage, an Image, a vmlinux, a package, an archive, a built kernel tree or a folder with "
                "boot/",
                hint="check the path; for a release, write its number without a '/'",
            )
        if not path.is_file():
            raise KernelFileError(f"{path} is neither a file nor a folder", expected="a kernel in one of these")
        if packages.kind_of(path) is not None:
            return _find_unpacked(path)
        release = _banner(path).split(" ", 1)[0]
        config = _first(path.with_name(f"config-{release}"), path.with_name("config"), path.with_name(".config"))
        return LocalKernel(path, config, _modules(path.parent.parent, release))
    except OSError as error:
        raise KernelFileError(
            f"{error.filename or path} cannot be read: {error.strerror}",
            expected="a kernel file this user may read",
            hint="/boot is often readable by root alone: sudo chmod +r the image, or copy it",
        ) from error


def _find_unpacked(path: Path) -> LocalKernel:
    from harness.kernel.files import packages  # only for a path

    folder = packages.unpacked_folder(path)
    try:
        return _find_in_folder(folder)
    except HarnessError as error:
        # The user knows the package, not the folder in the cache.
        error.what = error.what.replace(str(folder), str(path))
        error.hint = error.hint.replace(f"{folder}/", "")
        if isinstance(error, SelectorError):
            error.hint = f"unpack it, and {error.hint}"
        raise


def _find_in_folder(folder: Path) -> LocalKernel:
    built_images = [folder / one.image_path for one in architecture.known().values()]
    for tree in built_images:
        if tree.is_file():
            return LocalKernel(tree, _first(folder / ".config"), None)
    if (folder / "vmlinux").is_file():
        return LocalKernel(folder / "vmlinux", _first(folder / ".config", folder / "config"), None)
    # A glob would find nothing in a folder that this user may not read, and say nothing.
    here = [path for top in (folder / "boot", folder) if top.is_dir() for path in sorted(top.iterdir())]
    images = [path for path in here if path.name.startswith(("vmlinuz", "bzImage"))]
    images = [image for image in images if image.is_file() and not image.is_symlink()] or images
    if not images:
        built = (folder / "Makefile").is_file() and (folder / "Kconfig").is_file()
        raise KernelFileError(
            f"{folder} contains no kernel" + ("; it is a kernel tree that is not built" if built else ""),
            expected=", ".join(dict.fromkeys([*(one.image_path for one in architecture.known().values()), "vmlinux"]))
            + " or boot/vmlinuz-* in it",
            hint=f"`harness kernels build --source {folder}` builds it" if built else "name the image itself",
        )
    if len(images) > 1:
        raise SelectorError(
            f"{folder} is ambiguous: it contains {len(images)} kernels",
            expected="one",
            hint="name one of them: " + ", ".join(str(image) for image in images),
        )
    image = images[0]
    release = _banner(image).split(" ", 1)[0]
    root = folder if image.parent != folder else folder.parent
    modules = _modules(root, release)
    others = () if modules is not None else tuple(sorted(one.name for one in (root / "lib" / "modules").glob("*")))
    return LocalKernel(image, _first(image.with_name(f"config-{release}"), image.with_name("config")), modules, others)


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _modules(root: Path, release: str) -> Path | None:
    for folder in (root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release):
        if release and folder.is_dir():
            return folder
    return None


def _banner(path: Path) -> str:
    """Return an image's version line; reads only the necessary part of the file."""
    with path.open("rb") as stream:
        head = stream.read(raw_image.HEAD_SIZE)
        if bzimage.image_kind(head, str(path)) is bzimage.ImageKind.BZIMAGE:
            return bzimage.setup_header(head, str(path)).banner
    whole = path.read_bytes()
    return raw_image.banner(whole) or bzimage.elf_banner(bzimage.plain_kernel(whole, str(path)))


def _architecture(path: Path) -> str:
    """Return the name of an image's architecture; this machine's own for one that is refused later."""
    with path.open("rb") as stream:
        found = bzimage.architecture_of(stream.read(raw_image.HEAD_SIZE), str(path))
    return found.name if found is not None else architecture.own_name()


def version_of(banner: str, name: str) -> KernelVersion:
    """Return the upstream version in an image's version line.

    Debian's releases ("6.1.0-56") do not contain the point release; the build string ("Debian 6.1.192-2") does.

    Raises:
        KernelFileError: The line has no version.
    """
    # Before the "#" of the build, the line names the compiler, also built by Debian: "gcc (Debian 12.2.0-14) 12.2.0".
    match = _DEBIAN_BUILD.search(banner.rpartition(" #")[2]) or _UPSTREAM.match(banner)
    if match is None:
        raise KernelFileError(
            f"{name} does not say which version it is",
            expected="a version line such as '6.1.0 (user@host) #1 SMP', which every kernel image has",
            hint="is it a kernel, and complete?",
        )
    return KernelVersion.parse(match[1].replace("~", "-"))


def host_image() -> Path:
    """Return the running kernel's image.

    Raises:
        KernelFileError: It is not on this machine.
    """
    release = platform.release()
    places = [Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/vmlinuz")]
    for place in places:
        if place.is_file():
            return place
    raise KernelFileError(
        f"the image of the running kernel {release} is not on this machine",
        expected=" or ".join(str(place) for place in places),
        hint="a container or virtual machine may not have the kernel's files: name a release or a path",
    )


class LocalProvider:
    """Kernels on this machine: files that a user names, and kernels that the harness built."""

    name = "local"
    setting = ""
    flavours = ("minimal", "debug", "coverage", "bcc", "mutants")
    """Flavours that only `harness kernels build` makes."""

    def offers(self, *, progress: Progress, wanted: Wanted = ANYTHING) -> list[Choice]:  # noqa: ARG002 - protocol
        """Return the kernels that `harness kernels build` has made."""
        return kernel_cache.offers(self.name)

    def choose(self, path: Path, *, label: str = "") -> Choice:
        """Return the choice that a path means; reads only the image's version line.

        Raises:
            KernelFileError: There is no usable kernel.
            SelectorError: There are several kernels.
        """
        found = find(path)
        try:
            banner, of = _banner(found.image), _architecture(found.image)
        except OSError as error:
            raise KernelFileError(
                f"{found.image} cannot be read: {error.strerror}",
                expected="a kernel file this user may read",
                hint="/boot is often readable by root alone: sudo chmod +r the image, or copy it",
            ) from error
        version = version_of(banner, str(found.image))
        whole = path.expanduser().absolute()
        named = label or selection.labelled(whole.name, of)
        return Choice(named, version, self.name, str(whole), architecture=of)

    def cached_key(self, choice: Choice) -> str:
        """Return the key under which the cache keeps what a choice means: for a path, that of its content.

        Raises:
            KernelFileError: There is no usable kernel.
        """
        return _entry_key(find(Path(choice.key))) if choice.key.startswith("/") else choice.key

    def acquire(self, choice: Choice, *, progress: Progress) -> Kernel | None:
        """Check the file that a choice names and unpack it into the cache, keyed by its content.

        Raises:
            KernelFileError: It is damaged, is for another architecture, or has no BPF.
            CacheError: The cache cannot be written.
        """
        if not choice.key.startswith("/"):
            return kernel_cache.load(choice, progress=progress)
        found = find(Path(choice.key))
        if found.others:
            progress(f"{choice.label}: no module can be used: lib/modules has {', '.join(found.others)}")
        key = _entry_key(found)
        # An unpacked package is named by itself.
        inside = (kernel_cache.folder() / "unpacked") in found.image.parents
        origin = f"file {choice.key if inside else found.image}"
        by_content = Choice(
            choice.label, choice.version, self.name, key, choice.flavour, architecture=choice.architecture
        )
        kernel = kernel_cache.load(by_content, progress=progress)
        if kernel is None:
            with kernel_cache.new_entry(self.name, key) as made:
                if made is not None:
                    progress(f"local: checking and unpacking {found.image}")
                    fill(found, made)
                    kernel_cache.seal(made, by_content, origin=origin, file=True)
            kernel = kernel_cache.load(by_content, progress=progress)
        # The same content may have been named by another path before.
        return replace(kernel, origin=origin) if kernel is not None else None


def fill(found: LocalKernel, made: Path) -> None:
    """Copy a kernel's files into a new entry of the kernel cache.

    Raises:
        KernelFileError: The image is not a kernel.
    """
    with found.image.open("rb") as stream:
        kind = bzimage.image_kind(stream.read(raw_image.HEAD_SIZE), str(found.image))
    shutil.copyfile(found.image, made / ("vmlinux" if kind is bzimage.ImageKind.VMLINUX else "vmlinuz"))
    if found.config is not None:
        shutil.copyfile(found.config, made / "config")
    if found.modules is not None:
        shutil.copytree(
            found.modules,
            made / "lib" / "modules" / found.modules.name,
            symlinks=True,
            # Headers and sources are other trees; the guest needs only the modules.
            ignore=shutil.ignore_patterns("build", "source"),
        )


def fill_from(downloads: Sequence[Path], made: Path, origin: str) -> None:
    """Unpack packages, and copy the files of the kernel in them into a new entry of the kernel cache.

    Args:
        downloads: The packages.
        made: The entry.
        origin: Whose packages they are, for messages.

    Raises:
        KernelFileError: A package is damaged, or they have no kernel.
    """
    # Most runs unpack nothing.
    import tempfile

    from harness.kernel.files import packages

    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=kernel_cache.folder()) as scratch:
        for path in downloads:
            packages.unpack(path, Path(scratch))
        try:
            found = find(Path(scratch))
        except KernelFileError as error:
            raise KernelFileError(f"the packages of {origin} have no kernel image: {error.what}") from error
        fill(found, made)


def _entry_key(found: LocalKernel) -> str:
    return f"{found.image.name}-{_content_digest(found)[:20]}"


def _content_digest(found: LocalKernel) -> str:
    """Return a digest of all that an entry is made of: one image may come with modules, without, or with others."""
    parts = [_known_digest([found.image], lambda: cache.digest_file(found.image))]
    if found.config is not None:
        parts.append(cache.digest_file(found.config))
    if (modules := found.modules) is not None:
        parts.append(_known_digest(sorted(modules.rglob("*.ko*")), lambda: kernel_cache.modules_digest(modules)))
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _known_digest(files: Sequence[Path], digest_now: Callable[[], str]) -> str:
    """Return the digest of files; computed when one of them is new or has changed."""
    # Name, size and time of a known file identify its content: a vmlinux can have 500 MB.
    stats = ((path, path.stat()) for path in files)
    facts = "\n".join(f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}" for path, stat in stats)
    seen = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()
    memory = kernel_cache.folder() / "seen.json"
    known: dict[str, str] = cache.from_record(memory, dict) or {}
    if seen in known:
        return known[seen]
    digest = digest_now()
    if not cache.is_writable(memory):
        return digest
    with cache.locked(kernel_cache.folder() / "locks" / "seen.lock"):
        # The newest two hundred are enough, and keep the file small.
        cache.write_record(memory, dict([*known.items(), (seen, digest)][-200:]))
    return digest
