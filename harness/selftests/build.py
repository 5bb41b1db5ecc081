"""Builds kselftest targets with the tree's own makefiles, and puts what each installs into a folder.

Make writes to a folder in the cache, where the next run finds what is up to date; the tree is only read.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import needs
from harness.errors import BuildError, MirrorError, ToolMissing, UsageError
from harness.kernel.build.kconfig import parse_config
from harness.selftests import modules, place, tools
from harness.selftests.against import Against, lacking
from harness.util import architecture, cache, proc
from harness.util.architecture import Architecture

_SELFTESTS = "tools/testing/selftests"
_NAME = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*")
_TIMEOUT = 3600.0
_SHARED = "TEST_INCLUDES"
_PROGRAMS = ("TEST_PROGS", "TEST_GEN_PROGS", "TEST_CUSTOM_PROGS")
_BESIDE = (
    "TEST_PROGS_EXTENDED",
    "TEST_GEN_PROGS_EXTENDED",
    "TEST_FILES",
    "TEST_GEN_FILES",
    _SHARED,
    "TEST_GEN_MODS_DIR",
)
_FAILED = re.compile(r"\*\*\* \[(?:[^\]\s]+: )?(?P<target>[^\]\s]+)\] Error")
"""The target of a recipe that failed, in what make prints."""


@dataclass(frozen=True)
class WantedSelftest:
    """What the user asks for.

    Attributes:
        target: A folder below tools/testing/selftests.
        test: One of its tests; "" for all that it runs by default.
    """

    target: str
    test: str = ""

    def __str__(self) -> str:
        return f"{self.target}:{self.test}" if self.test else self.target


@dataclass(frozen=True)
class Selftest:
    """A test that can run.

    Attributes:
        name: TARGET:TEST.
        path: The program in the folder of what the target installs; None where it could not be built.
        why: Why it could not, in make's last lines.
        timeout: Seconds that the target gives each of its tests; 0 where it sets no limit.
        options: The options that the target wants its kernels to be built with, in its file `config`.
        modules_for: What `uname -r` prints on the one kernel that loads the target's modules; "" where it has none.
    """

    name: str
    path: Path | None
    why: str = ""
    timeout: float = 0.0
    options: tuple[str, ...] = ()
    modules_for: str = ""

    @property
    def target(self) -> str:
        """The target's name."""
        return self.name.partition(":")[0]


def parse_wanted(text: str) -> WantedSelftest:
    """Read TARGET or TARGET:TEST.

    Raises:
        UsageError: It has another form.
    """
    target, colon, test = text.partition(":")
    if not all(_NAME.fullmatch(word) for word in ([target, test] if colon else [target])) or ".." in text:
        raise UsageError(f"{text!r} is not a target of selftests", expected="TARGET or TARGET:TEST")
    return WantedSelftest(target, test)


def wants_kernel(tree: Path, wanted: Iterable[WantedSelftest]) -> bool:
    """Return whether the makefile of a target asks for a kernel: for its types, or to build modules for it.

    Raises:
        UsageError: The tree has no such target.
    """
    folders = [_folder(tree, one) for one in wanted]
    return any(
        "VMLINUX_BTF" in (folder / "Makefile").read_text(errors="replace") or modules.are_wanted(folder)
        for folder in folders
    )


def build(
    tree: Path,
    wanted: Sequence[WantedSelftest],
    *,
    jobs: int,
    say: Callable[[str], None],
    target: Architecture | None = None,
    against: Against | None = None,
) -> list[Selftest]:
    """Build tests.

    Args:
        tree: The kernel tree.
        wanted: What to build, in the order in which it is to run.
        jobs: Parallel jobs of make; 0 for one per processor.
        say: Prints a line of progress.
        target: The architecture of the kernels that the tests are for; this machine's own by default.
        against: The kernel whose types, and build folder, the tests get; None for what the makefiles find on this
            machine.

    Raises:
        UsageError: The tree has no such target, or the target no such test.
        ToolMissing: A program is not installed that every build needs.
        BuildError: The kernel's headers cannot be made.
    """
    for one in wanted:
        _folder(tree, one)
    target = target or architecture.own()
    tools.check(target)
    name = str(tree.resolve()) + ("" if target.is_own else f" {target.name}")
    key = hashlib.sha256(name.encode()).hexdigest()[:20]
    out = cache.cache_root() / "selftests" / key
    with cache.disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        cache.mark_used(out)
    with cache.locked(out.with_name(f"{key}.lock")), cache.disk_errors(out):
        make = _Make(tree, out, jobs or os.cpu_count() or 1, target, say)
        say(f"building selftests of {tree}: the kernel's headers")
        make.headers()
        if against is not None:
            make.use(against, is_for_modules=any(modules.are_wanted(_folder(tree, one)) for one in wanted))
        found: dict[str, Selftest] = {}
        for one in wanted:
            say(f"building selftests of {tree}: {one}")
            for test in make.tests(one):
                found.setdefault(test.name, test)
    return list(found.values())


