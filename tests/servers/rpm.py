"""Repositories in the rpm-md format, made by rpmbuild, rpmsign and createrepo-c."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.http import Answer
from tests.unit.kernel.kernel_fakes import Signer

SPEC = """\
Name: {name}
Version: {version}
Release: {release}
Summary: A kernel
License: GPL-2.0-only
%description
A kernel.
%install
cp -a {files}/. %{{buildroot}}
%files
/*
"""


def build(
    folder: Path,
    name: str,
    version: str,
    release: str,
    files: Mapping[str, bytes],
    *,
    signer: Signer | None = None,
    compression: str = "w1.zstdio",
) -> Path:
    """Build a package.

    Args:
        folder: Where to put it.
        name: Its name.
        version: Its version.
        release: Its release.
        files: Its files.
        signer: Whose key signs it; None for no signature.
        compression: As rpm names it: "w1.zstdio", "w6.xzdio", "w6.gzdio".
    """
    top = folder / "build"
    content = top / "content"
    for path, data in files.items():
        (content / path).parent.mkdir(parents=True, exist_ok=True)
        (content / path).write_bytes(data)
    (top / "x.spec").write_text(SPEC.format(name=name, version=version, release=release, files=content))
    defines = {
        "_topdir": str(top),
        "_rpmdir": str(top / "rpms"),
        "_build_name_fmt": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
        "_binary_payload": compression,
        # The files are a kernel's: nothing of them is to be changed or described.
        "debug_package": "%{nil}",
        "__os_install_post": "%{nil}",
        "_build_id_links": "none",
    }
    _run(
        [
            "rpmbuild",
            "-bb",
            "--quiet",
            "--nodeps",
            "--noclean",
            "--target",
            "x86_64",
            *_words(defines),
            str(top / "x.spec"),
        ]
    )
    [made] = (top / "rpms").glob("*.rpm")
    if signer is not None:
        sign(made, signer)
    target = folder / made.name
    shutil.move(made, target)
    shutil.rmtree(top)
    return target


def sign(package: Path, signer: Signer) -> None:
    """Put a signature into a package."""
    defines = {
        "_gpg_path": str(signer.home),
        "_gpg_name": signer.who,
        "__gpg": shutil.which("gpg") or "gpg",
        "_gpg_sign_cmd_extra_args": "--batch --pinentry-mode loopback --passphrase ''",
    }
    _run(["rpmsign", "--addsign", *_words(defines), str(package)])


def index(folder: Path, signer: Signer | None = None, *words: str) -> None:
    """Write the metadata of a repository.

    Args:
        folder: The packages.
        signer: Whose key signs it; None for no signature.
        words: More options of createrepo_c.
    """
    _run(["createrepo_c", "--quiet", *words, str(folder)])
    repomd = folder / "repodata" / "repomd.xml"
    if signer is not None:
        repomd.with_name("repomd.xml.asc").write_bytes(signer.sign_detached(repomd.read_bytes()))


def _words(defines: Mapping[str, str]) -> list[str]:
    return [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"


class Folder:
    """A site over a folder of this machine.

    Args:
        root: The folder.
        newest_first: The order of its page of links.
    """

    def __init__(self, root: Path, *, newest_first: bool = False) -> None:
        self.root = root
        self.newest_first = newest_first

    def answer(self, path: str, query: str) -> Answer | None:
        """Answer with a file, or with a folder's page of links."""
        place = self.root / path
        if place.is_file():
            kind = {".xml": "text/xml", ".asc": "text/plain"}.get(place.suffix, "application/octet-stream")
            return Answer(place, kind)
        if place.is_dir():
            links = "".join(
                f'<a href="{one.name}{"/" * one.is_dir()}">{one.name}</a>\n'
                for one in sorted(place.iterdir(), reverse=self.newest_first)
            )
            return Answer(f"<html><body>{links}</body></html>".encode(), "text/html")
        return None
