"""The cache's folders: entries are there whole or not at all, whoever dies in the middle."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.errors import CacheError
from harness.util import cache
from tests.needs import needs_program

Maker = Callable[[Path], AbstractContextManager[Path]]


def fill(path: Path, maker: Maker, content: str) -> None:
    target = path / "data" if maker is cache.new_folder else path
    target.write_text(content)


def content_of(path: Path) -> str:
    return (path / "data" if path.is_dir() else path).read_text()


makers = pytest.mark.parametrize("maker", [cache.new_file, cache.new_folder])


@makers
def test_an_entry_appears_when_it_is_whole(tmp_path: Path, maker: Maker) -> None:
    final = tmp_path / "a" / "entry"
    with maker(final) as temporary:
        fill(temporary, maker, "one")
        assert not final.exists()
    assert content_of(final) == "one"
    assert list(final.parent.iterdir()) == [final]


@makers
def test_an_entry_is_replaced_whole(tmp_path: Path, maker: Maker) -> None:
    final = tmp_path / "entry"
    for content in ("one", "two"):
        with maker(final) as temporary:
            fill(temporary, maker, content)
    assert content_of(final) == "two"


@makers
def test_a_maker_that_fails_leaves_the_old_entry_and_nothing_else(tmp_path: Path, maker: Maker) -> None:
    final = tmp_path / "entry"
    with maker(final) as temporary:
        fill(temporary, maker, "one")
    with pytest.raises(KeyError), maker(final) as temporary:  # noqa: PT012
        fill(temporary, maker, "half")
        raise KeyError
    assert content_of(final) == "one"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("maker", ["new_file", "new_folder"])
def test_what_a_killed_maker_left_is_swept_by_the_next(tmp_path: Path, maker: str) -> None:
    code = f"""
import os, pathlib, signal
from harness.util import cache
with cache.{maker}(pathlib.Path({str(tmp_path / "entry")!r})) as path:
    (path / "data" if path.is_dir() else path).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name.startswith(cache.TEMPORARY) for name in left] == [True, True]
    assert left[1] == f"{left[0]}.held"
    with cache.new_file(tmp_path / "another") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_what_a_living_maker_makes_is_left_alone(tmp_path: Path) -> None:
    with cache.new_file(tmp_path / "slow") as temporary:
        temporary.write_text("half")
        assert cache.sweep(tmp_path) == []
        assert temporary.exists()


