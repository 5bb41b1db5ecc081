"""The build folder of a kernel, which tests that are kernel modules are built in: KDIR of their makefiles.

For a kernel that was built in its own tree it is the tree. For others it is made of the tests' tree, which has the
kernel's version, and of what the kernel came with: its configuration, its types, and the symbols that it exports.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import needs
from harness.errors import BuildError
from harness.kernel.build.kbuild import tree_version
from harness.kernel.files import headers
from harness.selftests import tools
from harness.selftests.against import Against
from harness.util import architecture, proc

_TIMEOUT = 1200.0
_EXPORTS = "Module.symvers"
_KDIR = re.compile(r"^KDIR\b", re.MULTILINE)


def are_wanted(folder: Path) -> bool:
    """Return whether a target has modules that are built for a kernel of the user's choice."""
    return any(_KDIR.search(path.read_text(errors="replace")) for path in folder.rglob("Makefile"))


def warnings(folder: Path) -> list[str]:
    """Return words for make that let it build modules in a build folder that does not list the kernel's symbols."""
    return [] if (folder / _EXPORTS).is_file() else ["KBUILD_MODPOST_WARN=1"]


def build_folder(
    tree: Path, against: Against, folder: Path, make: Sequence[str | Path], *, say: Callable[[str], None]
) -> Path:
    """Return the build folder of a kernel.

    Args:
        tree: The tests' tree.
        against: The kernel.
        folder: Where it is made, if it has to be.
        make: The words that make is started with.
        say: Prints a line of progress.

    Raises:
        BuildError: It cannot be made.
        ToolMissing: A program is missing that it is made with.
        MirrorError: The list of symbols that the kernel exports is unavailable.
    """
    own = Path(against.choice.key)
    if (own / _EXPORTS).is_file():
        return own
    label, version = against.choice.label, tree_version(tree)
    if against.choice.version != version:
        raise BuildError(
            f"modules for {label} ({against.choice.version}) cannot be built from a tree of {version}",
            expected="the tree that the kernel was built from",
            hint=f"--source {against.choice.version}, or a --kernel of {version}",
        )
    settings = against.kernel.settings or {}
    if settings.get("MODULES") != "y":
        lack = "has no modules: it was built without CONFIG_MODULES" if settings else "came without its configuration"
        raise BuildError(
            f"modules cannot be built for {label}: it {lack}",
            expected="a kernel with modules and its configuration beside it",
        )
    programs = [need.name for need in needs.table().of(("build",)) if need.is_program]
    needs.require([*programs, *(["pahole"] if settings.get("DEBUG_INFO_BTF") == "y" else [])])
    exports = headers.exports_of(against.choice, progress=say)
    if exports is None and settings.get("MODVERSIONS") == "y":
        raise BuildError(
            f"modules cannot be built for {label}: it checks the versions of symbols (CONFIG_MODVERSIONS), and its "
            f"{_EXPORTS} is not at hand",
            expected="a kernel of Debian's, or a tree in which the kernel was built",
        )
    assert against.kernel.config is not None, "its settings were read a moment ago"
    files = {".config.given": against.kernel.config.read_bytes()}
    files |= {"vmlinux": against.types} if against.types is not None else {}
    files |= {_EXPORTS: exports.read_bytes()} if exports is not None else {}
    if all((folder / name).is_file() and (folder / name).read_bytes() == text for name, text in files.items()):
        return folder
    say(f"building selftests of {tree}: the build folder of {label}, for modules")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / ".config").write_bytes(files[".config.given"])
    for goals in (["olddefconfig"], ["modules_prepare"]):
        # Debian's releases are not what the tree's version says, and a kernel loads modules of its own release alone.
        done = proc.run(
            [*make, "-s", "-C", tree, f"O={folder}", f"KERNELRELEASE={against.release}", *goals], timeout=_TIMEOUT
        )
        if done.status != 0:
            raise BuildError(
                f"the build folder of {label} cannot be made of {tree}",
                expected=f"a clean tree in which `make O=FOLDER {goals[0]}` works",
                # Only programs of this machine are compiled here.
                detail=tools.errors(done.stderr, architecture.own()),
            )
    # Last: they show that it is whole. Types stand for the image that a compiler has them from.
    for name, text in files.items():
        (folder / name).write_bytes(text)
    return folder
