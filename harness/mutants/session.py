"""One run of pytest on a mutant, or on many in one kernel: its cache and its reports."""

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
"""Name of every kernel's file: it is the label in the ids of tests, which must be equal for all mutants."""


@dataclass(frozen=True)
class Suite:
    """The tests for mutants.

    Attributes:
        paths: Files and folders, as for pytest.
        options: More arguments for pytest.
    """

    paths: tuple[Path, ...]
    options: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a digest of everything that decides the results: the tests and the harness itself."""
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
    """The result of one run of pytest.

    Attributes:
        status: Its exit status.
        records: The records that :mod:`harness.mutants.inner_plugin` wrote.
        tail: The end of pytest's output.
    """

    status: int
    records: tuple[dict[str, Any], ...]
    tail: str


def make_cache(folder: Path) -> None:
    """Make a cache with its own kernels and templates, and shared guest images and BPF objects.

    Args:
        folder: The cache folder; it may exist.
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
        cache: From :func:`make_cache`.
        name: The session's name, unique among sessions that share the cache at one time.
        environment: More environment variables.
        seconds: Seconds that it may take.

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
    """Return the build id of a kernel's ELF file: the linker's digest of its content.

    Raises:
        BuildError: It has no build id.
    """
    with vmlinux.open("rb") as stream:
        for section in ELFFile(stream).iter_sections():
            if isinstance(section, NoteSection):
                for note in section.iter_notes():
                    if note["n_type"] == "NT_GNU_BUILD_ID":
                        return str(note["n_desc"])
    raise BuildError(f"{vmlinux} has no build id", expected="a kernel linked with --build-id")


def last_attempts(records: Sequence[Mapping[str, Any]], mutant: str) -> list[dict[str, Any]]:
    """Return the reports of one mutant's tests; for each test, those of its last run."""
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
    """Return one round of a plan for :mod:`harness.mutants.inner_plugin`.

    Args:
        mutant: Its name.
        number: The number of its switch; None when it is alone in its kernel.
        tests: In order; None for all.
        watch: Run all tests, also after failures, and record the switches that each comes past.
        part: The part of all tests for this process.
        of: The number of parts.
        seconds: After this time no further test starts; 0 for no limit.
    """
    limits = {"watch": watch, "part": part, "of": of, "seconds": seconds}
    return {"mutant": mutant, "number": number, "tests": tests, **limits}
