"""What may go between host and guest: names and links that would lead elsewhere are refused on both ways."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import struct
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import UsageError
from harness.guest import calls, files
from harness.remote import transfer
from tests.unit.vm.specs import spec_of

if TYPE_CHECKING:
    from harness.guest.calls import Entry


class FakeProcess:
    """Serves the requests of a guest process from a folder of this machine; may be told to lie about entries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = types.SimpleNamespace(spec=spec_of("/k", "/i"))
        self.lies: list[Entry] | None = None
        self.contents: bytes | None = None

    def ask(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if call is calls.Files.entries and self.lies is not None:
            return self.lies
        if call is calls.Files.read and self.contents is not None:
            return self.contents[arguments[1] :]
        if call is calls.Files.put:
            files.put([(f"{self.root}{path}", *rest) for path, *rest in arguments[0]])
            return None
        path, *rest = arguments or (keywords.pop("path"),)
        return getattr(files, call.__name__)(str(self.root) + path, *rest, **keywords)


@pytest.fixture
def process(tmp_path: Path) -> Any:
    (tmp_path / "guest").mkdir()
    return FakeProcess(tmp_path / "guest")


def tree(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found


def test_a_folder_goes_there_and_back_unchanged(process: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below" / "deeper").mkdir(parents=True)
    (source / "run").write_text("#!")
    (source / "run").chmod(0o750)
    (source / "below" / "data").write_text("x" * 10)
    (source / "below" / "link").symlink_to("../run")
    (source / "empty").touch()
    transfer.push(process, source, "/opt/it")
    assert tree(process.root / "opt/it") == tree(source)
    transfer.pull(process, "/opt/it", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)
    assert (tmp_path / "back" / "run").stat().st_mode & 0o777 == 0o750


def test_a_large_file_goes_in_pieces(process: Any, tmp_path: Path) -> None:
    content = os.urandom((1 << 20) * 2 + 17)
    transfer.push(process, content, "/data")
    assert transfer.fetch(process, "/data") == content


@pytest.mark.parametrize("target", ["data", "/../etc/passwd", "/a/../../b", "", "/", "/a\0b"])
def test_a_target_that_is_not_a_clean_path_is_refused(process: Any, target: str) -> None:
    with pytest.raises(UsageError, match="not a path in the guest"):
        transfer.push(process, b"", target)


@pytest.mark.parametrize("points_to", ["/etc/passwd", "..", "../outside", "below/../../outside"])
def test_a_link_that_leads_out_is_not_pushed(process: Any, tmp_path: Path, points_to: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to(points_to)
    with pytest.raises(UsageError, match="leads out of it"):
        transfer.push(process, tmp_path / "source", "/opt")
    assert not (process.root / "opt").exists()


def test_a_device_is_not_pushed(process: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "pipe")
    with pytest.raises(UsageError, match="pipe is not a file"):
        transfer.push(process, tmp_path / "source", "/opt")


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", "file", 0o644, ""),
        ("/etc/evil", "file", 0o644, ""),
        ("a/../../evil", "folder", 0o755, ""),
        ("link", "link", 0o777, "/etc"),
        ("link", "link", 0o777, "../.."),
        ("device", "other", 0o644, ""),
    ],
)
def test_a_guest_that_lies_writes_nothing_elsewhere(process: Any, tmp_path: Path, entry: Entry) -> None:
    (process.root / "opt").mkdir()
    process.lies = [entry]
    before = tree(tmp_path)
    with pytest.raises(UsageError):
        transfer.pull(process, "/opt", tmp_path / "back")
    assert tree(tmp_path) == before


FOLDER, FILE = ("folder", 0o755, ""), ("file", 0o644, "")


def link(points_to: str) -> tuple[str, int, str]:
    return ("link", 0o777, points_to)


@pytest.mark.parametrize(
    "entries",
    [
        # A link to the folder itself makes names of links look deeper than they lie.
        [("a", *link(".")), ("a/a/x", *link("../../victim")), ("x/authorized_keys", *link("y"))],
        [("a", *link("b")), ("b", *FOLDER), ("a/file", *FILE)],
        [("a", *FILE), ("a/file", *FILE)],
        [("unheard/of", *FILE)],
        [("a", *FILE), ("a", *FILE)],
        [("a", *FOLDER), ("a", *FOLDER)],
        [("a", *link("b")), ("a", *link("c"))],
        [("a", *link(""))],
        [("./a", *FILE)],
        [("a/", *FOLDER)],
        [("a", *FOLDER), ("a//b", *FILE)],
        [("", *FOLDER)],
        [(".", *FOLDER)],
        [("a\0b", *FILE)],
        [("\x1b[2J", *FILE)],
        [("a\nb", *FILE)],
        [("a\x9b", *FILE)],
        [("a", *link("b\x1b[2J"))],
        [("pipe", "other", 0o644, "")],
    ],
    ids=repr,
)
def test_a_tree_that_does_not_lie_below_its_folder_is_not_pulled(
    process: Any, tmp_path: Path, entries: list[Entry]
) -> None:
    (process.root / "opt").mkdir()
    for name in ("a", "file"):
        (process.root / "opt" / name).touch()
    process.lies = entries
    process.contents = b"text"
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="/opt cannot be pulled: ") as caught:
        transfer.pull(process, "/opt", tmp_path / "back")
    assert all(letter.isprintable() or letter == "\n" for letter in str(caught.value))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_no_file_of_a_guest_has_more_than_permissions(process: Any, tmp_path: Path, umask: int) -> None:
    (process.root / "opt").mkdir()
    process.lies = [("folder", "folder", 0o3755, ""), ("folder/file", "file", 0o6755, "")]
    process.contents = b"text"
    before = os.umask(umask)
    try:
        transfer.pull(process, "/opt", tmp_path / "back")
    finally:
        os.umask(before)
    assert (tmp_path / "back" / "folder").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "back" / "folder" / "file").stat().st_mode & 0o7777 == 0o755


