"""kernel.org's folders: v6.x with tarballs and a signed list of their digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tests.unit.kernel.kernel_fakes import Signer


def publish(root: Path, tarballs: Sequence[Path], signer: Signer) -> None:
    """Put tarballs into their folders, and write the list of each.

    Args:
        root: The folder of the server.
        tarballs: Files named linux-VERSION.tar.xz.
        signer: Whose key signs the lists.
    """
    for tarball in tarballs:
        match = re.fullmatch(r"linux-(\d+)\.[\d.]+\.tar\.xz", tarball.name)
        assert match is not None, f"{tarball.name} is not named as kernel.org names its tarballs"
        folder = root / f"v{match[1]}.x"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / tarball.name).symlink_to(tarball)
    for folder in root.glob("v*.x"):
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.xz"))
        ]
        (folder / "sha256sums.asc").write_bytes(signer.sign("".join(lines)))
