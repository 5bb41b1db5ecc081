"""What a program needs to run elsewhere: its interpreter and shared libraries, without what only debuggers use."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path

from harness.errors import BuildError
from harness.util.proc import run

_RESOLVED = re.compile(r"^\s*(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\s*(?P<name>\S+) => not found$")


def shared_libraries(objects: Iterable[Path]) -> dict[str, Path]:
    """Return every shared library the objects load, by the name or path they load it under, and its file.

    Raises:
        BuildError: A library is missing on this machine, or the objects cannot be read.
    """
    paths = sorted(set(objects))
    done = run(["ldd", *paths], timeout=60)
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        if match := _RESOLVED.match(line):
            path = Path(match["path"])
            found[match["name"] or match["path"]] = path
        elif match := _MISSING.match(line):
            raise BuildError(
                f"the shared library {match['name']} is missing on this machine",
                expected=f"all libraries of {', '.join(str(p) for p in paths[:3])} ... installed",
                hint="reinstall the program's package",
            )
    if not found:
        raise BuildError(
            "ldd found no shared library in the interpreter",
            expected="a dynamically linked Python",
            hint="use the distribution's own python3",
            detail=done.tail(),
        )
    return found


def strip(data: bytes) -> bytes:
    """Return an ELF object without sections that are never loaded (symbols for debuggers); other files unchanged."""
    if data[:6] != b"\x7fELF\x02\x01":
        return data
    (phoff,) = struct.unpack_from("<Q", data, 32)
    phentsize, phnum = struct.unpack_from("<HH", data, 54)
    end = phoff + phentsize * phnum
    for index in range(phnum):
        offset, _, _, filesz = struct.unpack_from("<QQQQ", data, phoff + index * phentsize + 8)
        end = max(end, offset + filesz)
    head = bytearray(data[:end])
    struct.pack_into("<Q", head, 40, 0)  # e_shoff: where the section headers were
    struct.pack_into("<HH", head, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(head)
