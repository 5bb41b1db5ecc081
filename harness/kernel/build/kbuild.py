"""Building a kernel from a source tree: configuration from fragments, compiler from a table, result in the cache.

Builds never write to the tree: make writes to a separate folder (`make O=`). A build's key is its release and
flavour; another build replaces it. A kept build (:mod:`harness.kernel.build.kept_tree`) has a copy of the tree, to
change and build again in seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import needs
from harness.errors import BuildError, KernelFileError, SelectorError
from harness.kernel import cache as kernel_cache
from harness.kernel.build import kconfig
from harness.kernel.build.compilers import KernelCompiler, choose_compiler, gcc_major
from harness.kernel.files import bzimage
from harness.kernel.types import Choice, Kernel, Progress
from harness.kernel.version import KernelVersion
from harness.util import architecture, cache, proc
from harness.util.data import data_folder, read_toml

log = proc.log

PROVIDER = "local"
FLAVOURS = {
    "minimal": ("minimal",),
    "debug": ("minimal", "debug"),
    "coverage": ("minimal", "coverage"),
    "bcc": ("minimal", "bcc"),
    "mutants": ("minimal", "mutants"),
}
"""Configuration fragments of each flavour, later ones override earlier ones; the architecture's follows the first."""

COVERAGE_FOLDER = "kernel/bpf"


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        kernel: The kernel, in the cache.
        gaps: Settings that it lacks.
        seconds: How long the compilation took.
        compiler: How it was compiled.
    """

    kernel: Kernel
    gaps: kconfig.Gaps
    seconds: float
    compiler: KernelCompiler


def cached(cc: str) -> str:
    """Return a compiler's command, through ccache where that is installed."""
    return f"ccache {cc}" if shutil.which("ccache") and "ccache" not in cc else cc


