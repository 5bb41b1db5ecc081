"""Ubuntu's server of mainline builds: a page of builds, and for each a folder with packages and CHECKSUMS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tests.unit.kernel.kernel_fakes import Signer


def add(root: Path, name: str, files: Mapping[str, bytes], *, signer: Signer | None = None, top: bool = False) -> Path:
    """Add a build.

    Args:
        root: The folder of the server.
        name: The build: "v6.6.17".
        files: Its packages, by file name.
        signer: Whose key signs its CHECKSUMS; None: there is no signature.
        top: Put the packages into the build's own folder, as old builds have them.
    """
    folder = root / name if top else root / name / "amd64"
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    blocks = []
    for title, digest in (("Sha1", hashlib.sha1), ("Sha256", hashlib.sha256)):
        blocks.append(f"# Checksums-{title}:\n")
        blocks += [f"{digest(data).hexdigest()}  {file}\n" for file, data in files.items()]
    checksums = "".join(blocks).encode()
    (folder / "CHECKSUMS").write_bytes(checksums)
    if signer is not None:
        (folder / "CHECKSUMS.gpg").write_bytes(signer.sign_detached(checksums))
    return folder
