"""Building a kernel from a source tree: configuration from fragments, compiler from a table, result in the cache.

The tree is never written to: everything is made in a folder of its own (`make O=`). A build's key is its
release and flavour; building again replaces it. A build that is kept (:func:`kept`) has a copy of the tree, to be
changed and built again in seconds.

Imports the foundations, :mod:`harness.kernel.kconfig`, :mod:`harness.kernel.shelf` and :mod:`harness.kernel.payload`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import needs, proc, store
from harness.data import data_folder, read_toml
from harness.errors import BuildError, KernelFileError, SelectorError
from harness.kernel import kconfig, payload, shelf
from harness.kernel.types import Choice, Kernel, Progress
from harness.kernel.version import KernelVersion

log = proc.log

PROVIDER = "local"
FLAVOURS = {
    "minimal": ("minimal",),
    "debug": ("minimal", "debug"),
    "coverage": ("minimal", "coverage"),
    "bcc": ("minimal", "bcc"),
    "mutants": ("minimal", "mutants"),
}
"""Configuration fragments of each flavour, later ones winning."""

COVERAGE_FOLDER = "kernel/bpf"


@dataclass(frozen=True)
class Compiler:
    """How one kernel is compiled.

    Attributes:
        cc: The compiler.
        make: Further words for make.
        alignment: The least alignment of loadable segments that a good vmlinux has, in bytes.
        reason: Why, from the table.
        doubt: What is not known to work about it, or "".
    """

    cc: str
    make: tuple[str, ...]
    alignment: int
    reason: str
    doubt: str


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        kernel: The kernel, in the cache.
        gaps: Settings it lacks.
        seconds: How long the compilation took.
        compiler: How it was compiled.
    """

    kernel: Kernel
    gaps: kconfig.Gaps
    seconds: float
    compiler: Compiler


KEPT_RECORD = "kept.json"
_KEPT_WAIT = 5.0


class Kept:
    """A build whose folder stays: its sources can be changed, and building again compiles no more than what changed.

    Attributes:
        version: The upstream version.
        source: The build's own copy of the tree.
        output: What make writes to.
        vmlinux: The kernel that :meth:`build` makes.
        log: What the last build printed.
    """

    def __init__(self, job: _Job, version: KernelVersion) -> None:
        self._job = job
        self.version = version
        self.source = job.tree
        self.output = job.output
        self.vmlinux = job.output / "vmlinux"
        self.log = job.log

    def read(self, name: str) -> str:
        """Return a source file as it was unpacked, whatever it was changed to.

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
        """Change a source file; the tree that this one was copied from keeps its own.

        Args:
            name: Its path in the tree.
            text: What it is to hold.

        Raises:
            CacheError: The disk is full, or the folder cannot be written.
        """
        saved = self._pristine(name)
        if not saved.is_file():
            with store.new_file(saved) as path:
                path.write_text(self.read(name))
        # A new file in its place: the old one may be a link to the original's.
        with store.new_file(self.source / name) as path:
            path.write_text(text)

    def restore(self) -> None:
        """Put every changed source file back."""
        top = self._pristine("")
        for saved in sorted(path for path in top.rglob("*") if path.is_file()):
            name = str(saved.relative_to(top))
            if (self.source / name).read_bytes() != saved.read_bytes():
                self.write(name, saved.read_text())

    def build(self, *, seconds: float = 4 * 3600.0, keep_going: bool = False) -> float:
        """Make `vmlinux` of the sources as they are now.

        Args:
            seconds: How long it may take.
            keep_going: Compile what else there is after an error, so that the log holds the errors of all files.

        Returns:
            How long it took, in seconds.

        Raises:
            BuildError: It does not compile or link; no `vmlinux` is left then.
        """
        # One that a failed build left would be taken for its result.
        self.vmlinux.unlink(missing_ok=True)
        # The output of hundreds of builds is of no use; that of the last one is.
        self.log.unlink(missing_ok=True)
        started = time.monotonic()
        self._job.make("vmlinux", *(["--keep-going"] if keep_going else []), seconds=seconds)
        return time.monotonic() - started

    def _pristine(self, name: str) -> Path:
        return self._job.folder / "pristine" / name


@contextmanager
def kept(tree: Path, flavour: str, *, origin: str, cc: str = "", jobs: int = 0, progress: Progress) -> Iterator[Kept]:
    """Lend the build of a tree that is kept in the cache, made when it is not there; its sources are as unpacked.

    Args:
        tree: The source tree; it is not written to.
        flavour: One of :data:`FLAVOURS`.
        origin: Where the tree came from, for people.
        cc: The compiler, or "" to choose by the table.
        jobs: Parallel jobs; 0 for one a processor.
        progress: Told what is being done.

    Yields:
        The build, this process's alone until the body ends.

    Raises:
        KernelFileError: The tree is not a clean, whole kernel tree.
        BuildError: The build failed.
        ToolMissing: A program that builds need is missing.
        CacheError: The cache cannot be written, or another process has the build.
    """
    version, compiler, asked = _plan(tree, flavour, cc, progress)
    folder = shelf.folder() / "kept" / f"{version}-{flavour}"
    wanted = {
        "origin": origin,
        "compiler": [compiler.cc, *compiler.make],
        "settings": hashlib.sha256("\n".join(setting.line() for setting in asked).encode()).hexdigest(),
    }
    with store.locked(folder.with_name(f"{folder.name}.lock"), timeout=_KEPT_WAIT):
        job = _Job(folder / "tree", folder, compiler, jobs or os.cpu_count() or 1, progress, keep=True)
        if _read_record(folder / KEPT_RECORD) != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            with store.disk_errors(folder):
                job.output.mkdir(parents=True)
                _copy_of_links(tree, job.tree)
            job.configure(version, flavour, asked)
            job.make("vmlinux", seconds=4 * 3600)
            with store.new_file(folder / KEPT_RECORD) as path:
                path.write_text(json.dumps(wanted, indent=1) + "\n")
        build = Kept(job, version)
        build.restore()
        try:
            yield build
        finally:
            build.restore()


def _read_record(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _copy_of_links(tree: Path, copy: Path) -> None:
    """Copy a tree at the cost of its folders: files are links where they can be, and must be replaced to be changed."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    shutil.copytree(tree, copy, symlinks=True, copy_function=link)


