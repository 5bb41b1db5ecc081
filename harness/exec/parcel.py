"""What goes along with a program to the guest: looked at on the host, before anything boots."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError

from harness.errors import UsageError
from harness.image import busybox, elf, script
from harness.image.rootfs import Contents, Rootfs
from harness.remote.transfer import checked_target
from harness.util import architecture
from harness.util.architecture import Architecture

FOLDER_LIMIT = 32 << 20
"""Bytes of the working folder that go along by default."""

_MOST_ENTRIES = 5000
"""A working folder with more files than this is not the folder of one program."""

_SPARE_MIB = 160
"""Memory that the guest itself needs; its files lie in the rest."""

_KERNELS_OWN = ("/proc", "/sys", "/dev")


@dataclass(frozen=True)
class Carried:
    """A file, folder or link that goes along.

    Attributes:
        source: Its path on this machine.
        target: Its path in the guest.
        is_library: Whether it is left behind where the guest has a file of that path.
    """

    source: Path
    target: str
    is_library: bool = False


@dataclass(frozen=True)
class Parcel:
    """A command and everything of this machine that it needs.

    Attributes:
        argv: The command, as the guest runs it.
        cwd: Its working folder in the guest.
        entries: What goes along, each folder before its content.
        interpreters: Paths that stand for the guest's own Python.
        notes: What did not go along, for the user.
    """

    argv: tuple[str, ...]
    cwd: str
    entries: tuple[Carried, ...]
    interpreters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.source.stat().st_size for one in self.entries if _is_plain_file(one.source))


def parse_push(text: str) -> Carried:
    """Read an argument of --push: PATH or PATH:TARGET.

    Raises:
        UsageError: The path does not exist, or the target is not an absolute path without "..".
    """
    name, _, target = text.partition(":")
    source = Path(name)
    if not (source.is_file() or source.is_dir()):
        raise UsageError(
            f"--push {text}: there is no file or folder {name}", expected="PATH or PATH:TARGET, where PATH exists"
        )
    try:
        return Carried(source, checked_target(target or str(source.absolute())))
    except UsageError as error:
        raise UsageError(f"--push {text}: {error.what}", expected=error.expected) from None


def pack(
    words: Sequence[str],
    pushes: Sequence[Carried],
    *,
    cwd: Path,
    folder_limit: int = FOLDER_LIMIT,
    memory: int,
    wanted: Architecture | None = None,
    userland: Path | None = None,
    rootfs: Rootfs | None = None,
) -> Parcel:
    """Find everything that a command needs.

    The program has the same path in the guest, and so have its interpreter and the working folder. Of the working
    folder all goes along except `.git`; only its folder `testdata` does where it is too large.

    Args:
        words: The program, a path or a name on PATH, and its arguments.
        pushes: What else goes along.
        cwd: The working folder.
        folder_limit: Bytes of the working folder that may go along; 0 for none of it.
        memory: The guest's memory in MiB.
        wanted: The guest's architecture; this machine's own by default.
        userland: The folder with programs of that architecture; None for this machine's own, or where nobody knows yet.
        rootfs: The guest's root file system. A program that is named by an absolute path, or by a name that it has on
            its PATH, is its own.

    Raises:
        UsageError: There is no such program, one of its libraries is missing, it cannot run in the guest, or the
            guest's memory is too small for it all.
    """
    interpreters: dict[str, None] = {}
    entries: dict[str, Carried] = {}
    notes: list[str] = []
    place = str(cwd.absolute())
    for one in _working_folder(cwd.absolute(), folder_limit, notes):
        entries[one.target] = one
    for push in pushes:
        for one in _tree(push.source, push.target):
            entries[one.target] = one
    contents = rootfs.contents() if rootfs is not None else None
    guest = _Guest(wanted or architecture.own(), userland, contents, frozenset(entries))
    program = _find(words[0], cwd, [one.target for one in pushes], guest)
    if program is None:
        argv0 = words[0]
    else:
        argv0 = str(program)
        for one in _program(program, interpreters, guest):
            entries.setdefault(one.target, one)
    parcel = Parcel((argv0, *words[1:]), place, tuple(entries.values()), tuple(interpreters), tuple(notes))
    needed = (parcel.size >> 20) + _SPARE_MIB
    has = max(memory, guest.architecture.least_memory)
    if needed > has:
        raise UsageError(
            f"the program and its files have {parcel.size >> 20} MiB, too many for a guest of {has} MiB",
            expected="files that fit beside the guest's own memory",
            hint=f"--memory {needed}",
        )
    return parcel


@dataclass(frozen=True)
class _Guest:
    """What a program must fit.

    Attributes:
        architecture: The guest's.
        userland: As for :func:`pack`.
        contents: What is in its root file system; None where it has this machine's programs.
        sent: What goes along.
    """

    architecture: Architecture
    userland: Path | None
    contents: Contents | None
    sent: frozenset[str]

    def has(self, word: str) -> bool:
        """Return whether it has a program itself, by its path or by its name on PATH.

        Raises:
            UsageError: The root file system has it, and it cannot run there.
        """
        if self.contents is None:
            return word in ("python3", script.PYTHON) or ("/" not in word and self._has_applet(word))
        paths = [word] if "/" in word else [f"{folder}/{word}" for folder in _PATH]
        place = next(filter(None, map(self.contents.find, paths)), None)
        if place is not None and place in self.contents.programs:
            self._check(place, *self.contents.programs[place], self.contents)
        return place is not None

    def starts(self, interpreter: str) -> bool:
        """Return whether it has an interpreter itself, by the path or the name in a script's first line."""
        folder, _, name = interpreter.rpartition("/")
        return self.has(interpreter) or (self.contents is None and folder in _PATH and self.has(name))

    def _has_applet(self, name: str) -> bool:
        """Return whether it has a program by the busybox of its architecture's userland; yes where nobody knows yet.

        To a guest of this machine's architecture this machine's programs are sent.
        """
        if self.architecture.is_own:
            return False
        return self.userland is None or name in busybox.read(self.userland / busybox.PLACE)

    def _check(self, program: str, number: int, loader: str, contents: Contents) -> None:
        found = architecture.by_elf(number)
        # Others may run: 32-bit programs do on many 64-bit kernels.
        if found is not None and number != self.architecture.elf:
            raise UsageError(
                f"the root file system's {program} is a program for {found.title}, and the guest is "
                f"{self.architecture.title}",
                expected=f"a root file system for {self.architecture.title}",
                hint=f"or a kernel for {found.title}, such as --kernel 6.12:{found.name}",
            )
        if loader and loader not in self.sent and contents.find(loader) is None:
            raise UsageError(
                f"the root file system's {program} wants {loader}, which the root file system has not",
                expected="programs with their dynamic loader and their libraries",
                hint="with --rootfs host:FOLDER name the folders of libraries too, /usr/lib and /usr/lib64",
            )


