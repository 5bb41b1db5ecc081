"""The harness's folders on disk: where they are, and how complete entries are put into them.

An entry is made in a temporary sibling and renamed into place, so a reader never sees an incomplete entry. A lock file
beside it prevents two processes from making it twice. The maker of a temporary sibling holds a lock file for it; the
next process removes siblings whose lock nobody holds.

:func:`artefact` keeps compiled objects, guest images and their parts, saved machines, a kernel's headers, and whether
KVM works. Other cached things need another procedure. A kernel in :mod:`harness.kernel.cache` is searched in several
places before it is made, and is made again while the old one is in use. A kept build tree and the results of mutants
belong to one process as long as it works with them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from harness.errors import CacheError
from harness.util import locks

T = TypeVar("T")

TEMPORARY = ".tmp-"

_GUARD = ".held"
_OURS = re.compile(re.escape(TEMPORARY) + r"(x[0-9a-f]{8}|[0-9]+-[0-9]+-[0-9a-f]{6})-.")
"""What names of temporaries begin with; the second form is that of an earlier version."""
_DAY = 86400.0


def cache_root() -> Path:
    """Return the cache folder: $HARNESS_CACHE, or kernel-harness in the user's cache folder. It may not exist yet.

    Raises:
        CacheError: Something that is not a folder is in its place.
    """
    named = os.environ.get("HARNESS_CACHE")
    root = Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("kernel-harness")
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir():
        raise _unusable(root, NotADirectoryError(errno.ENOTDIR, f"{nearest} is not a folder"))
    return root


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, *, timeout: float = 1800.0) -> Iterator[None]:
    """Hold the lock file `path` while the body runs; the kernel drops it when the process dies.

    Args:
        path: The lock file; created when missing, removed afterwards.
        timeout: Seconds to wait for another holder.

    Raises:
        CacheError: Another process holds it for longer, or it cannot be created.
    """
    with disk_errors(path):
        _make_folder(path.parent)
        held = locks.hold(path, wait=timeout)
    if held is None:
        raise CacheError(
            f"another process has held {path} for {timeout:g} s",
            expected="the other harness process to finish",
            hint="find the process that holds it (fuser, lsof), then end it or wait",
        )
    try:
        yield
    finally:
        locks.release(path, held)


def artefact(key: Path, *, whole: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Return something that the cache keeps; made where it is absent or damaged, by one process at a time.

    Args:
        key: The path that it is kept under, a folder, a file or the beginning of their names; `KEY.lock` is its lock.
        whole: Returns it if it is there and whole, else None. Asked without the lock, and again under it. It touches
            what is there, where :func:`drop_unused` goes by that.
        make: Makes it, whole or not at all: with :func:`new_folder`, :func:`new_file` and :func:`write_record`.

    Raises:
        CacheError: Another process holds the lock for too long, or it cannot be made.
    """
    found = whole()
    if found is None:
        with locked(key.with_name(f"{key.name}.lock")):
            found = whole()
            if found is None:
                found = make()
    return found


def from_record(path: Path, read: Callable[[Any], T | None]) -> T | None:
    """Return what `read` makes of the record at a path; None where there is none, or a damaged one.

    Args:
        path: A JSON file, as :func:`write_record` writes it.
        read: Gets the content. What it cannot read, since another version wrote it or a file that the record names is
            gone, counts as damaged: it need not look out for OSError, LookupError, ValueError, TypeError,
            AttributeError, RecursionError.
    """
    try:
        return read(json.loads(path.read_text()))
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def write_record(path: Path, content: object) -> None:
    """Write what is known of an artefact, as JSON.

    Raises:
        CacheError: The disk is full or the folder cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content))


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Make the folder `final`, complete or not at all: yields a temporary sibling, renamed when the body succeeds.

    Raises:
        CacheError: The disk is full or the folder cannot be written.
    """
    with temporary_of(final) as folder:
        folder.mkdir()
        yield folder
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """Make the file `final`, complete or not at all: yields a temporary sibling's path, renamed on success.

    Raises:
        CacheError: The disk is full or the folder cannot be written.
    """
    with temporary_of(final) as path:
        yield path
        path.replace(final)


@contextmanager
def temporary_of(final: Path) -> Iterator[Path]:
    """Yield an unused path beside `final`; what is there afterwards is removed, by :func:`sweep` if need be.

    Raises:
        CacheError: The disk is full or the folder cannot be written.
    """
    temporary = final.parent / f"{TEMPORARY}x{os.urandom(4).hex()}-{final.name}"
    with disk_errors(final):
        _make_folder(final.parent)
        sweep(final.parent)
        guard = _guard_of(temporary)
        held = locks.hold(guard)
        assert held is not None, "no other process knows its name"
        try:
            yield temporary
        finally:
            _remove(temporary)
            locks.release(guard, held)


