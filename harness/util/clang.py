"""Compiles BPF programs from C into the cache, once for each content."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import needs
from harness.errors import HarnessError, SourceError, ToolMissing, UsageError
from harness.util import architecture, cache
from harness.util.architecture import Architecture
from harness.util.data import data_folder
from harness.util.proc import run

SUFFIX = ".bpf.c"

FORMAT = 1
"""Part of every key: increase it when the same sources give another object."""

_FLAGS = (
    # The instruction set of every kernel since 4.12; clang's default depends on its version.
    "-mcpu=v1",
    "-O2",
    "-g",  # it adds BTF
    "-Wall",
)
_TIME_LIMIT = 120.0

# How each object of this process was made, to make it for another architecture.
_made: dict[Path, tuple[Path, tuple[str, ...], tuple[str, ...]]] = {}


@dataclass(frozen=True)
class Compiler:
    """A usable clang.

    Attributes:
        path: The program.
        version: Its version line.
    """

    path: Path
    version: str


def find_compiler() -> Compiler:
    """Return the clang to use: $HARNESS_CLANG, or clang on PATH.

    Raises:
        ToolMissing: There is no clang, or it is too old.
    """
    path = needs.program("clang")
    oldest = needs.need("clang").enough
    done = run([path, "--version"], timeout=30)
    line = done.stdout.partition("\n")[0]
    found = re.search(r"clang version (\d+)", line)
    if found is None or not needs.at_least(found[1], oldest):
        raise ToolMissing(
            f"{path} is {line or 'not clang'}",
            expected=f"clang {oldest} or newer",
            hint="install a newer clang, or set HARNESS_CLANG to one",
        )
    return Compiler(path, line)


def own_sources() -> dict[str, Path]:
    """Return the sources of the folder `bpf/`, by name without suffix."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(data_folder("bpf").glob(f"*{SUFFIX}"))}


def find_source(name: str | Path) -> Path:
    """Return the source of this name: a path to a C file, or the name of one in `bpf/`.

    Raises:
        UsageError: There is no such source.
    """
    own = own_sources()
    if str(name) in own:
        return own[str(name)]
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"there is no BPF source {str(name)!r}", expected=f"a path to a C file, or one of {', '.join(own)}"
        )
    return path.resolve()


def build(
    source: Path,
    *,
    defines: Sequence[str] = (),
    flags: Sequence[str] = (),
    compiler: Compiler | None = None,
    wanted: Architecture | None = None,
) -> Path:
    """Return the object of a source; compile it if the source or an included file has changed.

    Args:
        source: A C file. Headers beside it are found as <vmlinux.h> too.
        defines: Macros, "NAME" or "NAME=VALUE".
        flags: More flags for clang; a later one wins over an earlier one, and over those of this module.
        compiler: The result of :func:`find_compiler`, if the caller has it.
        wanted: The architecture of the kernel that is to load it; None for this machine's.

    Raises:
        ToolMissing: There is no suitable clang.
        SourceError: It does not compile; the error contains clang's output.
        CacheError: The cache cannot be written.
    """
    compiler = compiler or find_compiler()
    argv = [str(compiler.path), *_target(wanted), *_FLAGS]
    argv += [*(f"-D{word}" for word in defines), f"-I{data_folder('bpf')}", f"-I{source.parent}"]
    # <linux/bpf.h> includes <asm/types.h>, which is in a folder that clang does not search for this target.
    if wanted is not None:
        argv += [f"-idirafter/usr/{wanted.triplet}/include"]  # of Debian's cross compilers
    argv += [f"-idirafter/usr/include/{os.uname().machine}-linux-gnu", *flags]
    named = "\0".join([str(FORMAT), compiler.version, str(source), *argv])
    key = cache.cache_root() / "objects" / hashlib.sha256(named.encode()).hexdigest()[:24]
    record = key.with_suffix(".json")
    made = cache.artefact(
        key,
        whole=lambda: cache.from_record(record, lambda known: _whole(record, known)),
        make=lambda: _compile(source, argv, record, f" for {wanted.title}" if wanted is not None else ""),
    )
    _made[made] = source, tuple(defines), tuple(flags)
    return made