def copy_of_links(tree: Path, copy: Path) -> None:
    """Copy a tree cheaply: files are hard links where possible, so replace a file to change it."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    shutil.copytree(tree, copy, symlinks=True, copy_function=link)


def tree_version(tree: Path) -> KernelVersion:
    """Return the version of a kernel source tree.

    Raises:
        KernelFileError: It is not a kernel tree, or is incomplete.
    """
    makefile = tree / "Makefile"
    try:
        head = makefile.read_text(errors="replace")[:2000]
    except OSError as error:
        raise KernelFileError(
            f"{tree} is not a kernel source tree: {error.strerror or error} ({makefile.name})",
            expected="the top folder of a kernel tree",
            hint="name the folder that has the tree's Makefile and Kconfig",
        ) from error
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)", head, re.MULTILINE))
    missing = [name for name in ("Kconfig", "scripts/Makefile.lib", "kernel/bpf") if not (tree / name).exists()]
    if not {"VERSION", "PATCHLEVEL"} <= fields.keys() or missing:
        raise KernelFileError(
            f"{tree} is not a complete kernel source tree" + (f": it lacks {', '.join(missing)}" if missing else ""),
            expected="a tree with Makefile, Kconfig, scripts/ and kernel/bpf/",
        )
    rc = re.match(r"-rc\d+", fields.get("EXTRAVERSION", ""))
    number = ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if fields.get(name))
    return KernelVersion.parse(number + (rc[0] if rc else ""))


def fragment_settings(flavour: str, wanted: str = "") -> list[kconfig.Setting]:
    """Return the settings of a flavour's fragments, in order.

    Args:
        flavour: One of :data:`FLAVOURS`.
        wanted: Name of the architecture; "" for this machine's own.

    Raises:
        SelectorError: There is no such flavour.
    """
    of = architecture.or_own(wanted).name
    if flavour not in FLAVOURS:
        raise SelectorError(f"{flavour!r} is not a flavour to build", expected="one of " + ", ".join(FLAVOURS))
    first, *more = FLAVOURS[flavour]
    folder = data_folder("kernels") / "configs"
    return [
        setting
        for name in (first, of, *more)
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
    wanted: str = "",
    progress: Progress,
) -> Built:
    """Build a kernel and put it into the cache.

    Args:
        tree: The source tree; it is not written to.
        flavour: One of :data:`FLAVOURS`.
        origin: Where the tree came from, as text for the user.
        cc: The compiler, or "" to choose by the table.
        jobs: Parallel jobs; 0 for one per processor.
        again: Build even when the kernel is in the cache.
        revision: For a commit between releases, its hash. Selectors do not find such a kernel; :func:`choice_of`
            names it. Compiled files are kept, so that the next commit compiles only what differs.
        wanted: Name of the architecture; "" for this machine's own. Another's is compiled by Debian's cross compiler.
        progress: Called with a line of text for each step.

    Raises:
        KernelFileError: The tree is not a clean, whole kernel tree.
        BuildError: The build failed, or its result is unusable.
        ToolMissing: A program that builds need is missing.
        CacheError: The cache cannot be written.
    """
    version, compiler, asked = plan(tree, flavour, cc, progress, wanted)
    choice = choice_of(version, flavour, revision, wanted)
    key = choice.key
    if not again and (kernel := kernel_cache.load(choice, progress=progress)) is not None:
        return _recorded(kernel, key, compiler)
    work = kernel_cache.folder() / "build" / (f"commits-{_kind(flavour, compiler.wanted)}" if revision else key)
    with kernel_cache.new_entry(PROVIDER, key, again=again) as made, cache.locked(work.with_name(f"{work.name}.lock")):
        if made is not None:
            job = Job(tree, work, compiler, jobs or os.cpu_count() or 1, progress, keep=bool(revision))
            seconds, gaps = job.run(version, flavour, asked)
            job.collect(made, flavour)
            kernel_cache.seal(
                made,
                choice,
                origin=f"built here from {origin}, flavour {flavour}, {compiler.cc}",
                built=int(time.time()),
                seconds=round(seconds, 1),
                gaps={"required": [], "dropped": gaps.dropped, "unknown": gaps.unknown},
                build_folder=str(job.output),
                **({"revision": revision} if revision else {}),
            )
            if not job.keep:
                shutil.rmtree(job.folder, ignore_errors=True)
    kernel = kernel_cache.load(choice, progress=progress)
    assert kernel is not None, "the entry was made a moment ago"
    return _recorded(kernel, key, compiler)


def choice_of(version: KernelVersion, flavour: str, revision: str = "", wanted: str = "") -> Choice:
    """Return the choice that means a kernel built here; arguments as for :func:`build`."""
    name = f"{version}-g{revision[:12]}" if revision else str(version)
    of = architecture.or_own(wanted)
    label = f"{name}:{flavour}" if of.is_own else f"{name}:{of.name}:{flavour}"
    return Choice(label, version, PROVIDER, f"{name}-{_kind(flavour, of)}", flavour, architecture=of.name)


def _kind(flavour: str, of: architecture.Architecture) -> str:
    """Return the flavour, with the architecture where that is foreign: what keeps builds of one release apart."""
    return flavour if of.is_own else f"{flavour}-{of.name}"


def plan(
    tree: Path, flavour: str, cc: str, progress: Progress, wanted: str = ""
) -> tuple[KernelVersion, KernelCompiler, list[kconfig.Setting]]:
    """Check that this machine can build a tree; return its version, compiler and settings."""
    target = architecture.or_own(wanted)
    settings = fragment_settings(flavour, target.name)
    version = tree_version(tree)
    dirty = [name for name in (".config", "include/config", "include/generated") if (tree / name).exists()]
    if dirty:
        raise KernelFileError(
            f"the kernel tree {tree} has been built in (it has {', '.join(dirty)})",
            expected="a clean tree, because the harness builds in a separate folder",
            hint=f"make -C {tree} mrproper; or, to use that build: --kernel={tree}",
        )
    features = ("build", f"build-{flavour}", *([] if target.is_own else [f"build-{target.name}"]))
    needs.require(need.name for need in needs.table().of(features) if need.is_program)
    compiler = choose_compiler(read_toml("kernels", "compilers.toml")["row"], version, cc, gcc_major, target)
    if compiler.doubt:
        progress(f"warning: {compiler.doubt}")
    return version, compiler, kconfig.applicable(settings, version, lambda tool: shutil.which(tool) is not None)


def _recorded(kernel: Kernel, key: str, compiler: KernelCompiler) -> Built:
    entry = kernel_cache.read_entry(kernel_cache.entry_folder(PROVIDER, key))
    assert entry is not None, "a kernel that was loaded has an entry"
    gaps = kconfig.Gaps(**{kind: tuple(symbols) for kind, symbols in entry.record["gaps"].items()})
    return Built(kernel, gaps, float(entry.record["seconds"]), compiler)


class Job:
    """One build in its folder: `out/` is make's output folder, `build.log` its printed output."""

    def __init__(
        self, tree: Path, folder: Path, compiler: KernelCompiler, jobs: int, progress: Progress, *, keep: bool
    ) -> None:
        self.keep = keep
        self.tree = tree
        self.folder = folder
        self.output = folder / "out"
        self.log = folder / "build.log"
        self.compiler = compiler
        self.jobs = jobs
        self.progress = progress
        self.image = self.output / compiler.wanted.image_path

    def run(self, version: KernelVersion, flavour: str, asked: Sequence[kconfig.Setting]) -> tuple[float, kconfig.Gaps]:
        """Configure and build the kernel; return the seconds it took and the settings that it lacks."""
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        with cache.disk_errors(self.folder):
            self.output.mkdir(parents=True, exist_ok=True)
            self.log.unlink(missing_ok=True)
            if flavour == "coverage":
                self.tree = self._instrumented()
        gaps = self.configure(version, flavour, asked)
        started = time.monotonic()
        self.make(self.image.name, seconds=4 * 3600)
        return time.monotonic() - started, gaps

    def configure(self, version: KernelVersion, flavour: str, asked: Sequence[kconfig.Setting]) -> kconfig.Gaps:
        """Write the configuration; return the settings that it lacks."""
        self.progress(f"configuring {version} ({flavour}) with {self.compiler.cc}: {self.compiler.reason}")
        self.make("tinyconfig", seconds=1800)
        with (self.output / ".config").open("a") as config:
            config.write("".join(f"{setting.line()}\n" for setting in asked))
            config.write(f'CONFIG_LOCALVERSION="-{flavour}"\n# CONFIG_LOCALVERSION_AUTO is not set\n')
        self.make("olddefconfig", seconds=1800)
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
        """Copy what the cache keeps, after a check that the kernel can boot."""
        if not self.image.is_file():
            raise BuildError(f"the build made no {self.image}", expected="the kernel's image", hint=f"see {self.log}")
        alignment = bzimage.load_alignment((self.output / "vmlinux").read_bytes())
        if alignment < self.compiler.alignment:
            raise BuildError(
                f"the segments of the built vmlinux are aligned to {alignment:#x} bytes: it would hang silently",
                expected=f"{self.compiler.alignment:#x}",
                hint="give the linker -z max-page-size=0x200000 for this series, in kernels/compilers.toml",
            )
        shutil.copyfile(self.image, made / ("vmlinux" if self.image.name == "vmlinux" else "vmlinuz"))
        shutil.copyfile(self.output / ".config", made / "config")
        headers_of_its_own = self.output / "kernel" / "kheaders_data.tar.xz"
        if headers_of_its_own.is_file():
            shutil.copyfile(headers_of_its_own, made / kernel_cache.HEADERS)
        if flavour == "coverage":
            # gcov needs the compiler's notes and the sources, and the counters read in the guest.
            for pattern, top in (("*.gcno", self.output), ("*.c", self.tree), ("*.h", self.tree)):
                for path in (top / COVERAGE_FOLDER).rglob(pattern):
                    place = made / "coverage" / path.relative_to(top)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, place)

    def _instrumented(self) -> Path:
        """Return a copy of the tree that compiles the BPF core with counters.

        No option does this for one folder, so the folder's Makefile is replaced in a copy made of links.
        """
        copy = self.folder / "tree"
        shutil.rmtree(copy, ignore_errors=True)
        copy_of_links(self.tree, copy)
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
            f"ARCH={self.compiler.wanted.kbuild}",
            # Also where there is none: some trees name their owner's compiler in the Makefile.
            f"CROSS_COMPILE={self.compiler.wanted.cross}",
            # What was compiled before, for this kernel or another, is not compiled again.
            f"CC={cached(self.compiler.cc)}",
            *self.compiler.make,
            # Trees of vendors make every warning an error, and so do the tools of all trees (tools/lib/subcmd: gcc 12
            # warns of it in 5.10.7 and 5.15.0); a compiler newer than theirs warns of more.
            "KCFLAGS=-Wno-error",
            "WERROR=0",
            # So that the same tree and compiler give the same image.
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
            env = {name: value for name, value in os.environ.items() if not name.startswith(("KBUILD", "MAKE"))}
            with proc.group(argv, stdout=out, stderr=subprocess.STDOUT, env={**env, "LC_ALL": "C"}) as process:
                self._watch(process, target, started, seconds)
        if process.returncode != 0:
            raise BuildError(
                f"make {target} failed in {self.tree} with status {process.returncode}",
                expected="a kernel that compiles",
                hint=f"the complete output is in {self.log}; name another compiler with CC=",
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
    """Return the lines of make's output that show the error: the first errors, else the last lines."""
    all_lines = output.splitlines()
    tells = re.compile(r"\berror\b|\*\*\*|undefined reference|No such file|not found$")
    telling = [line for line in all_lines if tells.search(line)]
    return "\n".join(telling[:lines] or all_lines[-lines:])
