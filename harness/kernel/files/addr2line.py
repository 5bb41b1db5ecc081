"""Finds the source line of a place in the kernel's code, from a vmlinux with DWARF."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import KernelFileError

_PLACE = re.compile(r"([\w.$]+)\+(0x[0-9a-f]+)/(0x[0-9a-f]+)")
_ALIGNED = 64
"""Bytes. The next function begins at a multiple of it at the latest; the kernel counts a function up to there."""


def with_lines(path: Path, vmlinux: Path | None) -> Path | None:
    """Return the file beside a kernel that has its source lines: from the same build, with DWARF.

    Args:
        path: The path that the user named: a built tree, a bzImage, a vmlinux.
        vmlinux: The kernel in the cache that was made from it.
    """
    places = [path / "vmlinux"] if path.is_dir() else [path, path.with_name("vmlinux")]
    if path.parts[-4:] == ("arch", "x86", "boot", "bzImage"):
        places.append(path.parents[3] / "vmlinux")
    if vmlinux is None:
        return None
    build, _ = _identity(vmlinux)
    for place in places:
        if build and place.is_file() and _identity(place) == (build, True):
            return place
    return None


def _identity(path: Path) -> tuple[str, bool]:
    """Return the build id of an ELF file, and whether it has line tables; "" and False for what is not an ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            segments: Iterable[Any] = elf.iter_segments("PT_NOTE")
            notes = (note for segment in segments for note in segment.iter_notes())
            build = next((str(note["n_desc"]) for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), "")
            return build, elf.get_section_by_name(".debug_line") is not None
    except ELFError:
        return "", False


class Lines:
    """The source lines of one vmlinux. Reading its symbols takes some seconds, and so does the first line of each file.

    Args:
        path: A vmlinux with symbols and DWARF.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._functions: dict[str, list[tuple[int, int]]] = {}
        self._rows: dict[int, list[tuple[int, str]]] = {}
        self._dwarf: Any = None
        self._ranges: Any = None

    def of(self, place: str, *, returns: bool) -> str:
        """Return the line of a place such as "bpf_map_put+0x1f/0x90", as "kernel/bpf/syscall.c:123"; "" for none.

        Args:
            place: Function, offset and size, as the kernel prints them.
            returns: Whether it is a return address, which may be on the line after the call.

        Raises:
            KernelFileError: The file is damaged.
        """
        from elftools.common.exceptions import DWARFError, ELFError

        match = _PLACE.fullmatch(place)
        if match is None:
            return ""
        name, offset, size = match[1], int(match[2], 16), int(match[3], 16)
        try:
            self._open()
            # Static functions in different files may have the same name; only their sizes can distinguish them.
            starts = [at for at, length in self._functions.get(name, ()) if 0 <= size - length < _ALIGNED]
            if len(starts) != 1:
                return ""
            return self._at(starts[0] + offset - int(returns))
        except (DWARFError, ELFError, OSError) as error:
            raise KernelFileError(
                f"the lines in {self._path} cannot be read: {error}",
                expected="symbols and DWARF as compilers write them",
            ) from error

    def _open(self) -> None:
        if self._dwarf is not None:
            return
        from elftools.elf.elffile import ELFFile

        with self._path.open("rb") as file:
            elf = ELFFile(file)
            symbols: Any = elf.get_section_by_name(".symtab")
            for symbol in symbols.iter_symbols() if symbols is not None else ():
                if symbol["st_info"]["type"] == "STT_FUNC":
                    self._functions.setdefault(symbol.name, []).append((symbol["st_value"], symbol["st_size"]))
            self._dwarf = elf.get_dwarf_info()  # a copy in memory
        self._ranges = self._dwarf.get_aranges()

    def _at(self, address: int) -> str:
        unit = self._ranges.cu_offset_at_addr(address) if self._ranges is not None else None
        if unit is None:
            return ""
        if unit not in self._rows:
            self._rows[unit] = sorted(self._read(self._dwarf.get_CU_at(unit)))
        rows = self._rows[unit]
        found = bisect.bisect_right(rows, address, key=lambda row: row[0]) - 1
        return rows[found][1] if found >= 0 else ""

    def _read(self, unit: Any) -> list[tuple[int, str]]:
        """Return the start of each line of a unit; "" at the end of a sequence."""
        program = self._dwarf.line_program_for_CU(unit)
        root = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        base = os.fsdecode(root.value) if root is not None else ""
        names: dict[int, str] = {}
        rows: dict[int, str] = {}
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if state.end_sequence:
                rows.setdefault(state.address, "")
                continue
            if state.file not in names:
                names[state.file] = _file_name(program, state.file, base)
            rows[state.address] = f"{names[state.file]}:{state.line}"
        return list(rows.items())


def _file_name(program: Any, number: int, base: str) -> str:
    """Return the name of a file in a line table, relative to the compiler's folder if it is below it."""
    # Files and folders are counted from 0 since DWARF 5; before, from 1, and folder 0 is the compiler's.
    first = 0 if program["version"] >= 5 else 1
    entry = program["file_entry"][number - first]
    folders = [*([] if first == 0 else [base.encode()]), *program["include_directory"]]
    path = os.path.normpath(Path(base, os.fsdecode(folders[entry.dir_index]), os.fsdecode(entry.name)))
    return os.path.relpath(path, base) if base and path.startswith(f"{base}{os.sep}") else path