def tree_version(tree: Path) -> KernelVersion:
    """Return the version of a kernel source tree.

    Raises:
        KernelFileError: It is no kernel tree, or an incomplete one.
    """
    makefile = tree / "Makefile"
    try:
        head = makefile.read_text(errors="replace")[:2000]
    except OSError as error:
        raise KernelFileError(
            f"{tree} is no kernel source tree: {error.strerror or error} ({makefile.name})",
            expected="the top folder of a kernel tree",
            hint="name the folder that holds the tree's Makefile and Kconfig",
        ) from error
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)", head, re.MULTILINE))
    missing = [name for name in ("Kconfig", "scripts/Makefile.lib", "kernel/bpf") if not (tree / name).exists()]
    if not {"VERSION", "PATCHLEVEL"} <= fields.keys() or missing:
        raise KernelFileError(
            f"{tree} is no whole kernel source tree" + (f": it lacks {', '.join(missing)}" if missing else ""),
            expected="a tree with Makefile, Kconfig, scripts/ and kernel/bpf/",
        )
    rc = re.match(r"-rc\d+", fields.get("EXTRAVERSION", ""))
    number = ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if fields.get(name))
    return KernelVersion.parse(number + (rc[0] if rc else ""))


def choose_compiler(
    table: Sequence[dict[str, object]],
    version: KernelVersion,
    cc: str,
    gcc_major: Callable[[str], int | None],
) -> Compiler:
    """Choose the compiler for a kernel.

    Args:
        table: The rows of `kernels/compilers.toml`.
        version: The kernel's version.
        cc: The compiler the user asks for, or "".
        gcc_major: Tells the major version of a compiler that is on PATH; None when there is none, 0 for one that is
            no gcc.

    Raises:
        SelectorError: No row is for this version.
        BuildError: The compiler asked for, or any, is missing.
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
    make = row["make"]
    assert isinstance(make, list), "a row's make is a list of words"
    reason, alignment = str(row["reason"]), int(str(row["segment_alignment"]))
    candidates = [cc] if cc else ["gcc", *(f"gcc-{major}" for major in range(newest, 7, -1))]
    majors = {name: gcc_major(name.split()[-1] if cc else name) for name in candidates}
    present = [name for name in candidates if majors[name] is not None]
    if not present:
        raise BuildError(
            f"the compiler {candidates[0]} is not installed",
            expected="a C compiler" + (f", gcc {newest} or older" if newest else ""),
            hint=f"{needs.need('gcc').install}, or name one with CC=",
        )
    fit = [name for name in present if not newest or 0 < (majors[name] or 0) <= newest]
    chosen = present[0] if cc or not fit else fit[0]
    doubt = (
        ""
        if chosen in fit
        else f"{chosen} (gcc {majors[chosen] or '?'}) is newer than what is known to build {version}"
    )
    return Compiler(chosen, tuple(str(word) for word in make), alignment, reason, doubt)


def gcc_major(name: str) -> int | None:
    """Return a compiler's major version; None when it is not on PATH, 0 when it is no gcc."""
    if shutil.which(name) is None:
        return None
    done = proc.run([name, "-dumpfullversion"], timeout=20)
    match = re.match(r"(\d+)\.", done.stdout)
    return int(match[1]) if done.status == 0 and match else 0