_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")


def _find(word: str, cwd: Path, pushed: Sequence[str], guest: _Guest) -> Path | None:
    """Return the program's path on this machine; None for what the guest has itself."""
    if guest.has(word) or word in pushed:
        return None
    if guest.contents is not None and word.startswith("/"):
        raise UsageError(
            f"the root file system has no program {word}",
            expected="a program of it, or one of this machine by a path such as ./program",
        )
    if "/" not in word:
        found = shutil.which(word)
        if found is None:
            raise UsageError(
                f"there is no program {word} on this machine's PATH",
                expected="a program of this machine, which goes to the guest",
                hint=f"give its path, for example ./{word}" if (cwd / word).exists() else "",
            )
        return Path(found).absolute()
    path = Path(os.path.normpath(cwd / word))
    if not path.is_file():
        raise UsageError(f"there is no program {word}", expected="a program of this machine, which goes to the guest")
    if not os.access(path, os.X_OK):
        raise UsageError(f"{word} cannot be run: it is not executable", hint=f"chmod +x {word}")
    return path


def _program(path: Path, interpreters: dict[str, None], guest: _Guest) -> Iterator[Carried]:
    """Yield a program, its interpreter and its libraries."""
    if str(path).startswith(tuple(f"{folder}/" for folder in _KERNELS_OWN)):
        raise UsageError(f"{path} lies where the guest's kernel has files of its own", hint="copy it elsewhere")
    yield Carried(path.resolve(), str(path))
    with path.open("rb") as file:
        start = file.read(256)
    starters = script.starters(start)
    if starters is not None:
        yield from _script(path, starters, interpreters, guest)
    elif start.startswith(b"\x7fELF"):
        yield from _libraries(path, guest)
    else:
        raise UsageError(
            f"{path} cannot be run: it is neither a compiled program (ELF) nor a script that names its interpreter",
            expected='a program, or a script whose first line begins with "#!"',
        )