def _target(wanted: Architecture | None) -> tuple[str, ...]:
    """Return the flags for the guest's byte order, and for its registers in the macros of <bpf/bpf_tracing.h>."""
    if wanted is None:
        return "-target", "bpf", f"-D__TARGET_ARCH_{architecture.own().bpf_arch}"
    return "-target", target(wanted), f"-D__TARGET_ARCH_{wanted.bpf_arch}"


def target(wanted: Architecture) -> str:
    """Return what clang calls the machine (-target) of an architecture's BPF programs."""
    return "bpfeb" if wanted.byte_order == "big" else "bpfel"


def for_architecture(made: Path, wanted: Architecture) -> Path:
    """Return the object that an architecture's kernels load, in place of one for this machine's.

    Args:
        made: An object. One that :func:`build` did not make in this process is returned as it is.
        wanted: The architecture.

    Raises:
        SourceError: Its source does not compile for the architecture.
        CacheError: The cache cannot be written.
    """
    if wanted.is_own or made not in _made:
        return made
    source, defines, flags = _made[made]
    return build(source, defines=defines, flags=flags, wanted=wanted)


def build_all(sources: Sequence[Path], jobs: int | None = None) -> list[Path]:
    """Compile several sources in parallel; arguments and errors as for :func:`build`, the first error of all.

    Args:
        sources: C files.
        jobs: Number of parallel compilations; default: the number of CPUs.
    """
    compiler = find_compiler()
    with ThreadPoolExecutor(jobs or os.cpu_count()) as executor:
        return list(executor.map(lambda source: build(source, compiler=compiler), sources))


def _whole(record: Path, known: dict[str, Any]) -> Path | None:
    """Return the object that the record names, if none of its sources has changed."""
    path = record.parent / str(known["object"])
    if not path.is_file() or any(cache.digest_file(Path(name)) != one for name, one in known["sources"].items()):
        return None
    for used in (record, path.parent):
        cache.mark_used(used)
    return path


def _compile(source: Path, argv: list[str], record: Path, whose: str) -> Path:
    folder = record.parent
    stem = source.name.removesuffix(".c").removesuffix(".bpf")
    with tempfile.TemporaryDirectory() as scratch:
        made, rule = Path(scratch, "object"), Path(scratch, "rule")
        done = run([*argv, "-MD", "-MF", rule, "-c", source, "-o", made], timeout=_TIME_LIMIT)
        if done.status != 0:
            raise SourceError(
                f"{source} does not compile{whose}",
                expected="a BPF program that clang accepts",
                hint="correct the errors that clang reports",
                detail=done.tail(40),
            )
        data, used = made.read_bytes(), _parse_dependencies(rule.read_text())
    path = folder / hashlib.sha256(data).hexdigest()[:16] / f"{stem}.bpf.o"
    with cache.new_file(path) as temporary:
        temporary.write_bytes(data)
    known = {
        "object": str(path.relative_to(folder)),
        "sources": {str(name): cache.digest_file(name) for name in sorted(used)},
    }
    cache.write_record(record, known)
    cache.drop_unused([*folder.glob("*.json"), *folder.glob("*/")])
    return path


def _parse_dependencies(text: str) -> set[Path]:
    """Parse the output of `clang -MD`: a make rule whose prerequisites are the files that were read."""
    words = re.split(r"(?<!\\)\s+", text.replace("\\\n", " ").partition(": ")[2].strip())
    return {Path(word.replace("\\ ", " ")).resolve() for word in words if word}


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the sources named on the command line, by default all of `bpf/`; print the objects' paths."""
    parser = argparse.ArgumentParser(prog="build-bpf", description="Compile BPF programs into the cache.")
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="a C file or a name in bpf/ (default: all of bpf/)"
    )
    parser.add_argument("-j", "--jobs", type=int, help="parallel compilations (default: one for each CPU)")
    arguments = parser.parse_args(argv)
    try:
        sources = [find_source(name) for name in arguments.sources] or list(own_sources().values())
        for path in build_all(sources, arguments.jobs):
            print(path)  # noqa: T201 - a command's output
    except HarnessError as error:
        print(f"build-bpf: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
