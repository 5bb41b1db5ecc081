"""The guest image: its archive, its programs, and when it is built anew."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.errors import BuildError, UsageError
from harness.image import build, cpio, elf


class Read(NamedTuple):
    path: str
    mode: int
    links: int
    device: tuple[int, int]
    data: bytes


def read_archive(data: bytes) -> Iterator[Read]:
    """Read a newc archive as Documentation/driver-api/early-userspace/buffer-format.rst of the kernel describes it."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        _, mode, uid, gid, links, _, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, check) == (0, 0, 0)
        raw = data[at + 110 : at + 110 + name_size]
        assert raw.endswith(b"\0")
        at += (110 + name_size + 3) & ~3
        if raw == b"TRAILER!!!\0":
            assert not any(data[at:])
            return
        yield Read(raw[:-1].decode(), mode, links, (major, minor), data[at : at + size])
        at += (size + 3) & ~3


def test_an_archive_reads_back_as_what_went_in() -> None:
    entries = [
        cpio.folder("tmp", 0o1777),
        cpio.file("etc/hosts", b"127.0.0.1 localhost\n"),
        cpio.file("init", b"#!/bin/python\n", 0o755),
        cpio.link("bin", "usr/bin"),
        cpio.CpioEntry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3)),
    ]
    found = {read.path: read for read in read_archive(b"".join(cpio.archive(cpio.with_parents(entries))))}
    assert list(found) == ["bin", "dev", "dev/null", "etc", "etc/hosts", "init", "tmp"]
    assert found["tmp"].mode == stat.S_IFDIR | 0o1777
    assert found["tmp"].links == 2
    assert found["etc"].mode == stat.S_IFDIR | 0o755
    assert found["etc/hosts"].data == b"127.0.0.1 localhost\n"
    assert found["init"].mode == stat.S_IFREG | 0o755
    assert stat.S_ISLNK(found["bin"].mode)
    assert found["bin"].data == b"usr/bin"
    assert found["dev/null"].device == (1, 3)


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,3}", fullmatch=True), st.binary(max_size=9))))
def test_every_folder_comes_before_what_is_in_it(files: list[tuple[str, bytes]]) -> None:
    entries = [cpio.file(f"{path}.txt", data) for path, data in dict(files).items()]
    seen: set[str] = set()
    for read in read_archive(b"".join(cpio.archive(cpio.with_parents(entries)))):
        parent = read.path.rpartition("/")[0]
        assert parent == "" or parent in seen
        seen.add(read.path)
    assert {entry.path for entry in entries} <= seen


INTERPRETER = build._base_interpreter()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sections_that_are_never_loaded_go(order: str) -> None:
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    # One segment from byte 120 on, and the table of two sections behind it.
    head += struct.pack(f"{order}HHIQQQIHHHHHH", 2, 22, 1, 0, 64, 200, 0, 64, 56, 1, 64, 2, 1)
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 120, 0, 0, 30, 30, 1)
    stripped = elf.strip(head + segment + bytes(400))
    assert len(stripped) == 150
    assert struct.unpack_from(f"{order}Q", stripped, 40) == (0,)  # e_shoff


def test_a_stripped_program_runs(tmp_path: Path) -> None:
    whole = INTERPRETER.read_bytes()
    stripped = elf.strip(whole)
    assert elf.strip(stripped) == stripped
    assert struct.unpack_from("<Q", stripped, 40) == (0,)  # e_shoff
    program = tmp_path / "python3"
    program.write_bytes(stripped)
    program.chmod(0o755)
    # Its library is where the original one's is; only the file itself is on trial.
    environment = {"PYTHONHOME": sys.base_prefix, "PATH": ""}
    done = subprocess.run(
        [program, "-ISc", "import ctypes; print(6 * 7)"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(60)])
def test_other_files_than_64_bit_objects_are_unchanged(data: bytes) -> None:
    assert elf.strip(data) == data


def test_the_interpreters_libraries_are_found() -> None:
    found = elf.shared_libraries([INTERPRETER])
    assert "libc.so.6" in found
    assert any(name.startswith("/lib") and "ld-linux" in name for name in found)
    assert all(path.is_file() for path in found.values())


def fake_ldd(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "ldd").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "ldd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ldd(tmp_path, monkeypatch, "printf '\\tlinux-vdso.so.1 (0x7ff)\\n\\tlibfoo.so.9 => not found\\n'; exit 1")
    with pytest.raises(
        UsageError, match=r"python.* needs the shared library libfoo\.so\.9, which is missing"
    ) as caught:
        elf.shared_libraries([INTERPRETER])
    assert "LD_LIBRARY_PATH" in caught.value.hint
    with pytest.raises(BuildError, match=r"/env or one of 1 others needs the shared library libfoo\.so\.9"):
        elf.shared_libraries([Path("/usr/bin/env"), Path("/zzz")], error=BuildError)


