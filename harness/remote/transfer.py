"""Transfers files between host and guest, and checks kind, path and size."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import ELFError

from harness.errors import GuestCallError, UsageError
from harness.guest import calls
from harness.image import elf
from harness.remote.pulled import PulledFolder, stays_inside
from harness.util import architecture, cache
from harness.vm.guest_process import GuestProcess

LIMIT = 64 << 20
"""Maximum bytes of one push or pull; a guest keeps its files in memory."""

_PIECE = 1 << 20
_ENTRY_COST = 256
"""Bytes of a piece that the path of an entry may take."""
_PROGRAMS = "/usr/local/bin"
_LIBRARIES = "/usr/lib"


def push(
    process: GuestProcess, source: Path | str | bytes, target: str, *, mode: int | None = None, limit: int = LIMIT
) -> None:
    """Send bytes, a file or a folder to the guest.

    Args:
        process: The guest process that writes it.
        source: A path of the host, or the content itself.
        target: Its absolute path in the guest.
        mode: Permission bits of a file; default: those of the source, 0o644 for bytes.
        limit: Maximum bytes in total.

    Raises:
        UsageError: The source does not exist, is too large, is neither file nor folder, or contains something that is
            neither, or a link that leads out of it; or the target is not a clean absolute path.
        GuestCallError: It cannot be written there.
    """
    place = checked_target(target)
    if isinstance(source, bytes):
        _check_size(len(source), limit, "the content to push")
        _send(process, place, source, mode if mode is not None else 0o644)
        return
    path = Path(source)
    if path.is_file():
        _check_size(path.stat().st_size, limit, str(path))
        _send(process, place, path.read_bytes(), mode if mode is not None else stat.S_IMODE(path.stat().st_mode))
        return
    if not path.is_dir():
        raise UsageError(f"{path} cannot be pushed: it is neither a file nor a folder", expected="a path that exists")
    found = list(_walk(path, path))
    _check_size(
        sum(entry.stat().st_size for entry in found if entry.is_file() and not entry.is_symlink()), limit, target
    )
    below = ((entry, posixpath.join(place, entry.relative_to(path).as_posix())) for entry in found)
    send(process, [(path.resolve(), place), *below])


def send(process: GuestProcess, entries: Iterable[tuple[Path, str]]) -> None:
    """Send files, folders (without their content) and links as they are; small files go many at a time.

    Args:
        process: The guest process that writes them.
        entries: Path on this machine and in the guest of each, each folder before its content.

    Raises:
        GuestCallError: They cannot be written there.
    """
    together: list[calls.Sent] = []
    room = _PIECE
    for source, place in entries:
        status = source.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if together and (room <= 0 or (stat.S_ISREG(status.st_mode) and status.st_size > room)):
            process.ask(calls.Files.put, together)
            together, room = [], _PIECE
        if stat.S_ISLNK(status.st_mode):
            together.append((place, "link", mode, os.fsencode(source.readlink())))
        elif stat.S_ISDIR(status.st_mode):
            together.append((place, "folder", mode, b""))
        elif status.st_size > _PIECE:
            _send(process, place, source.read_bytes(), mode)
        else:
            together.append((place, "file", mode, source.read_bytes()))
            room -= status.st_size
        room -= _ENTRY_COST
    if together:
        process.ask(calls.Files.put, together)


def pull(process: GuestProcess, source: str, target: Path, *, limit: int = LIMIT) -> None:
    """Fetch a file or folder from the guest, completely or not at all.

    Args:
        process: The guest process that reads it.
        source: Its absolute path.
        target: Its path on the host: a file is replaced, a folder must not exist.
        limit: Maximum bytes in total.

    Raises:
        UsageError: The source does not exist, is too large, or contains something that is neither file nor folder, or a
            link that leads out of it; or the target exists.
        GuestCallError: It cannot be read there.
    """
    place = checked_target(source)
    try:
        _, kind, mode, _ = process.ask(calls.Files.describe, place)
    except GuestCallError as error:
        if error.errno:
            raise UsageError(f"{source} cannot be pulled: {error.what}", expected="a path of the guest") from None
        raise
    if kind == "file":
        with cache.new_file(target) as temporary:
            temporary.write_bytes(fetch(process, place, limit=limit))
            temporary.chmod(mode & 0o777)
        return
    if kind != "folder":
        raise UsageError(f"{source} cannot be pulled: it is neither a file nor a folder", expected="a file or a folder")
    if target.exists():
        raise UsageError(
            f"{target} exists already", expected="a new folder's path", hint="remove it, or pull to another path"
        )
    with cache.new_folder(target) as temporary:
        pulled = PulledFolder(temporary, source)
        left = limit
        for name, kind, mode, points_to in process.ask(calls.Files.entries, place):
            if kind == "folder":
                pulled.add_folder(name, mode)
            elif kind == "file":
                content = partial(fetch, process, posixpath.join(place, name), limit=left, whole=limit)
                left -= pulled.add_file(name, content, mode)
            elif kind == "link":
                pulled.add_link(name, points_to)
            else:
                raise UsageError(
                    f"{source} cannot be pulled: {name!r} is neither a file, a folder nor a link",
                    expected="files, folders, links between them",
                )
        pulled.finish()


def fetch(process: GuestProcess, path: str, *, limit: int = LIMIT, whole: int | None = None) -> bytes:
    """Return a file's content.

    Args:
        process: The guest process that reads it.
        path: Its absolute path in the guest.
        limit: Maximum bytes.
        whole: The limit for messages, when `limit` is what remains of it.

    Raises:
        UsageError: It is too large.
        GuestCallError: It cannot be read.
    """
    found: bytes = b""
    while True:
        piece = process.ask(calls.Files.read, path, len(found), _PIECE)
        found += piece
        _check_size(len(found), limit, path, whole)
        if not piece:
            return found


def push_configuration(process: GuestProcess) -> None:
    """Put the kernel's configuration where libbpf looks for it, if the kernel came with one."""
    machine = process.machine
    config = machine.spec.kernel.config
    if config is not None:
        push(process, config, f"/boot/config-{machine.release}")