def fragment_settings(flavour: str) -> list[kconfig.Setting]:
    """Return the settings of a flavour's fragments, in order.

    Raises:
        SelectorError: There is no such flavour.
    """
    if flavour not in FLAVOURS:
        raise SelectorError(f"{flavour!r} is no flavour to build", expected="one of " + ", ".join(FLAVOURS))
    folder = data_folder("kernels") / "configs"
    return [
        setting
        for name in FLAVOURS[flavour]
        for setting in kconfig.parse_fragment((folder / f"{name}.config").read_text(), f"{name}.config")
    ]


def build(
    tree: Path,
    flavour: str,
    *,
    origin: str,
    cc: str = "",
    jobs: int = 0,
    again: bool = False,
    revision: str = "",
    progress: Progress,
) -> Built:
    """Build a kernel and put it into the cache.

    Args:
        tree: The source tree; it is not written to.
        flavour: One of :data:`FLAVOURS`.
        origin: Where the tree came from, for people.
        cc: The compiler, or "" to choose by the table.
        jobs: Parallel jobs; 0 for one a processor.
        again: Build even when the cache has it.
        revision: For a commit between releases, its hash. Such a kernel stands for no release: no selector finds it,
            :func:`choice_of` names it. What was compiled stays, so that the next commit compiles what differs.
        progress: Told what is being done.

    Raises:
        KernelFileError: The tree is not a clean, whole kernel tree.
        BuildError: The build failed, or its result is of no use.
        ToolMissing: A program that builds need is missing.
        CacheError: The cache cannot be written.
    """
    version, compiler, asked = _plan(tree, flavour, cc, progress)
    choice = choice_of(version, flavour, revision)
    key = choice.key
    if not again and (kernel := shelf.load(choice, progress=progress)) is not None:
        return _recorded(kernel, key, compiler)
    work = shelf.folder() / "build" / (f"commits-{flavour}" if revision else key)
    with shelf.new_entry(PROVIDER, key, again=again) as made, store.locked(work.with_name(f"{work.name}.lock")):
        if made is not None:
            job = _Job(tree, work, compiler, jobs or os.cpu_count() or 1, progress, keep=bool(revision))
            seconds, gaps = job.run(version, flavour, asked)
            job.collect(made, flavour)
            shelf.seal(
                made,
                version=version,
                provider=PROVIDER,
                key=key,
                flavour=flavour,
                origin=f"built here from {origin}, flavour {flavour}, {compiler.cc}",
                built=int(time.time()),
                seconds=round(seconds, 1),
                gaps={"required": [], "dropped": gaps.dropped, "unknown": gaps.unknown},
                build_folder=str(job.output),
                **({"revision": revision} if revision else {}),
            )
            if not job.keep:
                shutil.rmtree(job.folder, ignore_errors=True)
    kernel = shelf.load(choice, progress=progress)
    assert kernel is not None, "the entry was made a moment ago"
    return _recorded(kernel, key, compiler)