def _folder(tree: Path, wanted: WantedSelftest) -> Path:
    above = tree / _SELFTESTS
    if not (above / "lib.mk").is_file():
        raise UsageError(f"{tree} has no selftests", expected=f"a kernel tree with {_SELFTESTS}")
    folder = above / wanted.target
    if not (folder / "Makefile").is_file():
        names = sorted(path.parent.name for path in above.glob("*/Makefile"))
        near = difflib.get_close_matches(wanted.target, names, n=3)
        raise UsageError(
            f"{tree} has no selftests {wanted.target}",
            expected=f"a folder below {_SELFTESTS} that has a Makefile",
            hint=f"did you mean {' or '.join(near)}?" if near else f"ls {above}",
        )
    return folder


class _Make:
    """Runs make for one tree.

    Args:
        tree: The tree.
        out: The folder for all that is made.
        jobs: Parallel jobs.
        target: The architecture that is compiled for.
        say: Prints a line of progress.
    """

    def __init__(self, tree: Path, out: Path, jobs: int, target: Architecture, say: Callable[[str], None]) -> None:
        self._tree = tree
        self._out = out
        self._target = target
        self._say = say
        self._words: list[str | Path] = [needs.program("make"), f"-j{jobs}"]
        if not target.is_own:
            self._words += [f"ARCH={target.kbuild}", f"CROSS_COMPILE={target.cross}"]
        self._against: Against | None = None
        self._kernel: list[str] = []
        self._lacks = ""
        self._modules_for = ""

    def use(self, against: Against, *, is_for_modules: bool) -> None:
        """Give the makefiles a kernel.

        Args:
            against: The kernel.
            is_for_modules: Whether its build folder is wanted too.
        """
        self._against = against
        if against.types is not None:
            self._say(f"building selftests of {self._tree}: with the types (BTF) of {against.choice.label}")
            path = self._out / "types.btf"
            # What is made of it is made again when it changes, and only then.
            if not path.exists() or path.read_bytes() != against.types:
                path.write_bytes(against.types)
            self._kernel.append(f"VMLINUX_BTF={path}")
        if is_for_modules:
            try:
                folder = modules.build_folder(self._tree, against, self._out / "kernel", self._words, say=self._say)
            except (BuildError, ToolMissing, MirrorError) as error:
                # Most tests want no module; those that do are not built, and say this.
                self._lacks = str(error)
            else:
                self._kernel += [f"KDIR={folder}", *modules.warnings(folder)]
                self._modules_for = against.release

    def headers(self) -> None:
        """Make the headers that the kernel has for programs."""
        done = proc.run([*self._words, "-s", "-C", self._tree, f"O={self._out}", "headers"], timeout=_TIMEOUT)
        if done.status != 0:
            raise BuildError(
                f"the headers of {self._tree} cannot be made",
                expected="a tree in which `make O=FOLDER headers` works",
                detail=done.tail(),
            )

    def tests(self, wanted: WantedSelftest) -> list[Selftest]:
        """Build a target, or one test of it, and install what there is."""
        source = place.mirrored(
            self._tree, f"{_SELFTESTS}/{wanted.target}", self._out / "built" / wanted.target.replace("/", "-")
        )
        lists = self._lists(source, wanted)
        programs = [name for variable in _PROGRAMS for name in lists[variable]]
        extended = lists["TEST_GEN_PROGS_EXTENDED"] + lists["TEST_PROGS_EXTENDED"]
        if wanted.test:
            named = [name for name in [*programs, *extended] if Path(name).name == wanted.test]
            if not named:
                known = ", ".join(sorted({Path(name).name for name in programs}))
                raise UsageError(f"there is no selftest {wanted}", expected=f"one of {known}")
            programs = named[:1]
        # A script may start whatever the target builds.
        is_alone = wanted.test and programs[0].startswith("/")
        done = self._make(source, programs if is_alone else ["all"], [one for one in programs if one.startswith("/")])
        installed = self._out / "installed" / wanted.target.replace("/", "-")
        _install(source, installed, wanted.target, lists)
        for script in sorted((source.parent / "kselftest").glob("*.sh")):
            _copy(script, installed / "kselftest" / script.name)
        timeout, options = _timeout(source), _options(source)
        errors = [] if done.status == 0 else [tools.errors(done.stderr, self._target)]
        why = "\n".join([*errors, *([self._lacks] if self._lacks else []), *self._doubts(options)])
        modules_for = self._modules_for if modules.are_wanted(source) else ""
        result = []
        for program in dict.fromkeys(programs):
            name = Path(program).name
            there = installed / wanted.target / name if (source / program).is_file() else None
            result.append(Selftest(f"{wanted.target}:{name}", there, why, timeout, options, modules_for))
        return result

    def _make(self, source: Path, goals: Sequence[str], programs: Iterable[str]) -> proc.Completed:
        """Make what can be made of some goals; nothing stays of an earlier source that cannot be made of this one."""
        stamp = self._out / "began"
        stamp.touch()
        done = self._run(source, "-k", *goals)
        if done.status == 0:
            return done
        began = stamp.stat().st_mtime_ns
        paths = {source / name for name in (*_FAILED.findall(done.stderr), *programs)}
        old = [path for path in paths if path.is_file() and path.stat().st_mtime_ns < began]
        for path in old:
            path.unlink()
        # Programs that were up to date come back.
        return self._run(source, "-k", *goals) if old else done

    def _doubts(self, options: Sequence[str]) -> list[str]:
        """Return what the kernel lacks of what a target asks for: it has no types of that."""
        if self._against is None or self._against.types is None or self._against.kernel.settings is None:
            return []
        lacks = ", ".join(lacking(options, self._against.kernel.settings))
        label = self._against.choice.label
        return [f"the types (BTF) are those of {label}, which was built without {lacks}"] if lacks else []

    def _lists(self, source: Path, wanted: WantedSelftest) -> dict[str, list[str]]:
        """Return what the makefile lists: its tests, and the files that they need."""
        # make prints them itself: a shell takes no word as long as the list of all BPF objects.
        lines = "".join(f"$(info harness:{name}=$({name}))" for name in (*_PROGRAMS, *_BESIDE))
        done = self._run(source, "-s", f"--eval=harness-lists:;{lines}@:", "harness-lists")
        found = dict(re.findall(r"^harness:(\w+)=(.*)$", done.stdout, re.MULTILINE))
        if done.status != 0 or not found:
            raise BuildError(
                f"the makefile of the selftests {wanted.target} cannot be read",
                expected="a makefile that make understands on this machine",
                detail=done.tail(),
            )
        return {name: found.get(name, "").split() for name in (*_PROGRAMS, *_BESIDE)}

    def _run(self, source: Path, *words: str) -> proc.Completed:
        headers = f"-isystem {self._out / 'usr/include'}"
        env = dict(os.environ)
        shared = [self._tree / _SELFTESTS / name for name in ("Makefile", "lib.mk")]
        if not any("KHDR_INCLUDES" in path.read_text() for path in shared if path.is_file()):
            # Trees before 6.0. Later ones must not have it: make hands CFLAGS of the environment on to the makes that
            # it starts, together with what the makefiles add, and bpftool's then defines _GNU_SOURCE twice.
            env["CFLAGS"] = f"{env.get('CFLAGS', '')} {headers}".strip()
        return proc.run(
            [*self._words, "-C", source, *self._kernel, f"OUTPUT={source}", f"KHDR_INCLUDES={headers}", *words],
            timeout=_TIMEOUT,
            env=env,
        )


