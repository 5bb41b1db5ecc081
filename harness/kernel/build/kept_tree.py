"""A kept build with its own copy of the tree, to change and build again in seconds."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import KernelFileError
from harness.kernel import cache as kernel_cache
from harness.kernel.build.kbuild import Job, copy_of_links, plan
from harness.kernel.types import Progress
from harness.kernel.version import KernelVersion
from harness.util import cache

KEPT_RECORD = "kept.json"
_KEPT_WAIT = 5.0


class Kept:
    """A build whose folder stays: sources can be changed, and a new build compiles only what changed.

    Attributes:
        version: The upstream version.
        source: The build's own copy of the tree.
        output: What make writes to.
        vmlinux: The kernel that :meth:`build` makes.
        log: What the last build printed.
    """

    def __init__(self, job: Job, version: KernelVersion) -> None:
        self._job = job
        self.version = version
        self.source = job.tree
        self.output = job.output
        self.vmlinux = job.output / "vmlinux"
        self.log = job.log

    def read(self, name: str) -> str:
        """Return a source file as it was unpacked, without changes.

        Args:
            name: Its path in the tree.

        Raises:
            KernelFileError: There is no such file.
        """
        try:
            return next(path for path in (self._pristine(name), self.source / name) if path.is_file()).read_text()
        except StopIteration:
            raise KernelFileError(f"the kernel tree of {self.version} has no file {name}") from None

    def write(self, name: str, text: str) -> None:
        """Change a source file; the tree that this one was copied from is not changed.

        Args:
            name: Its path in the tree.
            text: The new content.

        Raises:
            CacheError: The disk is full, or the folder cannot be written.
        """
        saved = self._pristine(name)
        if not saved.is_file():
            with cache.new_file(saved) as path:
                path.write_text(self.read(name))
        # Replace the file: the old file may be a hard link to the original.
        with cache.new_file(self.source / name) as path:
            path.write_text(text)

    def restore(self) -> None:
        """Undo the changes to all source files."""
        top = self._pristine("")
        for saved in sorted(path for path in top.rglob("*") if path.is_file()):
            name = str(saved.relative_to(top))
            if (self.source / name).read_bytes() != saved.read_bytes():
                self.write(name, saved.read_text())

    def build(self, *, seconds: float = 4 * 3600.0, keep_going: bool = False) -> float:
        """Build `vmlinux` from the current sources.

        Args:
            seconds: Seconds that it may take.
            keep_going: Continue after an error, so that the log has the errors of all files.

        Returns:
            How long it took, in seconds.

        Raises:
            BuildError: It does not compile or link; there is no `vmlinux` then.
        """
        # An old file would be mistaken for the result of a failed build.
        self.vmlinux.unlink(missing_ok=True)
        # Only the output of the last build is useful, not that of hundreds.
        self.log.unlink(missing_ok=True)
        started = time.monotonic()
        self._job.make("vmlinux", *(["--keep-going"] if keep_going else []), seconds=seconds)
        return time.monotonic() - started

    def _pristine(self, name: str) -> Path:
        return self._job.folder / "pristine" / name


@contextmanager
def kept(tree: Path, flavour: str, *, origin: str, cc: str = "", jobs: int = 0, progress: Progress) -> Iterator[Kept]:
    """Lend the kept build of a tree, with unchanged sources; it is made when the cache does not have it.

    Args:
        tree: The source tree; it is not written to.
        flavour: One of :data:`FLAVOURS`.
        origin: Where the tree came from, as text for the user.
        cc: The compiler, or "" to choose by the table.
        jobs: Parallel jobs; 0 for one per processor.
        progress: Called with a line of text for each step.

    Yields:
        The build; no other process uses it until the body ends.

    Raises:
        KernelFileError: The tree is not a clean, whole kernel tree.
        BuildError: The build failed.
        ToolMissing: A program that builds need is missing.
        CacheError: The cache cannot be written, or another process uses the build.
    """
    version, compiler, asked = plan(tree, flavour, cc, progress)
    folder = kernel_cache.folder() / "kept" / f"{version}-{flavour}"
    wanted = {
        "origin": origin,
        "compiler": [compiler.cc, *compiler.make],
        "settings": hashlib.sha256("\n".join(setting.line() for setting in asked).encode()).hexdigest(),
    }
    with cache.locked(folder.with_name(f"{folder.name}.lock"), timeout=_KEPT_WAIT):
        job = Job(folder / "tree", folder, compiler, jobs or os.cpu_count() or 1, progress, keep=True)
        if cache.from_record(folder / KEPT_RECORD, lambda known: known) != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            with cache.disk_errors(folder):
                job.output.mkdir(parents=True)
                copy_of_links(tree, job.tree)
            job.configure(version, flavour, asked)
            job.make("vmlinux", seconds=4 * 3600)
            cache.write_record(folder / KEPT_RECORD, wanted)
        build = Kept(job, version)
        build.restore()
        try:
            yield build
        finally:
            build.restore()