def choice_of(version: KernelVersion, flavour: str, revision: str = "") -> Choice:
    """Return what names a kernel that was built here; arguments as of :func:`build`."""
    name = f"{version}-g{revision[:12]}" if revision else str(version)
    return Choice(f"{name}:{flavour}", version, PROVIDER, f"{name}-{flavour}", flavour)


def _plan(
    tree: Path, flavour: str, cc: str, progress: Progress
) -> tuple[KernelVersion, Compiler, list[kconfig.Setting]]:
    """Check that a tree can be built here; return its version, its compiler and the settings to ask for."""
    settings = fragment_settings(flavour)
    version = tree_version(tree)
    dirty = [name for name in (".config", "include/config", "include/generated") if (tree / name).exists()]
    if dirty:
        raise KernelFileError(
            f"the kernel tree {tree} has been built in (it holds {', '.join(dirty)})",
            expected="a clean tree, because the harness builds outside of it",
            hint=f"make -C {tree} mrproper; or, to use what was built there: --kernel={tree}",
        )
    for need in needs.table().of(("build", f"build-{flavour}")):
        if need.is_program:
            needs.program(need.name)
    compiler = choose_compiler(read_toml("kernels", "compilers.toml")["row"], version, cc, gcc_major)
    if compiler.doubt:
        progress(f"warning: {compiler.doubt}")
    return version, compiler, kconfig.applicable(settings, version, lambda tool: shutil.which(tool) is not None)


def _recorded(kernel: Kernel, key: str, compiler: Compiler) -> Built:
    entry = shelf.read_entry(shelf.entry_folder(PROVIDER, key))
    assert entry is not None, "a kernel that was loaded has an entry"
    gaps = kconfig.Gaps(**{kind: tuple(symbols) for kind, symbols in entry.record["gaps"].items()})
    return Built(kernel, gaps, float(entry.record["seconds"]), compiler)