def _install(source: Path, installed: Path, target: str, lists: Mapping[str, Sequence[str]]) -> None:
    """Copy what exists of a target's files to where `make install` puts them."""
    settings = source / "settings"
    places = {
        # Files of other folders keep their place beside the target's own.
        name: os.path.normpath(f"{target}/{name if list_ == _SHARED else Path(name).name}")
        for list_, names in lists.items()
        for name in names
    }
    if settings.is_file():
        places["settings"] = f"{target}/settings"
    for name, where in places.items():
        if where.startswith(".."):
            continue
        if (source / name).exists():
            _copy(source / name, installed / where)
        elif (installed / where).is_file():
            (installed / where).unlink()


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        target.unlink(missing_ok=True)  # another run may be reading it
        shutil.copy2(path, target)


def _timeout(source: Path) -> float:
    """Return the seconds that a target gives each test: 45 where it says nothing, as upstream's runner has it."""
    try:
        text = (source / "settings").read_text()
    except FileNotFoundError:
        return 45.0
    match = re.search(r"^timeout=(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else 45.0


def _options(source: Path) -> tuple[str, ...]:
    """Return the options that a target wants its kernels to be built with."""
    file = source / "config"
    settings = parse_config(file.read_text(errors="replace")) if file.is_file() else {}
    return tuple(name for name, value in settings.items() if value in ("y", "m"))
