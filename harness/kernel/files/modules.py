"""Which module files a guest needs to load some modules, and in which order.

`modules.dep` is used when depmod has written it. Debian's packages have no such file, so otherwise the `depends=`
lines of the modules are read.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KernelFileError, SelectorError
from harness.kernel.files.decompress import unpacked
from harness.kernel.types import Kernel

_FILE = re.compile(r"(.+)\.ko(?:\.(?:xz|zst|gz))?")


def canonical(name: str) -> str:
    """Return a module's name as the kernel spells it: with "_" for "-", without the file's endings."""
    base = name.rpartition("/")[2]
    match = _FILE.fullmatch(base)
    return (match[1] if match else base).replace("-", "_")


@dataclass(frozen=True)
class ModulePlan:
    """The files to load for some modules.

    Attributes:
        files: The module files in loading order: each after its dependencies.
        builtin: The requested modules that are built into the kernel.
    """

    files: tuple[Path, ...]
    builtin: tuple[str, ...]


def plan(
    wanted: Iterable[str],
    files: Mapping[str, Path],
    builtin: frozenset[str],
    depends: Callable[[str], Iterable[str]],
    before: Callable[[str], Iterable[str]] = lambda _name: (),
) -> ModulePlan:
    """Sort modules and their dependencies into loading order. Pure.

    Args:
        wanted: Names of modules, in any spelling.
        files: The kernel's module files, by canonical name.
        builtin: Canonical names of modules that are built into the kernel.
        depends: Returns the modules that a module needs, by canonical names.
        before: Returns the modules that are to be loaded before a module where they are there, by canonical names.

    Raises:
        SelectorError: The kernel has no such module.
        KernelFileError: The modules depend on each other in a circle.
    """
    order: list[str] = []
    done: set[str] = set()
    inside: list[str] = []
    present = []

    def visit(name: str, needed_by: str) -> None:
        if name in done or name in builtin:
            return
        if name not in files:
            raise SelectorError(
                f"this kernel has no module {name!r}" + (f", which {needed_by} needs" if needed_by else ""),
                expected=f"one of its {len(files)} modules and {len(builtin)} built-in ones",
                hint=_similar(name, files.keys() | builtin),
            )
        if name in inside:
            raise KernelFileError(f"modules depend on each other in a circle: {' > '.join([*inside, name])}")
        inside.append(name)
        for other in depends(name):
            visit(canonical(other), name)
        for other in before(name):
            if other in files and other not in inside:  # which two modules may wish of each other
                visit(other, name)
        inside.pop()
        done.add(name)
        order.append(name)

    for name in map(canonical, wanted):
        if name in builtin:
            present.append(name)
        visit(name, "")
    return ModulePlan(tuple(files[name] for name in order), tuple(dict.fromkeys(present)))


def _similar(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "cloud kernels have few modules: try the generic flavour"


def parse_dep(text: str) -> dict[str, list[str]]:
    """Read modules.dep: canonical names of the modules that each module needs."""
    found = {}
    for line in text.splitlines():
        module, colon, others = line.partition(":")
        if colon:
            found[canonical(module)] = [canonical(other) for other in others.split()]
    return found


def parse_builtin(text: str) -> frozenset[str]:
    """Read modules.builtin: canonical names of what is built into the kernel."""
    return frozenset(canonical(line) for line in text.split())


def modinfo(data: bytes, name: str) -> dict[str, str]:
    """Read the `.modinfo` section of a module that is not compressed; of repeated keys, the first.

    Args:
        data: The module file.
        name: Its name in error messages.

    Raises:
        KernelFileError: It is not a kernel module.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
        if section is None:
            raise ValueError("no .modinfo section")
        pairs = [word.decode(errors="replace").partition("=") for word in section.data().split(b"\0") if b"=" in word]
    except (ELFError, ConstructError, ValueError, OverflowError) as error:
        raise KernelFileError(f"{name} is not a kernel module: {error}", expected="a .ko file") from error
    return {key: value for key, _, value in reversed(pairs)}


def read_module(path: Path) -> bytes:
    """Return a module file's content, decompressed by the ending of its name.

    Raises:
        KernelFileError: It is damaged.
    """
    try:
        return unpacked(path.read_bytes(), path.suffix)
    except ValueError as error:
        raise KernelFileError(
            f"the module {path} is damaged: {error}", hint="`harness kernels info --verify` checks the cache"
        ) from error


def softly(line: str) -> list[str]:
    """Return the modules that a module's `softdep` asks to be loaded before it. Pure.

    It may name an algorithm, such as ext4's crypto-crc32c, which the module crc32c_generic has: the guest has no
    modprobe that knows such names.
    """
    before = re.search(r"\bpre:([^:]*)(?:post:|$)", line)
    words = [canonical(word) for word in before[1].split()] if before else []
    return [name for word in words for name in (word, f"{word.removeprefix('crypto_')}_generic")]


def find(folder: Path, wanted: Iterable[str]) -> ModulePlan:
    """Find the files of modules and of their dependencies, in loading order.

    Args:
        folder: lib/modules/RELEASE of the kernel.
        wanted: Names of modules, in any spelling.

    Raises:
        SelectorError: The kernel has no such module.
        KernelFileError: A module file is damaged, or modules depend on each other in a circle.
    """
    files = {canonical(path.name): path for path in sorted(folder.rglob("*.ko*")) if _FILE.fullmatch(path.name)}
    builtin_file, dep_file = folder / "modules.builtin", folder / "modules.dep"
    builtin = parse_builtin(builtin_file.read_text()) if builtin_file.is_file() else frozenset[str]()
    known = parse_dep(dep_file.read_text()) if dep_file.is_file() else {}

    @functools.cache
    def info(name: str) -> dict[str, str]:
        return modinfo(read_module(files[name]), str(files[name]))

    def depends(name: str) -> list[str]:
        return known[name] if name in known else [word for word in info(name).get("depends", "").split(",") if word]

    def before(name: str) -> list[str]:
        return softly(info(name).get("softdep", ""))

    return plan(wanted, files, builtin, depends, before)


def find_in(kernel: Kernel, wanted: Iterable[str]) -> ModulePlan:
    """Find the files of modules of a kernel, as :func:`find` does.

    A kernel without module files still provides the modules that its configuration builds in (CONFIG_VETH=y for veth),
    like the minimal kernels that the harness builds.

    Raises:
        SelectorError: The kernel has no such module.
        KernelFileError: A module file is damaged, or modules depend on each other in a circle.
    """
    names = list(wanted)
    if not names:
        return ModulePlan((), ())
    if kernel.modules is not None:
        try:
            return find(kernel.modules, names)
        except SelectorError as error:
            what = error.what.replace("this kernel", f"the kernel {kernel.label} ({kernel.release})")
            raise SelectorError(what, expected=error.expected, hint=error.hint) from error
    text = kernel.config.read_text(errors="replace") if kernel.config is not None else ""
    enabled = {line.removesuffix("=y") for line in text.splitlines() if line.endswith("=y")}
    for name in names:
        option = f"CONFIG_{canonical(name).upper()}"
        if enabled.isdisjoint((option, f"{option}_FS")):  # the module overlay is CONFIG_OVERLAY_FS
            raise SelectorError(
                f"the kernel {kernel.label} ({kernel.release}) has no module files, and "
                + (f"its configuration lacks {option}=y" if text else "no configuration"),
                expected=f"the module {canonical(name)}, built in or as a file",
                hint="use another release or flavour; `harness kernels info` shows which kernels have modules",
            )
    return ModulePlan((), tuple(dict.fromkeys(map(canonical, names))))
