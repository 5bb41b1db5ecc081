"""What bcc needs in a guest: its library (with LLVM and clang inside), its Python package, a kernel's headers."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from harness import needs
from harness.errors import BuildError
from harness.image import cpio, elf
from harness.util import cache

FORMAT = 1
"""Part of every key: raise it when the same sources give another archive."""

_PACKAGE = "/usr/lib/python3/dist-packages/bcc"
_LIBRARY = "libbcc.so.0"
# The package loads it by name; libc has long had its content.
_BY_NAME = "librt.so.1"


def bcc_archive() -> bytes:
    """Return an archive with bcc's library and Python package; made once, kept in the cache.

    Raises:
        ToolMissing: bcc is not installed on this machine.
        CacheError: The cache folder cannot be written.
    """
    library, package = needs.find(needs.need(_LIBRARY)), needs.find(needs.need(_PACKAGE))
    if library is None or package is None:
        raise needs.missing(
            _LIBRARY if library is None else _PACKAGE,
            what="bcc is not installed on this machine, so no guest image can have it",
            expected=f"{_PACKAGE} and {_LIBRARY}",
        )
    about = (library.resolve(), library.stat().st_mtime_ns, library.stat().st_size, sysconfig.get_path("stdlib"))
    key = hashlib.sha256(repr((FORMAT, *map(str, about))).encode()).hexdigest()[:16]
    path = cache.cache_root() / "images" / f"bcc-{key}.part"

    def whole() -> bytes | None:
        if not path.exists():
            return None
        cache.mark_used(path)
        return path.read_bytes()

    def make() -> bytes:
        data = b"".join(cpio.archive(cpio.with_parents(list(_bcc(library, package)))))
        with cache.new_file(path) as temporary:
            temporary.write_bytes(data)
        cache.drop_unused(path.parent.glob("bcc-*.part"))
        return data

    return cache.artefact(path, whole=whole, make=make)


def _bcc(library: Path, package: Path) -> Iterable[cpio.CpioEntry]:
    found = {
        _LIBRARY: library,
        _BY_NAME: library.parent / _BY_NAME,
        **elf.shared_libraries([library], error=BuildError),
    }
    for name, path in found.items():
        # A name that is a path is the dynamic loader; the base image has it where programs look for it.
        if not name.startswith("/"):
            yield cpio.file(f"usr/lib/{name}", elf.strip(path.read_bytes()), 0o755)
    modules = sysconfig.get_path("stdlib").lstrip("/")
    for path in sorted(package.glob("*.py")):
        yield cpio.file(f"{modules}/bcc/{path.name}", path.read_bytes())


def headers_archive(folder: Path, release: str, build: str, common: str) -> bytes:
    """Return an archive of a kernel's headers, where bcc looks for them.

    Args:
        folder: The headers, laid out as below the root.
        release: What `uname -r` prints on the kernel.
        build: Path of the kernel's own part, from the root.
        common: Path of the part that is shared with other flavours.
    """

    def entries() -> Iterable[cpio.CpioEntry]:
        # Below usr/lib, which /lib of the base image links to.
        yield cpio.link(f"usr/lib/modules/{release}/build", f"/{build}")
        yield cpio.link(f"usr/lib/modules/{release}/source", f"/{common}")
        for path in sorted(folder.rglob("*.h")):
            yield cpio.file(str(path.relative_to(folder)), path.read_bytes())

    return b"".join(cpio.archive(cpio.with_parents(entries())))
