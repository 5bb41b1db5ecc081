"""The kernel cache: one folder for each exact kernel, complete or absent.

::

    kernels/store/PROVIDER-KEY/     vmlinuz, vmlinux, config, kheaders.tar.xz, lib/modules/RELEASE/, record.json
    kernels/locks/                  one lock file for each entry
    kernels/downloads/              packages and tarballs being downloaded, resumable
    kernels/debian/                 the Debian provider's private apt and its index
    kernels/snapshot/               what the snapshot archive has, by version
    kernels/distributions/          index and keys of each distribution
    kernels/unpacked/               packages and archives that a user named
    kernels/sources/                unpacked source trees, by the digest of their archive
    kernels/build/                  builds in progress, and logs of failed builds
    kernels/kept/                   builds with their own trees, to change and build again

An entry's key is its provider's name for that exact kernel, so it never becomes outdated. `record.json` holds the size,
time and sha256 of its files. Each use compares size and time, which takes a millisecond; when a time differs, the
digest decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CacheError, KernelFileError
from harness.kernel.types import Choice, Kernel, Progress
from harness.kernel.version import KernelVersion
from harness.util import architecture as architectures
from harness.util import cache

RECORD = "record.json"
FORMAT = 1
HEADERS = "kheaders.tar.xz"
"""The headers of a kernel built here with CONFIG_IKHEADERS, beside its image."""


def folder() -> Path:
    """Return the folder of the kernel cache. It may not exist yet."""
    return cache.cache_root() / "kernels"


def entry_folder(provider: str, key: str) -> Path:
    """Return the folder of one kernel's entry. It may not exist yet."""
    return folder() / "store" / f"{provider}-{_safe(key)}"


def holder(provider: str) -> Callable[[str], bool]:
    """Return a function that says whether the cache has a provider's kernel, by key; cheap for many keys."""
    there = {path.name for path in (folder() / "store").glob(f"{provider}-*")}
    return lambda key: f"{provider}-{_safe(key)}" in there


def _safe(key: str) -> str:
    # "=" and "+" are safe in file names; "/" and other characters of shells are not.
    return re.sub(r"[^A-Za-z0-9.+=_~-]", "_", key)


@contextmanager
def new_entry(provider: str, key: str, *, again: bool = False) -> Iterator[Path | None]:
    """Make one kernel's entry under its lock.

    Args:
        provider: As in :class:`Choice`.
        key: As in :class:`Choice`.
        again: Make it even when it exists; the old entry stays until the new one is complete.

    Yields:
        A temporary folder to put `vmlinuz` or `vmlinux`, `config` and `lib/modules/RELEASE` into and to
        :func:`seal`; or None when another process has made the entry meanwhile.

    Raises:
        CacheError: The disk is full, the cache cannot be written, or the lock is held for too long.
    """
    final = entry_folder(provider, key)
    with cache.locked(folder() / "locks" / f"{final.name}.lock"):
        if (final / RECORD).is_file() and not again:
            yield None
        else:
            with cache.new_folder(final) as made:
                yield made
                # The next process would take an entry without a record for a damaged one.
                assert (made / RECORD).is_file(), "a new entry is sealed"


