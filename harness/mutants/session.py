"""One run of pytest on a mutant, or on many in one kernel: a cache of its own, and what it reported.

Imports the foundations and, of :mod:`harness.mutants`, what runs inside that pytest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

import harness
from harness.errors import BuildError
from harness.mutants import inner_plugin, presence
from harness.util import cache as disk_cache
from harness.util import proc

PRESENCE_TEST = presence.test_the_kernel_that_runs_is_the_one_that_was_built.__name__

KERNEL = "mutant"
"""Name of every kernel's file: it becomes the label in the ids of tests, which must be the same for every mutant."""


@dataclass(frozen=True)
class Suite:
    """The tests that mutants are put to.

    Attributes:
        paths: Files and folders, as pytest takes them.
        options: Further words for pytest.
    """

    paths: tuple[Path, ...]
    options: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a digest of all that decides what the tests find: they, and the harness itself."""
        package = Path(harness.__file__).parent
        files = {file for top in (package, *self.paths) for file in ([top] if top.is_file() else top.rglob("*"))}
        digest = hashlib.sha256(repr(self.options).encode())
        for file in sorted(files):
            ours = Path(__file__).parent in file.parents
            if file.is_file() and file.suffix in (".py", ".toml", ".c", ".h") and not ours:
                digest.update(f"{file.name} {disk_cache.digest_file(file)}\n".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Session:
    """What became of one run of pytest.

    Attributes:
        status: Its exit status.
        records: What :mod:`harness.mutants.inner_plugin` wrote.
        tail: The end of what pytest printed.
    """

    status: int
    records: tuple[dict[str, Any], ...]
    tail: str


def make_cache(folder: Path) -> None:
    """Make a cache whose kernels and templates are its own, and whose guest images and BPF objects are shared.

    Args:
        folder: Where; it may be there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shared in ("images", "objects"):
        (disk_cache.cache_root() / shared).mkdir(parents=True, exist_ok=True)
        if not (folder / shared).is_symlink():
            (folder / shared).symlink_to(disk_cache.cache_root() / shared)


def run(
    kernel: Path,
    build_id: str,
    suite: Suite,
    cache: Path,
    name: str,
    environment: Mapping[str, str],
    *,
    seconds: float,
) -> Session:
    """Run the tests on a kernel.

    Args:
        kernel: Its ELF file, named :data:`KERNEL`.
        build_id: The file's build id, which the running kernel must have.
        suite: The tests.
        cache: As :func:`make_cache` made it.
        name: Of the session, among those that share the cache at one time.
        environment: Further variables.
        seconds: How long it may take.

    Raises:
        InfrastructureError: It takes longer.
    """
    reports = cache / f"reports-{name}.jsonl"
    reports.write_text("")
    argv: list[str | Path] = [sys.executable, "-m", "pytest", "-p", inner_plugin.__name__, "-p", "no:cacheprovider"]
    argv += ["--quiet", "--tb=short", "--no-header", f"--kernel={kernel}", *suite.options]
    argv += [presence.__file__, *suite.paths]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = proc.run(
        argv,
        timeout=seconds,
        env={
            **inherited,
            "HARNESS_CACHE": str(cache),
            inner_plugin.REPORTS: str(reports),
            presence.BUILD_ID: build_id,
            **environment,
        },
        cwd=Path(harness.__file__).parent.parent,
    )
    records = tuple(json.loads(line) for line in reports.read_text().splitlines())
    return Session(done.status, records, done.tail(40))


def build_id_of(vmlinux: Path) -> str:
    """Return the build id in a kernel's ELF file: a digest, by the linker, of what it holds.

    Raises:
        BuildError: It has none.
    """
    with vmlinux.open("rb") as stream:
        for section in ELFFile(stream).iter_sections():
            if isinstance(section, NoteSection):
                for note in section.iter_notes():
                    if note["n_type"] == "NT_GNU_BUILD_ID":
                        return str(note["n_desc"])
    raise BuildError(f"{vmlinux} has no build id", expected="a kernel linked with --build-id")


def last_attempts(records: Sequence[Mapping[str, Any]], mutant: str) -> list[dict[str, Any]]:
    """Return the reports of one mutant's tests, of each test those of the last time that it was run."""
    reports = [dict(one) for one in records if "outcome" in one and one["mutant"] == mutant]
    last: dict[str, int] = {}
    for one in reports:
        last[one["test"]] = max(one.get("attempt", 1), last.get(one["test"], 1))
    return [one for one in reports if one.get("attempt", 1) == last[one["test"]]]


def whole_round(
    mutant: str,
    number: int | None,
    tests: Sequence[str] | None,
    *,
    watch: bool = False,
    part: int = 0,
    of: int = 1,
    seconds: float = 0,
) -> dict[str, Any]:
    """Return one round of a plan, as :mod:`harness.mutants.inner_plugin` reads it.

    Args:
        mutant: Its name.
        number: The number of its switch; None when it has a kernel of its own.
        tests: In order; None for all.
        watch: Run all of them whatever comes, and ask which switches each comes past.
        part: Which part of all tests this process runs.
        of: How many parts there are.
        seconds: After so many no further test is begun; 0 for no limit.
    """
    limits = {"watch": watch, "part": part, "of": of, "seconds": seconds}
    return {"mutant": mutant, "number": number, "tests": tests, **limits}