def push_program(process: GuestProcess, program: Path, *, limit: int = LIMIT) -> str:
    """Send a program of the guest's architecture, with the shared libraries that it needs and the guest lacks.

    Args:
        process: The guest process that writes it.
        program: An ELF program.
        limit: Bytes of each file.

    Returns:
        Its path in the guest.

    Raises:
        UsageError: It is not an ELF program, or one of another architecture than the guest's; or one of its libraries
            is missing: on this machine, or, where the guest's architecture is another, among the programs that its
            image was made of.
    """
    spec = process.machine.spec
    try:
        header = elf.read_header(program)
    except (OSError, ELFError) as error:
        raise UsageError(
            f"{program} cannot be pushed as a program: {error}",
            expected="a compiled program (ELF)",
            hint="send a script with guest.push and run it with /usr/bin/python3",
        ) from error
    if header.number != spec.architecture.elf:
        found = architecture.by_elf(header.number)
        title = found.title if found is not None else header.machine
        raise UsageError(
            f"{program} cannot be pushed: it is a program for {title}, and the "
            f"guest of {spec.label} is {spec.architecture.title}",
            expected=f"a program for {spec.architecture.title}",
            hint=f"compile it for {spec.architecture.title}, for example with {spec.architecture.triplet}-gcc",
        )
    if header.is_dynamic:
        root = spec.image.userland
        libraries = (
            elf.shared_libraries([program]) if root is None else elf.closure([program], root, spec.architecture.triplet)
        )
        needed = {name if name.startswith("/") else f"{_LIBRARIES}/{name}": path for name, path in libraries.items()}
        for place in process.ask(calls.Files.missing, sorted(needed)):
            push(process, needed[place], place, mode=0o755, limit=limit)
    place = f"{_PROGRAMS}/{program.name}"
    push(process, program, place, mode=0o755, limit=limit)
    return place


def _send(process: GuestProcess, place: str, data: bytes, mode: int) -> None:
    for offset in range(0, max(len(data), 1), _PIECE):
        process.ask(calls.Files.write, place, data[offset : offset + _PIECE], offset, mode)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    """Return the entries below a folder of `root`, each folder before its content."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            if not stays_inside(entry.relative_to(root).as_posix(), str(entry.readlink())):
                raise UsageError(
                    f"{root} cannot be pushed: the link {entry} leads out of it",
                    expected="links to files below the same folder",
                    hint="push what it points to",
                )
        elif not (entry.is_file() or entry.is_dir()):
            raise UsageError(f"{root} cannot be pushed: {entry} is not a file", expected="files, folders and links")
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, root)


def checked_target(path: str) -> str:
    """Return a path in the guest in its plain form.

    Raises:
        UsageError: It is not absolute, or leads out of a folder, or is the root.
    """
    if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path or path.strip("/") == "":
        raise UsageError(f"{path!r} is not a path in the guest", expected="an absolute path without '..'")
    return posixpath.normpath(path)


def _check_size(size: int, limit: int, what: str, shown_limit: int | None = None) -> None:
    if size > limit:
        raise UsageError(
            f"{what} has {size} bytes, more than the limit" if shown_limit is None else f"{what} is over the limit",
            expected=f"at most {shown_limit or limit} bytes in total",
            hint="raise `limit`, and the guest's memory with @pytest.mark.vm(memory=...) if needed",
        )