def seal(made: Path, choice: Choice, *, origin: str, **facts: object) -> None:
    """Check the kernel in a new entry, unpack the ELF kernel and write the entry's record.

    Args:
        made: The folder that :func:`new_entry` yielded, holding `vmlinuz` or `vmlinux`.
        choice: The kernel; its image must be for this architecture.
        origin: Where it came from, as text for the user.
        facts: More data for the record (checksums of packages, build time); must be JSON.

    Raises:
        KernelFileError: The image is damaged, is for another architecture, cannot be booted by QEMU, or was configured
            without BPF.
    """
    from harness.kernel.files import bzimage, raw_image

    wanted = architectures.require(choice.architecture)
    compressed, plain, config = made / "vmlinuz", made / "vmlinux", made / "config"
    name = f"the kernel image of {origin}"
    release, compression, pvh = "", "", False
    image = (compressed if compressed.exists() else plain).read_bytes()
    bzimage.require_architecture(image, name, wanted)
    if bzimage.image_kind(image, name) is bzimage.ImageKind.IMAGE:
        raw_image.check(image, name)
        kernel = bzimage.plain_kernel(image, name)
    else:
        if compressed.exists():
            release = bzimage.setup_header(image, name).release
            if not plain.exists():
                unpacked, compression = bzimage.extract_vmlinux(image, name)
                plain.write_bytes(unpacked)
        kernel = plain.read_bytes()
        bzimage.check_elf(kernel, name, wanted)
        problem = bzimage.pvh_problem(kernel)
        if problem and not compressed.exists() and wanted.name == "amd64":
            raise KernelFileError(
                f"QEMU cannot boot {name}: {problem}",
                expected="a bzImage, or an uncompressed kernel that QEMU boots by its PVH entry",
                hint=f"name the bzImage that was built with it, {wanted.image_path}",
            )
        pvh = not problem
    release = release or (raw_image.banner(image) or bzimage.elf_banner(kernel)).split(" ", 1)[0]
    if not config.exists() and (embedded := bzimage.embedded_config(kernel)) is not None:
        config.write_bytes(embedded)
    if config.exists():
        require_bpf(config.read_text(errors="replace"), origin)
    if compressed.exists() and config.exists() and re.search(r"^CONFIG_KASAN=y$", config.read_text(), re.MULTILINE):
        # Code that KASAN instruments runs on the PVH entry before its shadow memory is there: 6.1.192 so built prints
        # nothing and resets in QEMU, while its bzImage boots.
        pvh = False
    kept = (compressed, plain, config, made / HEADERS)
    files = {path.name: _file_facts(path) for path in kept if path.exists()}
    modules = made / "lib" / "modules" / release
    record = {
        "format": FORMAT,
        "version": str(choice.version),
        "release": release,
        "provider": choice.provider,
        "key": choice.key,
        "flavour": choice.flavour,
        "architecture": wanted.name,
        "origin": origin,
        "pvh": pvh,
        "compression": compression,
        "boot": "vmlinux" if pvh or not compressed.exists() else "vmlinuz",
        "files": files,
        "modules": modules.is_dir(),
        "modules_digest": modules_digest(modules) if modules.is_dir() else "",
        **facts,
    }
    (made / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def require_bpf(config: str, name: str) -> None:
    """Refuse a kernel that was configured without BPF.

    Raises:
        KernelFileError: CONFIG_BPF_SYSCALL is not set.
    """
    if re.search(r"^CONFIG_BPF_SYSCALL=y$", config, re.MULTILINE) is None:
        raise KernelFileError(
            f"{name} was configured without the bpf(2) system call",
            expected="CONFIG_BPF_SYSCALL=y in its configuration",
            hint="build it with that option (`harness kernels build` does), or choose another kernel",
        )


def modules_digest(top: Path) -> str:
    """Return one sha256 over the names and contents of all modules under lib/modules/RELEASE.

    The indexes beside them are not included: virtme-ng lets depmod write them again.
    """
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(top.rglob("*.ko*")):
        digest.update(f"{path.relative_to(top)}\0{cache.digest_file(path)}\n".encode())
    return digest.hexdigest()


def _file_facts(path: Path) -> dict[str, object]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": cache.digest_file(path)}


@dataclass(frozen=True)
class CachedKernel:
    """One kernel's entry in the cache.

    Attributes:
        path: Its folder.
        record: The content of `record.json`.
    """

    path: Path
    record: dict[str, Any]

    @property
    def digest(self) -> str:
        """The sha256 of the image that is booted."""
        return str(self.record["files"][self.record["boot"]]["sha256"])

    @property
    def version(self) -> KernelVersion:
        """The upstream version."""
        return KernelVersion.parse(str(self.record["version"]))

    @property
    def architecture(self) -> str:
        """The name of its architecture."""
        # Entries did not always name it: all kernels were of this one.
        return str(self.record.get("architecture", "amd64"))

    @property
    def group(self) -> tuple[str, str, str, tuple[int, int]]:
        """Provider, architecture, flavour and series: a newer release with the same replaces this entry."""
        return (str(self.record["provider"]), self.architecture, str(self.record["flavour"]), self.version.series)

    @property
    def last_used(self) -> float:
        """The day of its last use, in seconds since the epoch."""
        return (self.path / RECORD).stat().st_mtime

    def touch(self) -> None:
        """Record that it is used."""
        # Once a day is enough to find idle entries. A cache that cannot be written can still be used.
        if time.time() - self.last_used > 86400:
            with contextlib.suppress(OSError):
                os.utime(self.path / RECORD)

    def damage(self, *, thorough: bool = False) -> str:
        """Return a few words on what is wrong with the entry, or "".

        Args:
            thorough: Read every file and compare digests, not only files whose size or time differs.
        """
        files: dict[str, dict[str, Any]] = self.record["files"]
        for name, facts in files.items():
            path = self.path / name
            try:
                stat = path.stat()
            except FileNotFoundError:
                return f"{name} is missing"
            if stat.st_size != facts["size"]:
                return f"{name} has {stat.st_size} bytes, not {facts['size']}"
            doubtful = stat.st_mtime_ns != facts["mtime_ns"]
            if (thorough or doubtful) and cache.digest_file(path) != facts["sha256"]:
                return f"the sha256 of {name} differs from its record"
        if self.record["modules"]:
            modules = self.path / "lib" / "modules" / str(self.record["release"])
            if not modules.is_dir():
                return "its modules are missing"
            if thorough and modules_digest(modules) != self.record["modules_digest"]:
                return "its modules differ from their record"
        return ""

    def kernel(self, label: str) -> Kernel:
        """Return the kernel, under the label that a choice gave it."""
        release = str(self.record["release"])

        def there(name: str) -> Path | None:
            return self.path / name if name in self.record["files"] else None

        return Kernel(
            label=label,
            version=self.version,
            release=release,
            bzimage=there("vmlinuz"),
            vmlinux=there("vmlinux"),
            pvh=bool(self.record["pvh"]),
            config=there("config"),
            modules=self.path / "lib" / "modules" / release if self.record["modules"] else None,
            digest=self.digest,
            flavour=str(self.record["flavour"]),
            origin=str(self.record["origin"]),
            architecture=self.architecture,
        )


def read_entry(path: Path) -> CachedKernel | None:
    """Read an entry's record; None when there is no entry, or when another version of the harness made it."""
    try:
        record = json.loads((path / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None
    return CachedKernel(path, record) if isinstance(record, dict) and record.get("format") == FORMAT else None


def entries() -> list[CachedKernel]:
    """Return every kernel in the cache, by folder name."""
    found = (read_entry(path) for path in sorted((folder() / "store").glob("*")) if not path.name.startswith("."))
    return [entry for entry in found if entry is not None]


def offers(provider: str) -> list[Choice]:
    """Return a provider's releases in the cache, in order of version.

    Without files that a user named and commits between releases.
    """
    found = sorted(
        (
            entry
            for entry in entries()
            if entry.record["provider"] == provider and not (entry.record.get("file") or entry.record.get("revision"))
        ),
        key=lambda entry: (entry.version, entry.record.get("built", 0), entry.path.name),
    )
    return [
        Choice(
            label="",
            version=entry.version,
            provider=provider,
            key=str(entry.record["key"]),
            flavour=str(entry.record["flavour"]),
            architecture=entry.architecture,
            release=str(entry.record["release"]),
            revision=str(entry.record["key"]).partition("=")[2],
            # Below the ranks of providers, which start at 0: a provider knows which release is newest.
            rank=rank - len(found),
            where="built here" if entry.record.get("built") else "cache",
            cached=True,
        )
        for rank, entry in enumerate(found)
    ]


def load(choice: Choice, *, progress: Progress) -> Kernel | None:
    """Return a choice's kernel from the cache; None when it is missing, or was damaged and has been removed.

    Raises:
        KernelFileError: It is for another architecture than the choice says.
    """
    path = entry_folder(choice.provider, choice.key)
    entry = read_entry(path)
    if entry is None:
        if path.is_dir():
            progress(f"{choice.label}: the cache entry {path.name} has no usable record; making it again")
            discard(path)
        return None
    damage = entry.damage()
    if damage:
        progress(f"{choice.label}: the cache entry {path.name} is damaged ({damage}); making it again")
        discard(path)
        return None
    if entry.architecture != choice.architecture:
        raise KernelFileError(
            f"{choice.label}: {choice.key} is a kernel for {entry.architecture}",
            expected=f"a kernel for {choice.architecture}",
            hint=f"name the architecture, as in 6.12:{entry.architecture}; `harness kernels lock` locks anew",
        )
    entry.touch()
    return entry.kernel(choice.label)


def discard(path: Path) -> None:
    """Remove an entry, under its lock.

    Raises:
        CacheError: It cannot be removed.
    """
    import shutil

    # Rename first: an interrupted removal then leaves a temporary folder, not half an entry.
    with cache.locked(folder() / "locks" / f"{path.name}.lock"), cache.temporary_of(path) as doomed:
        try:
            path.rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CacheError(
                f"the cache entry {path} cannot be removed: {error.strerror}", hint=f"remove it by hand: rm -r {path}"
            ) from error
