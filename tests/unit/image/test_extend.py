"""Guest images with more in them: the base image followed by other archives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.guest import modules as guest_modules
from harness.image import cpio
from harness.image.build import Image
from harness.image.extend import MODULES, extended, modules_archive
from tests.unit.image.test_build import read_archive


@pytest.fixture
def base(tmp_path: Path) -> Image:
    path = tmp_path / "base.cpio"
    path.write_bytes(b"".join(cpio.archive(cpio.with_parents([cpio.file("usr/lib/base", b"base")]))))
    return Image(path, "0" * 64)


def test_an_image_that_nothing_is_added_to_is_the_base(base: Image) -> None:
    assert extended(base, []) is base


def test_archives_follow_the_base_in_order(base: Image) -> None:
    image = extended(base, [b"one!", b"two!"])
    assert image.path.read_bytes() == base.path.read_bytes() + b"one!two!"


def test_the_digest_is_that_of_base_archives_and_their_order(base: Image) -> None:
    images = [
        extended(base, [b"one!", b"two!"]),
        extended(base, [b"two!", b"one!"]),
        extended(base, [b"one!two!"]),
        extended(Image(base.path, "1" * 64), [b"one!", b"two!"]),
    ]
    assert len({image.digest for image in images}) == len({image.path for image in images}) == 4


def test_an_image_is_written_once_and_again_when_it_is_truncated(base: Image) -> None:
    image = extended(base, [b"one!"])
    written = image.path.stat()
    os.utime(image.path, (0, 0))
    assert extended(base, [b"one!"]) == image
    assert image.path.stat().st_ino == written.st_ino
    assert image.path.stat().st_mtime > 0, "it is in use: see cache.drop_unused"
    whole = image.path.read_bytes()
    image.path.write_bytes(whole[:-1])
    assert extended(base, [b"one!"]).path.read_bytes() == whole
    left = {path.name for path in base.path.parent.iterdir()}
    assert left == {"base.cpio", image.path.name}


def test_modules_lie_where_the_agent_looks_in_the_order_of_loading() -> None:
    assert f"/{MODULES}" == guest_modules.FOLDER
    names = [f"m{number}" for number in range(12)]
    archive = modules_archive([(name, name.encode()) for name in names])
    files = {read.path: read.data for read in read_archive(archive) if read.path.startswith(f"{MODULES}/")}
    assert [files[path].decode() for path in sorted(files)] == names