@pytest.mark.parametrize("folder", ["a", "a folder (new)"])
def test_libraries_are_found_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    libc = elf.shared_libraries([INTERPRETER])["libc.so.6"]
    (tmp_path / folder).mkdir()
    shutil.copyfile(libc, tmp_path / folder / "libc.so.6")
    monkeypatch.chdir(tmp_path)
    for named in (Path(folder), tmp_path / folder):
        monkeypatch.setenv("LD_LIBRARY_PATH", str(named))
        assert elf.shared_libraries([INTERPRETER])["libc.so.6"] == tmp_path / folder / "libc.so.6"


def test_a_static_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ldd(tmp_path, monkeypatch, "echo '	not a dynamic executable' >&2; exit 1")
    with pytest.raises(BuildError, match="no shared library") as caught:
        elf.shared_libraries([INTERPRETER])
    assert "not a dynamic executable" in str(caught.value)


class Builds:
    """Stands in for the slow part: the entries of an image from one source file, counted."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.count = 0

    def entries(self, python: object, sources: set[Path]) -> list[cpio.CpioEntry]:
        self.count += 1
        sources.add(self.source)
        return [cpio.file("source", self.source.read_bytes())]


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    source = tmp_path / "source.py"
    source.write_text("one")
    builds = Builds(source)
    monkeypatch.setattr(build, "_entries", builds.entries)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return builds


def record_of(image: build.Image) -> Path:
    (record,) = image.path.parent.glob("*.json")
    return record


def test_an_image_is_built_once(builds: Builds) -> None:
    first = build.guest_image()
    assert build.guest_image() == first
    assert builds.count == 1
    assert [read.data for read in read_archive(first.path.read_bytes())] == [b"one"]


def test_an_image_is_built_again_when_a_source_changes(builds: Builds) -> None:
    first = build.guest_image()
    builds.source.write_text("two!")
    second = build.guest_image()
    assert builds.count == 2
    assert second.digest != first.digest
    assert first.path.exists()  # another process may be about to boot it


def test_a_source_of_the_same_size_that_is_newer_counts_as_changed(builds: Builds) -> None:
    build.guest_image()
    builds.source.write_text("two")
    os.utime(builds.source, ns=(0, builds.source.stat().st_mtime_ns + 1_000_000))
    build.guest_image()
    assert builds.count == 2


def test_an_image_is_built_again_when_a_source_is_gone(builds: Builds) -> None:
    build.guest_image()
    builds.source = builds.source.rename(builds.source.with_name("moved.py"))
    build.guest_image()
    assert builds.count == 2


def test_an_image_is_built_again_when_the_guest_has_a_new_module(
    builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = tmp_path / "harness" / "guest"
    guest.mkdir(parents=True)
    monkeypatch.setattr(harness, "__file__", str(guest.parent / "__init__.py"))
    build.guest_image()
    (guest / "new.py").touch()
    build.guest_image()
    assert builds.count == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"image": 1}', '{"image": "x.cpio"}'])
def test_a_damaged_record_counts_as_missing(builds: Builds, content: str) -> None:
    image = build.guest_image()
    record_of(image).write_text(content)
    assert build.guest_image() == image
    assert builds.count == 2


def test_a_record_with_an_entry_of_another_kind_counts_as_missing(builds: Builds) -> None:
    image = build.guest_image()
    known = json.loads(record_of(image).read_text())
    for number, (name, wrong) in enumerate([("image", 1), ("size", "big"), ("sources", []), ("sources", {"\0": [1]})]):
        record_of(image).write_text(json.dumps({**known, name: wrong}))
        assert build.guest_image() == image
        assert builds.count == number + 2


def test_a_truncated_image_is_built_again(builds: Builds) -> None:
    image = build.guest_image()
    whole = image.path.read_bytes()
    image.path.write_bytes(whole[:-1])
    assert build.guest_image() == image
    assert image.path.read_bytes() == whole


def test_a_build_that_fails_leaves_nothing(builds: Builds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(python: object, sources: set[Path]) -> list[cpio.CpioEntry]:
        raise BuildError("no")

    monkeypatch.setattr(build, "_entries", fail)
    with pytest.raises(BuildError):
        build.guest_image()
    assert list((tmp_path / "cache" / "images").iterdir()) == []