class _Job:
    """One build in its folder: `out/` for make's output, `build.log` for what it says."""

    def __init__(
        self, tree: Path, folder: Path, compiler: Compiler, jobs: int, progress: Progress, *, keep: bool
    ) -> None:
        self.keep = keep
        self.tree = tree
        self.folder = folder
        self.output = folder / "out"
        self.log = folder / "build.log"
        self.compiler = compiler
        self.jobs = jobs
        self.progress = progress

    def run(self, version: KernelVersion, flavour: str, asked: Sequence[kconfig.Setting]) -> tuple[float, kconfig.Gaps]:
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        with store.disk_errors(self.folder):
            self.output.mkdir(parents=True, exist_ok=True)
            self.log.unlink(missing_ok=True)
            if flavour == "coverage":
                self.tree = self._instrumented()
        gaps = self.configure(version, flavour, asked)
        started = time.monotonic()
        self.make("bzImage", seconds=4 * 3600)
        return time.monotonic() - started, gaps

    def configure(self, version: KernelVersion, flavour: str, asked: Sequence[kconfig.Setting]) -> kconfig.Gaps:
        """Write the configuration; return what it lacks."""
        self.progress(f"configuring {version} ({flavour}) with {self.compiler.cc}: {self.compiler.reason}")
        self.make("tinyconfig", seconds=300)
        with (self.output / ".config").open("a") as config:
            config.write("".join(f"{setting.line()}\n" for setting in asked))
            config.write(f'CONFIG_LOCALVERSION="-{flavour}"\n# CONFIG_LOCALVERSION_AUTO is not set\n')
        self.make("olddefconfig", seconds=300)
        known = kconfig.symbols_of(path.read_text(errors="replace") for path in self.tree.rglob("Kconfig*"))
        finished = kconfig.parse_config((self.output / ".config").read_text())
        gaps = kconfig.gaps(asked, finished, known)
        if gaps.required:
            raise BuildError(
                f"the configuration of {version} ({flavour}) lacks "
                + ", ".join(f"CONFIG_{one}" for one in gaps.required),
                expected="these in the finished configuration: the harness cannot use a kernel without them",
                hint=f"see what they depend on in the tree; the configuration is {self.output / '.config'}",
            )
        return gaps

    def collect(self, made: Path, flavour: str) -> None:
        """Copy what the cache keeps, after checking that it can boot at all."""
        image = self.output / "arch" / "x86" / "boot" / "bzImage"
        if not image.is_file():
            raise BuildError(f"the build left no {image}", expected="a bzImage", hint=f"see {self.log}")
        alignment = payload.load_alignment((self.output / "vmlinux").read_bytes())
        if alignment < self.compiler.alignment:
            raise BuildError(
                f"the segments of the built vmlinux are aligned to {alignment:#x} bytes: it would hang without a word",
                expected=f"{self.compiler.alignment:#x}",
                hint="give the linker -z max-page-size=0x200000 for this series, in kernels/compilers.toml",
            )
        shutil.copyfile(image, made / "vmlinuz")
        shutil.copyfile(self.output / ".config", made / "config")
        headers_of_its_own = self.output / "kernel" / "kheaders_data.tar.xz"
        if headers_of_its_own.is_file():
            shutil.copyfile(headers_of_its_own, made / shelf.HEADERS)
        if flavour == "coverage":
            # gcov needs, beside the counters read in the guest, what the compiler noted and the sources.
            for pattern, top in (("*.gcno", self.output), ("*.c", self.tree), ("*.h", self.tree)):
                for path in (top / COVERAGE_FOLDER).rglob(pattern):
                    place = made / "coverage" / path.relative_to(top)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, place)

    def _instrumented(self) -> Path:
        """Return a copy of the tree whose BPF core is compiled with counters.

        There is no option for one folder alone; the file that says so is replaced in a copy of links.
        """
        copy = self.folder / "tree"
        shutil.rmtree(copy, ignore_errors=True)
        _copy_of_links(self.tree, copy)
        makefile = copy / COVERAGE_FOLDER / "Makefile"
        text = makefile.read_text()
        makefile.unlink()
        makefile.write_text(f"GCOV_PROFILE := y\n{text}")
        return copy

    def make(self, target: str, *options: str, seconds: float) -> None:
        """Run make for a target, at most `seconds` long."""
        argv = [
            "nice",
            "make",
            f"-j{self.jobs}",
            f"--directory={self.tree}",
            f"O={self.output}",
            "ARCH=x86_64",
            f"CC={self.compiler.cc}",
            *self.compiler.make,
            # The same tree and compiler give the same image.
            "KBUILD_BUILD_USER=harness",
            "KBUILD_BUILD_HOST=harness",
            "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
            "KBUILD_BUILD_VERSION=1",
            *options,
            target,
        ]
        log.info("+ %s", proc.quote(argv))
        started = time.monotonic()
        with self.log.open("ab") as out:
            out.write(f"+ {proc.quote(argv)}\n".encode())
            out.flush()
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith(("KBUILD", "MAKE"))}
                | {"LC_ALL": "C"},
            )
            try:
                self._watch(process, target, started, seconds)
            except BaseException:
                proc.kill_group(process.pid)
                process.wait()
                raise
        if process.returncode != 0:
            raise BuildError(
                f"make {target} failed in {self.tree} with status {process.returncode}",
                expected="a kernel that compiles",
                hint=f"the whole output is in {self.log}; another compiler is named with CC=",
                detail=first_errors(self.log.read_text(errors="replace")),
            )

    def _watch(self, process: subprocess.Popen[bytes], target: str, started: float, seconds: float) -> None:
        said = started
        while True:
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if now - started > seconds:
                    raise BuildError(
                        f"make {target} did not end within {seconds:g} s", hint=f"its output is in {self.log}"
                    ) from None
                if now - said >= 30:
                    said = now
                    objects = self.log.read_bytes().count(b"\n  CC ")
                    self.progress(f"make {target}: {now - started:.0f} s, {objects} files compiled")
            else:
                return


def first_errors(output: str, lines: int = 12) -> str:
    """Return the lines of make's output that say what went wrong: the first errors, else the last lines."""
    all_lines = output.splitlines()
    telling = [line for line in all_lines if re.search(r"\berror\b|\*\*\*|undefined reference|No such file", line)]
    return "\n".join(telling[:lines] or all_lines[-lines:])
