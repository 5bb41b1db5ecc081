"""Which compiler builds which kernel, from a table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness import needs
from harness.errors import BuildError, SelectorError
from harness.kernel.version import KernelVersion
from harness.util import proc
from harness.util.architecture import Architecture


@dataclass(frozen=True)
class KernelCompiler:
    """How one kernel is compiled.

    Attributes:
        cc: The compiler.
        make: More arguments for make.
        wanted: The architecture of the kernel.
        alignment: Smallest alignment of loadable segments in a correct vmlinux, in bytes; 0 where none is known.
        reason: Why, from the table.
        doubt: Why it may not work, or "".
    """

    cc: str
    make: tuple[str, ...]
    wanted: Architecture
    alignment: int
    reason: str
    doubt: str


def choose_compiler(
    table: Sequence[dict[str, object]],
    version: KernelVersion,
    cc: str,
    gcc_major: Callable[[str], int | None],
    wanted: Architecture,
) -> KernelCompiler:
    """Choose the compiler for a kernel.

    Args:
        table: The rows of `kernels/compilers.toml`.
        version: The kernel's version.
        cc: The compiler the user asks for, or "".
        gcc_major: Returns the major version of a compiler on PATH; None when it is not there, 0 when it is not
            gcc.
        wanted: The architecture of the kernel.

    Raises:
        SelectorError: The table has no row for this version.
        BuildError: The requested compiler, or every compiler, is missing.
    """
    row = next(
        (
            row
            for row in table
            if KernelVersion.parse(str(row["from"])) <= version < KernelVersion.parse(str(row["until"]))
        ),
        None,
    )
    if row is None:
        raise SelectorError(
            f"no compiler is known for {version}",
            expected=f"{table[0]['from']} or later",
            hint="add a row to kernels/compilers.toml",
        )
    newest = int(str(row["newest_gcc"]))
    special = row.get(wanted.name, {"make": [], "segment_alignment": 0})
    assert isinstance(special, dict), "what a row says of one architecture is a table"
    gcc = f"{wanted.cross}gcc"
    candidates = [cc] if cc else [gcc, *(f"{gcc}-{major}" for major in range(newest, 7, -1))]
    majors = {name: gcc_major(name.split()[-1] if cc else name) for name in candidates}
    present = [name for name in candidates if majors[name] is not None]
    if not present:
        raise BuildError(
            f"the compiler {candidates[0]} is not installed",
            expected="a C compiler" + (f", gcc {newest} or older" if newest else ""),
            hint=f"{needs.need(gcc).install}, or name one with CC=",
        )
    fit = [name for name in present if not newest or 0 < (majors[name] or 0) <= newest]
    chosen = present[0] if cc or not fit else fit[0]
    doubt = (
        ""
        if chosen in fit
        else f"{chosen} (gcc {majors[chosen] or '?'}) is newer than the compilers known to build {version}"
    )
    make = tuple(str(word) for word in special["make"])
    return KernelCompiler(chosen, make, wanted, int(special["segment_alignment"]), str(row["reason"]), doubt)


def gcc_major(name: str) -> int | None:
    """Return a compiler's major version; None when it is not on PATH, 0 when it is not gcc."""
    if shutil.which(name) is None:
        return None
    done = proc.run([name, "-dumpfullversion"], timeout=20)
    match = re.match(r"(\d+)\.", done.stdout)
    return int(match[1]) if done.status == 0 and match else 0