def _guard_of(temporary: Path) -> Path:
    """Return the lock file that is held as long as a temporary is in use."""
    return temporary.with_name(f"{temporary.name}{_GUARD}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise _unusable(folder, error) from error


@contextmanager
def disk_errors(final: Path) -> Iterator[None]:
    """Turn the error of a full or unwritable disk, while writing `final`, into a :class:`CacheError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(
                f"no space left while writing {final}",
                expected="room in the cache folder",
                hint="`harness kernels prune`, or set HARNESS_CACHE to a larger disk",
            ) from error
        if error.errno in _UNWRITABLE:
            raise _unusable(final.parent, error) from error
        raise


_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOLCK)


def sweep(folder: Path) -> list[Path]:
    """Remove incomplete entries of ended processes from `folder`; return what was removed."""
    found = (path.name for path in folder.glob(f"{TEMPORARY}*") if _OURS.match(path.name))
    names = {name.removesuffix(_GUARD) for name in found}
    removed = [path for path in (folder / name for name in sorted(names)) if is_abandoned(path)]
    for path in removed:
        _remove(path)
        _guard_of(path).unlink(missing_ok=True)
    return removed


def is_abandoned(path: Path) -> bool:
    """Return whether nobody uses a temporary any more: nobody holds its lock file.

    One without a lock file, such as an earlier version made, counts as abandoned after a day.
    """
    guard = _guard_of(path)
    if guard.exists():
        return not locks.is_held(guard)
    try:
        return time.time() - path.lstat().st_mtime > _DAY
    except FileNotFoundError:
        return False  # it is complete, and has its name


def is_writable(path: Path) -> bool:
    """Return whether this process may change what is at a path, or in the nearest folder above that exists."""
    for place in (path, *path.parents):
        if os.access(place, os.W_OK):
            return True
        # Another process may remove it or make it anew between two looks.
        if place.exists() and not os.access(place, os.W_OK):
            return False
    return False


def mark_used(path: Path) -> None:
    """Update the modification time of something in use, for :func:`drop_unused`; a cache may be read-only."""
    try:
        os.utime(path)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise


UNUSED_DAYS = 14.0
"""Days that an unused image or template is kept: kernels are replaced, and each takes some 20 or 150 MB."""


def drop_unused(paths: Iterable[Path]) -> list[Path]:
    """Remove the files and folders that have not been used for UNUSED_DAYS; return what was removed.

    Users of an entry update its modification time with :func:`mark_used`.
    """
    removed = []
    for path in paths:
        if time.time() - path.stat().st_mtime > UNUSED_DAYS * _DAY:
            _remove(path)
            removed.append(path)
    return removed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> CacheError:
    return CacheError(
        f"the cache folder {folder} cannot be written: {error.strerror}",
        expected="a folder this user may write",
        hint="set HARNESS_CACHE to such a folder",
    )


_PLAIN = re.compile(r"[A-Za-z0-9._/+@%-]{1,49}")

_RUN_PREFIX = "run-"

_OWNER = "owner"
"""Name of the file, in a run folder, that the process of the run holds the lock of."""


def runs_root() -> Path:
    """Return the folder for files of running machines (sockets, logs), for this user alone.

    Raises:
        CacheError: A folder of that name belongs to another user.
    """
    # A socket's complete path has at most 107 bytes (struct sockaddr_un), so a long TMPDIR cannot be used; nor one
    # with a comma or a blank, which separate QEMU's and vng's options.
    base = next(
        Path(name)
        for name in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")  # noqa: S108
        if _PLAIN.fullmatch(name) and os.access(name, os.W_OK)
    )
    root = base / f"kernel-harness-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise CacheError(
            f"{root} is not a folder that only this user can enter",
            expected="a folder of mode 0700 that belongs to this user",
            hint=f"remove {root}, or set XDG_RUNTIME_DIR",
        )
    return root


_held: dict[Path, int] = {}
"""The run folders of this process, each with the descriptor of its lock."""


def run_folder() -> Path:
    """Make a new folder below :func:`runs_root`, which this process holds until :func:`remove_run_folder`."""
    root, name = runs_root(), os.urandom(6).hex()
    # It gets the name that others look for when it is held.
    made = root / f".{_RUN_PREFIX}{name}"
    made.mkdir(mode=0o700)
    held = locks.hold(made / _OWNER)
    assert held is not None, "no other process knows its name"
    folder = made.rename(root / f"{_RUN_PREFIX}{name}")
    _held[folder] = held
    return folder


def remove_run_folder(folder: Path) -> None:
    """Remove a folder that :func:`run_folder` made; does nothing when it was removed before."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder in _held:
        os.close(_held.pop(folder))


def abandoned_runs() -> list[Path]:
    """Return the run folders of processes that were killed before they could clean up."""
    root = runs_root()
    return [
        *(folder for folder in root.glob(f"{_RUN_PREFIX}*") if not locks.is_held(folder / _OWNER)),
        *(folder for folder in root.glob(f".{_RUN_PREFIX}*") if is_abandoned(folder)),
    ]
