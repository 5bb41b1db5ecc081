"""This machine's own files as a root file system: which of them a guest gets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.image import host
from harness.image.rootfs import named, rootfs
from harness.image.tree import FileTree
from harness.util import architecture
from harness.util.proc import run
from tests.needs import needs_features


def write(path: Path, mode: int = 0o644, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    path.chmod(mode)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one file of each kind."""
    made = tmp_path / "machine"
    write(made / "usr/bin/tool", 0o4755)
    write(made / "etc/passwd")
    write(made / "etc/shadow", 0o640)
    write(made / "opt/keys/key", 0o644)
    (made / "opt/keys").chmod(0o711)
    write(made / 'opt/a "quoted" name')
    (made / "bin").symlink_to("usr/bin")
    for place in ("proc/1", "root/own", "home/me/own", "tmp/t", "run/r", "work/w", "var/cache/c", "var/lib/l"):
        write(made / place)
    (made / "var/run").symlink_to("/run")
    (made / "opt/etc").mkdir()
    write(made / "opt/cached/templates/ram")
    monkeypatch.setenv("HARNESS_CACHE", str(made / "opt/cached"))
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(made / "opt/etc")  # the path of a socket may have 107 bytes
        one.bind("s")
        os.chdir(here)
    return made


def test_a_guest_gets_what_every_user_may_read_and_nothing_of_users_or_of_the_kernel(root: Path) -> None:
    places = [place for place, _ in host.host_files("host", root)]
    assert sorted(places) == [
        *("bin", "etc", "etc/passwd", "home", "opt", "opt/cached", "opt/etc", "opt/keys", "proc", "root", "run"),
        *("tmp", "usr", "usr/bin", "usr/bin/tool", "var", "var/cache", "var/lib", "var/run", "work"),
    ]


def test_of_folders_that_are_not_named_there_are_those_at_the_top_and_they_are_empty(root: Path) -> None:
    places = [place for place, _ in host.host_files("host:/usr/bin:/etc", root)]
    assert places == [
        *("bin", "home", "opt", "proc", "root", "run", "tmp", "var", "var/cache", "var/lib", "var/run", "work"),
        *("usr/bin", "usr/bin/tool", "etc", "etc/passwd"),
    ]
    assert places == [place for place, _ in host.host_files("host:/bin/:/etc", root)]


@pytest.mark.parametrize("what", ["host:", "host:usr", "host:/", "host:/usr/../..", "host:/usr/none"])
def test_what_is_no_folder_is_refused(root: Path, what: str) -> None:
    with pytest.raises(UsageError, match="is not a folder of this machine"):
        host.host_files(what, root)


def test_too_much_is_refused_with_what_is_large_and_what_to_do_instead(root: Path) -> None:
    write(root / "usr/share/large", size=2 << 20)
    write(root / "usr/share/other", size=2 << 20)
    with pytest.raises(UsageError, match=r"have more than 1 MiB \(/usr over 2 MiB, ") as caught:
        host.host_files("host", root, 1 << 20)
    assert "--push PATH" in caught.value.hint
    host.host_files("host:/etc", root, 1 << 20)


def test_what_is_gone_or_unreadable_meanwhile_is_left_out(root: Path, tmp_path: Path) -> None:
    files = host.host_files("host:/usr:/etc", root)
    (root / "etc/passwd").unlink()
    (tmp_path / "contents").mkdir()
    tree = FileTree("host", tmp_path / "contents")
    tree.add_files(root, files)
    found = {place: (node.kind, node.mode) for place, node in tree.nodes.items()}
    assert {place: found[place] for place in found if place.startswith(("bin", "etc", "run", "usr"))} == {
        "run": ("folder", 0o755),
        "bin": ("link", 0o777),
        "usr": ("folder", 0o755),
        "usr/bin": ("folder", 0o755),
        "usr/bin/tool": ("file", 0o4755),
        "etc": ("folder", 0o755),
    }
    assert (tmp_path / "contents/usr/bin/tool").stat().st_mode & 0o777 == 0o600


def test_a_folder_of_that_name_is_meant_by_its_path(tmp_path: Path) -> None:
    assert named(Path("host"), tmp_path) == Path("host")
    assert named(Path("host:/usr/bin"), tmp_path) == Path("host:/usr/bin")
    assert named(Path("hosts"), tmp_path) == tmp_path / "hosts"
    assert named(tmp_path / "host", tmp_path) == tmp_path / "host"


def test_a_guest_of_another_architecture_is_refused() -> None:
    host.check_architecture(architecture.own_name())
    other = next(one for one in architecture.known() if one != architecture.own_name())
    with pytest.raises(UsageError, match="this machine's own files are for"):
        host.check_architecture(other)


def test_the_image_has_them_and_is_made_again_when_one_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_features("rootfs")
    monkeypatch.setattr(host, "ROOT", root)
    made = rootfs(Path("host"), architecture.own_name())
    contents = made.contents()
    assert {*contents.files, *contents.links} == {"/bin", "/etc/passwd", "/usr/bin/tool", "/var/run"}
    assert contents.find("/bin/tool") == "/usr/bin/tool"
    assert "Mode:  04755" in run(["debugfs", "-R", "stat /usr/bin/tool", made.path], timeout=30).stdout
    assert rootfs(Path("host"), architecture.own_name()) == made
    os.utime(root / "etc/shadow", (5, 5))  # no guest has it
    assert rootfs(Path("host"), architecture.own_name()) == made
    os.utime(root / "etc/passwd", (5, 5))
    assert rootfs(Path("host"), architecture.own_name()) != made