def test_a_maker_in_another_pid_namespace_is_left_alone(tmp_path: Path) -> None:
    needs_program("unshare", "util-linux")
    code = f"""
import pathlib, sys
from harness.util import cache
with cache.new_folder(pathlib.Path({str(tmp_path / "entry")!r})) as path:
    (path / "data").write_text("half")
    folder = cache.run_folder()
    print(folder, flush=True)
    sys.stdin.read()
    cache.remove_run_folder(folder)
"""
    command = ["unshare", *(["--user", "--map-current-user"] if os.getuid() else []), "--pid", "--fork"]
    command += [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        line = other.stdout.readline()
        if not line:
            pytest.skip("this machine allows no user and PID namespaces")
        assert cache.sweep(tmp_path) == []
        assert Path(line.strip()) not in cache.abandoned_runs()
        other.communicate("")
    assert (tmp_path / "entry" / "data").read_text() == "half"


def test_what_an_earlier_version_left_is_swept_after_a_day(tmp_path: Path) -> None:
    old, new = (tmp_path / f"{cache.TEMPORARY}17-{number}-abcdef-entry" for number in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert cache.sweep(tmp_path) == [old]
    assert new.exists()


def test_what_others_put_there_is_never_swept(tmp_path: Path) -> None:
    for name in (".tmp-x", ".tmp-1-", "entry", f"{cache.TEMPORARY}nobody-1-x", f"{cache.TEMPORARY}x1234-entry"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert cache.sweep(tmp_path) == []


@makers
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_nothing_stays(tmp_path: Path, maker: Maker, number: int) -> None:
    with pytest.raises(CacheError, match="no space left") as caught, maker(tmp_path / "entry") as temporary:  # noqa: PT012
        fill(temporary, maker, "half")
        raise OSError(number, os.strerror(number))
    assert "HARNESS_CACHE" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_really_is_full_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no space left"), cache.disk_errors(tmp_path / "entry"):
        Path("/dev/full").write_text("x")


def test_a_cache_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(CacheError, match="cannot be written"), cache.new_file(tmp_path / "cache" / "entry"):
        pytest.fail("the body must not run")
    for path in ("cache/entry.lock", "cache/below/entry.lock"):
        with pytest.raises(CacheError, match="cannot be written"), cache.locked(tmp_path / path):
            pytest.fail("the body must not run")


def test_an_error_of_another_kind_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as caught, cache.new_file(tmp_path / "entry"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, CacheError)


def test_a_lock_keeps_others_out_until_it_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "entry.lock"
    code = f"""
import sys
from pathlib import Path
from harness.util import cache
with cache.locked(Path({str(lock)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CacheError, match="another process has held"), cache.locked(lock, timeout=0.1):
            pytest.fail("two hold it")
        holder.kill()
        holder.wait()
        with cache.locked(lock, timeout=10):  # the kernel dropped it with its holder
            pass
    assert list(lock.parent.iterdir()) == []


def test_one_at_a_time_holds_a_lock_whose_file_goes_with_each_holder(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with cache.locked(lock, timeout=60):
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(4) as workers:
        for done in [workers.submit(work) for _ in range(4)]:
            done.result()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", "~/here")
    assert cache.cache_root() == Path.home() / "here"
    monkeypatch.setenv("HARNESS_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.cache_root() == Path("/elsewhere/kernel-harness")


@pytest.mark.parametrize("below", ["", "one/two"])
def test_a_cache_in_the_place_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(CacheError, match="file is not a folder"):
        cache.cache_root()


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Not below pytest's folder, whose name may be too long for a socket's.
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return cache.runs_root()


def test_run_folders_are_the_users_alone(runs: Path) -> None:
    folder = cache.run_folder()
    try:
        assert folder.parent == runs
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder not in cache.abandoned_runs()
        assert len(str(folder / "channel.sock")) < 100
    finally:
        cache.remove_run_folder(folder)
    assert not folder.exists()


def test_a_run_folder_whose_owner_is_gone_is_abandoned(runs: Path) -> None:
    code = "from harness.util import cache; print(cache.run_folder())"
    made = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    try:
        assert made in cache.abandoned_runs()
    finally:
        cache._remove(made)


def test_a_runs_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / f"t-{os.urandom(4).hex()}"
    short.mkdir()
    try:
        folder = short / f"kernel-harness-{os.getuid()}"
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
        with pytest.raises(CacheError, match="only this user can enter"):
            cache.runs_root()
    finally:
        cache._remove(short)


class Kept:
    """Something that the cache keeps: made of a word, and damaged when its file holds another."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "kept.json"
        self.made = 0

    def get(self) -> str:
        return cache.artefact(self.record.with_suffix(""), whole=self._whole, make=self._make)

    def _whole(self) -> str | None:
        return cache.from_record(self.record, lambda known: known["word"] if known["word"] == "whole" else None)

    def _make(self) -> str:
        self.made += 1
        cache.write_record(self.record, {"word": "whole"})
        return "whole"


def test_what_is_kept_is_made_once(tmp_path: Path) -> None:
    first, second = Kept(tmp_path / "new"), Kept(tmp_path / "new")
    assert [first.get(), second.get()] == ["whole", "whole"]
    assert (first.made, second.made) == (1, 0)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", "{}", '{"word": "half"}'])
def test_a_damaged_artefact_is_made_again(tmp_path: Path, content: str) -> None:
    kept = Kept(tmp_path)
    kept.record.write_text(content)
    assert kept.get() == "whole"
    assert kept.made == 1
    assert Kept(tmp_path)._whole() == "whole"


def test_who_waited_for_the_lock_takes_what_the_other_made(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    asked: list[bool] = []

    def whole() -> str | None:
        asked.append(True)
        if len(asked) == 1:
            cache.write_record(kept.record, {"word": "whole"})  # another process makes it just now
            return None
        return kept._whole()

    assert cache.artefact(tmp_path / "kept", whole=whole, make=kept._make) == "whole"
    assert (len(asked), kept.made) == (2, 0)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_folder_that_another_process_makes_anew_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    look = os.access

    def access(path: Path, mode: int) -> bool:
        if path != folder:
            return look(path, mode)
        monkeypatch.setattr(os, "access", look)
        folder.rmdir()
        found = look(path, mode)
        if comes_back:
            folder.mkdir()
        return found

    monkeypatch.setattr(os, "access", access)
    assert cache.is_writable(folder)
    assert folder.exists() is comes_back
