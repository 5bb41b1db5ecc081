"""What building selftests wants of this machine: what every build needs, and what the output of one shows to lack."""

from __future__ import annotations

import re

from harness import needs
from harness.kernel.build.kbuild import first_errors
from harness.util.architecture import Architecture

_MISSING = re.compile(
    r"fatal error: (?P<header>[\w./-]+\.h): No such file|cannot find -l(?P<library>\w+)"
    r"|(?P<program>[\w.-]+): (?:command )?not found"
)


def check(target: Architecture) -> None:
    """Refuse to build where something is missing that every build needs.

    Args:
        target: The architecture that is compiled for.

    Raises:
        ToolMissing: It is missing; the error names all that is.
    """
    own = ("ld", "/usr/include/stdio.h") if target.is_own else ()
    needs.require(["make", f"{target.cross}gcc", *own])


def errors(printed: str, target: Architecture) -> str:
    """Return the first errors of a build, and how to install what it lacked.

    Args:
        printed: What make printed on standard error.
        target: The architecture that was compiled for.
    """
    return "\n".join([first_errors(printed), *installs(printed, target)])


def installs(printed: str, target: Architecture) -> list[str]:
    """Return how to install what a build lacked, one line for each package.

    Args:
        printed: What make printed on standard error.
        target: The architecture that was compiled for; the files of another than this machine's are in packages of its
            own.
    """
    found: dict[str, None] = {}
    for match in _MISSING.finditer(printed):
        headers = [match["header"]] if match["header"] else [f"{match['library']}.h", f"lib{match['library']}.h"]
        for need in needs.table().needs:
            if match["program"] in need.names:
                found[f"{match[0]}: {need.install}"] = None
            elif any(name.endswith(f"/{header}") for name in need.names for header in headers):
                how = need.install if target.is_own else need.install_for(target.name)
                found[f"{match[0]}: {how}"] = None
    return list(found)