def _script(path: Path, starters: Sequence[str], interpreters: dict[str, None], guest: _Guest) -> Iterator[Carried]:
    if not starters:
        raise UsageError(f"the first line of {path} names no interpreter", expected="such as #!/bin/sh")
    if guest.contents is not None:
        for one in starters:
            if not guest.starts(one):
                raise UsageError(
                    f"{path} wants {one}, which the root file system has not",
                    expected="an interpreter that the root file system has",
                )
        return
    if not guest.architecture.is_own:
        for one in starters:
            if "/" in one and script.is_python(one):
                interpreters[one] = None
            elif not guest.starts(one):
                title = guest.architecture.title
                raise UsageError(
                    f"{path} wants {one}, which guests of {title} have not",
                    expected="an interpreter that they have: Python or busybox's sh",
                    hint=f"--rootfs with a root file system for {title}",
                )
        return
    needed = [starters[0]]
    for name in starters[1:]:  # env looks for it
        found = shutil.which(name)
        if found is None:
            raise UsageError(
                f"{path} wants {name}, which is not on this machine's PATH",
                expected="an interpreter of this machine, which goes along",
            )
        needed.append(found)
    for one in needed:
        if not Path(one).is_file():
            raise UsageError(
                f"the interpreter {one} of {path} is not on this machine",
                expected="an interpreter of this machine, which goes along",
            )
        if script.is_python(one):
            interpreters[one] = None
            continue
        yield Carried(Path(one).resolve(), one)
        yield from _libraries(Path(one), guest)


def _libraries(path: Path, guest: _Guest) -> Iterator[Carried]:
    """Yield the shared libraries of a compiled program of the guest's architecture."""
    try:
        header = elf.read_header(path)
    except ELFError as error:
        raise UsageError(f"{path} is a damaged program: {error}", expected="a compiled program (ELF)") from None
    if not header.is_program:
        raise UsageError(
            f"{path} is not a program but {'an object file' if header.kind == 'ET_REL' else header.kind}",
            expected="a linked program",
        )
    wanted = guest.architecture
    if header.number != wanted.elf:
        found = architecture.by_elf(header.number)
        raise UsageError(
            f"{path} is a program for {found.title if found is not None else header.machine.removeprefix('EM_')}, and "
            f"the guest is {wanted.title}",
            expected=f"a program for {wanted.title}",
            hint=f"compile it for {wanted.title}, for example with {wanted.triplet}-gcc",
        )
    if header.is_dynamic and (wanted.is_own or guest.userland is not None):
        libraries = (
            elf.shared_libraries([path])
            if guest.userland is None
            else elf.closure([path], guest.userland, wanted.triplet)
        )
        for name, library in libraries.items():
            yield Carried(library.resolve(), name if name.startswith("/") else f"/usr/lib/{name}", is_library=True)


def _working_folder(cwd: Path, limit: int, notes: list[str]) -> list[Carried]:
    if limit == 0 or str(cwd) == "/":
        return []
    found = _within(cwd, limit)
    if found is not None:
        return found
    data = _within(cwd / "testdata", limit) if (cwd / "testdata").is_dir() else []
    what = "its folder testdata" if data else "nothing of it"
    notes.append(
        f"the working folder has more than {limit >> 20} MiB or {_MOST_ENTRIES} files, so {what} goes along; "
        "name what the program needs with --push"
    )
    return data or []


def _within(folder: Path, limit: int) -> list[Carried] | None:
    """Return a folder's content; None where it is larger than the limit."""
    found = []
    left = limit
    for one in _tree(folder, str(folder)):
        found.append(one)
        left -= one.source.stat().st_size if _is_plain_file(one.source) else 0
        if left < 0 or len(found) > _MOST_ENTRIES:
            return None
    return found


def _tree(source: Path, target: str) -> Iterator[Carried]:
    """Yield a file, or a folder and all that is in it except `.git`; links are kept as they are."""
    yield Carried(source, target)
    if source.is_dir() and not source.is_symlink():
        try:
            below = sorted(source.iterdir())
        except OSError as error:
            raise UsageError(f"the folder {source} cannot be read: {error.strerror}") from None
        for entry in below:
            if entry.name != ".git" and (entry.is_symlink() or entry.is_dir() or entry.is_file()):
                yield from _tree(entry, f"{target.rstrip('/')}/{entry.name}")


def _is_plain_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)
