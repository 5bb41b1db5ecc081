"""What a program needs to run elsewhere: its interpreter and shared libraries, without what only debuggers use."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, HarnessError, UsageError
from harness.util.proc import run

# LD_LIBRARY_PATH may name a folder with blanks, or one below the working folder.
_RESOLVED = re.compile(r"^\s*(?:(?P<name>\S+) => )?(?P<path>.*/.*) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\s*(?P<name>\S+) => not found$")

_LONGEST_PATH = 4096
"""PATH_MAX of Linux."""


@dataclass(frozen=True)
class Header:
    """What the headers of an ELF file say of it.

    Attributes:
        number: The number of its architecture (e_machine).
        machine: The name of its architecture, as elf.h has it ("EM_X86_64"); the number where it has none.
        kind: "ET_EXEC", "ET_DYN", "ET_REL" and the like.
        loader: The dynamic loader that starts it (PT_INTERP); "" where none does, or its name is not there.
        is_dynamic: Whether a dynamic loader starts it.
    """

    number: int
    machine: str
    kind: str
    loader: str
    is_dynamic: bool

    @property
    def is_program(self) -> bool:
        """Whether it is linked: a program, or a library."""
        return self.kind in ("ET_EXEC", "ET_DYN")


def read_header(path: Path) -> Header:
    """Read the headers of an ELF file.

    Raises:
        OSError: It cannot be read.
        elftools.common.exceptions.ELFError: It is not an ELF file, or is damaged.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        try:
            read = ELFFile(file)
            segment = next(read.iter_segments("PT_INTERP"), None)
            size, name = 0, b""
            if segment is not None:
                size = segment.header.p_filesz
                file.seek(segment.header.p_offset)
                name = file.read(min(size, _LONGEST_PATH))
        except (OverflowError, ValueError, OSError) as error:  # an offset that no file has
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ELFError(str(error)) from error
        loader = name.rstrip(b"\0").decode(errors="surrogateescape") if len(name) == size else ""
        file.seek(18)
        number = int.from_bytes(file.read(2), "little" if read.little_endian else "big")
        return Header(number, str(read.header.e_machine), str(read.header.e_type), loader, segment is not None)


def starter(path: Path) -> tuple[int, str] | None:
    """Return what starts a compiled program: the number of its architecture, and its dynamic loader or "".

    Returns:
        None for what is not a linked program, or is damaged.
    """
    from elftools.common.exceptions import ELFError

    try:
        header = read_header(path)
    except ELFError:
        return None
    return (header.number, header.loader) if header.is_program else None


def shared_libraries(objects: Iterable[Path], *, error: type[HarnessError] = UsageError) -> dict[str, Path]:
    """Return every shared library the objects load, by the name or path they load it under, and its file.

    Args:
        objects: Programs and libraries.
        error: What is raised when a library is missing; by default, the objects are the user's.

    Raises:
        HarnessError: A library is missing on this machine.
        BuildError: The objects cannot be read.
    """
    paths = sorted(set(objects))
    done = run(["ldd", *paths], timeout=60)
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        if match := _RESOLVED.match(line):
            path = Path(match["path"])
            found[match["name"] or match["path"]] = path.absolute()
        elif match := _MISSING.match(line):
            many = "" if len(paths) == 1 else f" or one of {len(paths) - 1} others"
            raise error(
                f"{paths[0]}{many} needs the shared library {match['name']}, which is missing on this machine",
                expected="all libraries of a program on this machine, from where they go along",
                hint=f"install the package that has {match['name']}, or name its folder in LD_LIBRARY_PATH",
            )
    if not found:
        raise BuildError(
            "ldd found no shared library in the interpreter",
            expected="a dynamically linked Python",
            hint="use the distribution's own python3",
            detail=done.tail(),
        )
    return found


def closure(
    objects: Iterable[Path], root: Path, triplet: str, *, error: type[HarnessError] = UsageError
) -> dict[str, Path]:
    """Return what :func:`shared_libraries` does, for objects of another architecture, of which nothing can be run.

    It reads what they need (DT_NEEDED) and their dynamic loader (PT_INTERP), and searches a folder that stands for the
    root.

    Args:
        objects: Programs and libraries.
        root: The folder.
        triplet: The name of the architecture's folders of libraries.
        error: As for :func:`shared_libraries`.

    Raises:
        HarnessError: A library is missing in the folder.
        BuildError: An object cannot be read.
    """
    folders = (root / "usr/lib" / triplet, root / "usr/lib", root / "lib" / triplet, root / "lib")
    found: dict[str, Path] = {}
    left = sorted(set(objects))
    while left:
        needing = left.pop()
        needed, loader = _dynamic(needing)
        for name in [*needed, *([loader] if loader else [])]:
            if name in found:
                continue
            places = [root / name.lstrip("/"), root / "usr" / name.lstrip("/")] if name == loader else []
            places += [folder / Path(name).name for folder in folders]
            path = next((place for place in places if place.exists()), None)
            if path is None:
                raise error(
                    f"{needing.name} needs the shared library {name}, which {root} does not have",
                    expected=f"all libraries of {needing.name} in it",
                    hint="link the program statically, or push the library to /usr/lib with guest.push",
                )
            found[name] = path
            left.append(path)
    return found


def _dynamic(path: Path) -> tuple[list[str], str]:
    """Return the libraries that an ELF file needs, and its dynamic loader or ""."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    try:
        with path.open("rb") as file:
            needed: list[str] = []
            loader = ""
            for segment in ELFFile(file).iter_segments():
                if isinstance(segment, DynamicSegment):
                    needed = [str(tag.needed) for tag in segment.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
                elif isinstance(segment, InterpSegment):
                    loader = segment.get_interp_name()
    except (OSError, ELFError) as error:
        raise BuildError(f"{path} cannot be read as an ELF file: {error}", expected="a program or a library") from error
    return needed, loader


def strip(data: bytes) -> bytes:
    """Return an ELF object without sections that are never loaded (symbols for debuggers); other files unchanged."""
    order = {b"\x7fELF\x02\x01": "<", b"\x7fELF\x02\x02": ">"}.get(data[:6])
    if order is None:
        return data
    (phoff,) = struct.unpack_from(f"{order}Q", data, 32)
    phentsize, phnum = struct.unpack_from(f"{order}HH", data, 54)
    end = phoff + phentsize * phnum
    for index in range(phnum):
        offset, _, _, filesz = struct.unpack_from(f"{order}QQQQ", data, phoff + index * phentsize + 8)
        end = max(end, offset + filesz)
    head = bytearray(data[:end])
    struct.pack_into("<Q", head, 40, 0)  # e_shoff: where the section headers were
    struct.pack_into("<HH", head, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(head)
