"""Guest images with extra content: the base image followed by more archives, which the kernel unpacks in turn."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence

from harness.image import cpio
from harness.image.build import Image
from harness.util import cache

MODULES = "usr/lib/kernel-harness/modules"
"""Where the agent looks for modules to load (harness.guest.modules)."""


def modules_archive(modules: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an archive of kernel modules that the agent loads before it is ready.

    Args:
        modules: Name and content of each, not compressed, in loading order.
    """
    files = (cpio.file(f"{MODULES}/{at:03}-{name}.ko", data) for at, (name, data) in enumerate(modules))
    return b"".join(cpio.archive(cpio.with_parents(files)))


def extended(base: Image, archives: Sequence[bytes]) -> Image:
    """Return an image that holds the base image and then each of the archives; kept in the cache by content.

    An archive may add files to folders of the base image; it must not replace a link or a file by a folder.

    Args:
        base: The first part.
        archives: Archives in the "newc" form, not compressed, each of a length that is a multiple of four bytes.

    Raises:
        CacheError: The cache folder cannot be written.
    """
    if not archives:
        return base
    parts = [base.digest, *(hashlib.sha256(archive).hexdigest() for archive in archives)]
    digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    path = base.path.parent / f"{digest[:16]}.cpio"
    size = base.path.stat().st_size + sum(map(len, archives))

    def whole() -> Image | None:
        if not path.exists() or path.stat().st_size != size:
            return None
        cache.mark_used(path)
        return Image(path, digest, base.userland)

    def make() -> Image:
        with cache.new_file(path) as temporary, temporary.open("wb") as out:
            with base.path.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
            out.writelines(archives)
        return Image(path, digest, base.userland)

    return cache.artefact(path, whole=whole, make=make)