def test_names_that_differ_in_case_alone_are_two_files(process: Any, tmp_path: Path) -> None:
    for name in ("readme", "README"):
        transfer.push(process, name.encode(), f"/opt/{name}")
    transfer.pull(process, "/opt", tmp_path / "back")
    assert tree(tmp_path / "back") == {"readme": "readme", "README": "README"}


def test_sizes_are_bounded(process: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in "abc":
        (tmp_path / "source" / name).write_bytes(bytes(40))
    with pytest.raises(UsageError, match="120 bytes"):
        transfer.push(process, tmp_path / "source", "/opt", limit=100)
    transfer.push(process, tmp_path / "source", "/opt")
    with pytest.raises(UsageError, match="at most 100 bytes"):
        transfer.pull(process, "/opt", tmp_path / "back", limit=100)
    assert not (tmp_path / "back").exists()
    with pytest.raises(UsageError, match="40 bytes"):
        transfer.fetch(process, posixpath.join("/opt", "a"), limit=39)


def test_nothing_is_overwritten_by_a_pulled_folder(process: Any, tmp_path: Path) -> None:
    transfer.push(process, b"new", "/opt/a")
    (tmp_path / "back").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        transfer.pull(process, "/opt", tmp_path / "back")


def test_a_script_is_not_a_program(process: Any, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match="cannot be pushed as a program"):
        transfer.push_program(process, tmp_path / "script")


def elf_for(machine: int) -> bytes:
    """Return an ELF program without segments for a machine (e_machine)."""
    return (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 0, 0, 64, 56, 0, 0, 0, 0)
    )


@pytest.mark.parametrize(
    ("guest", "program", "message"),
    [
        ("amd64", 183, "it is a program for arm64, and the guest of 6.1 is x86-64"),
        ("arm64", 62, "it is a program for x86-64, and the guest of 6.1 is arm64"),
        ("arm64", 8, "it is a program for EM_MIPS, and the guest of 6.1 is arm64"),
    ],
)
def test_a_program_of_another_architecture_is_refused_before_it_is_sent(
    process: Any, tmp_path: Path, guest: str, program: int, message: str
) -> None:
    spec = spec_of("/k", "/i")
    kernel = dataclasses.replace(spec.kernel, architecture=guest)
    process.machine = types.SimpleNamespace(spec=dataclasses.replace(spec, kernel=kernel))
    (tmp_path / "program").write_bytes(elf_for(program))
    with pytest.raises(UsageError, match=message) as caught:
        transfer.push_program(process, tmp_path / "program")
    assert "-gcc" in str(caught.value)
    assert tree(process.root) == {}


def test_a_program_of_the_guests_architecture_is_sent(process: Any, tmp_path: Path) -> None:
    spec = spec_of("/k", "/i")
    kernel = dataclasses.replace(spec.kernel, architecture="arm64")
    process.machine = types.SimpleNamespace(spec=dataclasses.replace(spec, kernel=kernel))
    (tmp_path / "program").write_bytes(elf_for(183))
    assert transfer.push_program(process, tmp_path / "program") == "/usr/local/bin/program"
    assert (process.root / "usr/local/bin/program").read_bytes() == elf_for(183)
