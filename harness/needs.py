"""What the harness needs on this machine besides Python packages: one table, and how to find what is missing.

The table is `needs.txt` beside this file. It is text, because `scripts/setup` reads it on machines that have no Python
yet. Messages about missing things take the Debian package and the purpose from it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ToolMissing

TABLE = Path(__file__).with_name("needs.txt")

STATIC = "static"
"""The requirement of a program that must load no shared library."""


@dataclass(frozen=True)
class Need:
    """A program, library or file that the machine should have.

    Attributes:
        names: Alternatives: paths of files, names of shared libraries, names of programs.
        enough: The minimum version, "static" for a program that loads no shared library, or "".
        variable: An environment variable that names another file or program instead, or "".
        packages: The Debian packages that contain it.
        features: The features that need it.
        purpose: Its purpose; follows "it is needed to".
    """

    names: tuple[str, ...]
    enough: str
    variable: str
    packages: tuple[str, ...]
    features: tuple[str, ...]
    purpose: str

    @property
    def name(self) -> str:
        """Its first name, for messages."""
        return self.names[0]

    @property
    def is_program(self) -> bool:
        """Whether it is a program, not a file or library."""
        return any("/" not in name and ".so" not in name for name in self.names)

    @property
    def install(self) -> str:
        """The command that installs it on Debian."""
        return f"apt-get install {' '.join(self.packages)}"

    def install_for(self, architecture: str) -> str:
        """Return the commands that install it for another architecture than this machine's, by Debian's name."""
        packages = " ".join(f"{one}:{architecture}" for one in self.packages)
        return f"dpkg --add-architecture {architecture} && apt-get update && apt-get install {packages}"


@dataclass(frozen=True)
class Table:
    """The table.

    Attributes:
        folders: Folders of programs in addition to PATH ("programs"), and folders of libraries ("libraries").
        features: The features, by name.
        scripts: The features that each command in scripts/ needs.
        architectures: The features that are architectures of kernels.
        needs: The needs, in the table's order.
    """

    folders: Mapping[str, tuple[str, ...]]
    features: Mapping[str, str]
    scripts: Mapping[str, tuple[str, ...]]
    architectures: tuple[str, ...]
    needs: tuple[Need, ...]

    def of(self, features: Iterable[str]) -> list[Need]:
        """Return the needs of these features."""
        wanted = set(features)
        return [need for need in self.needs if wanted & set(need.features)]


def parse(text: str) -> Table:
    """Read the table.

    Raises:
        ValueError: A line is malformed, or names a feature that the table does not explain.
    """
    folders: dict[str, tuple[str, ...]] = {}
    features: dict[str, str] = {}
    scripts: dict[str, tuple[str, ...]] = {}
    architectures: tuple[str, ...] = ()
    needs: list[Need] = []
    for number, line in enumerate(text.splitlines(), 1):
        kind, *rest = line.split(None, 1) or [""]
        fields = rest[0].split(None, 5) if rest else []
        if kind == "look" and len(fields) > 1:
            folders[fields[0]] = tuple(rest[0].split()[1:])
        elif kind == "feature" and len(fields) > 1:
            features[fields[0]] = rest[0].split(None, 1)[1]
        elif kind == "script" and len(fields) > 1:
            scripts[fields[0]] = tuple(rest[0].split()[1:])
        elif kind == "architectures" and fields:
            architectures = tuple(rest[0].split())
        elif kind == "need" and len(fields) == 6:
            names, enough, variable, packages, used_by, purpose = fields
            columns = (names, packages, used_by)
            listed = [tuple(column.split(",")) for column in columns]
            needs.append(
                Need(listed[0], enough.strip("-"), variable.strip("-"), listed[1], listed[2], purpose.rstrip())
            )
        elif kind and not kind.startswith("#"):
            raise ValueError(f"line {number} is not one of the five kinds: {line}")
    for used in (*scripts.values(), architectures, *(need.features for need in needs)):
        for name in used:
            if name not in features:
                raise ValueError(f"the feature {name} is not explained")
    return Table(folders, features, scripts, architectures, tuple(needs))


@functools.cache
def table() -> Table:
    """Return the table that comes with the package."""
    return parse(TABLE.read_text(encoding="utf-8"))


def need(name: str) -> Need:
    """Return the need with this name.

    Raises:
        KeyError: The table has no such need.
    """
    for one in table().needs:
        if name in one.names:
            return one
    raise KeyError(f"{name} is not in {TABLE.name}")


def named_in(text: str) -> Need | None:
    """Return the first need that a program's error message names in quotes; None when it names none.

    Args:
        text: As `Could not find ['depmod']`, or `please install busybox-static`.
    """
    words = re.findall(r"(?:(?<=['\"`])|(?<=install ))[\w./+-]+", text)
    return next((one for word in words for one in table().needs if word in one.names), None)


def find(wanted: Need) -> Path | None:
    """Return the path of a need on this machine, in any version; None when it is missing.

    If the need's environment variable is set, the file or program that it names is used instead.
    """
    named = os.environ.get(wanted.variable, "") if wanted.variable else ""
    for name in (named,) if named else wanted.names:
        path = _find(name)
        if path is not None and (wanted.enough != STATIC or is_static(path)):
            return path
    return None


def _find(name: str) -> Path | None:
    if "/" in name:
        path = Path(name).expanduser()
        return path if path.exists() else None
    if ".so" in name:
        paths = (Path(folder, name) for folder in table().folders["libraries"])
        return next((path for path in paths if path.exists()), None)
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def search_path() -> str:
    """Return PATH and, after it, the folders of programs for administrators, which a plain user's PATH lacks."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *table().folders["programs"]))


def is_static(path: Path) -> bool:
    """Return whether a program loads no shared library: it names no dynamic loader. `scripts/setup` does the same."""
    return b"/ld-linux" not in path.read_bytes()


def present(feature: str) -> bool:
    """Return whether all needs of a feature are present, in any version."""
    return all(find(one) is not None for one in table().of([feature]))


def missing(name: str, *, what: str = "", expected: str = "") -> ToolMissing:
    """Return the error for something that is missing, with its package and purpose from the table.

    Args:
        name: Its name in the table.
        what: What happened, if "it is not installed" is not precise.
        expected: What was expected, if not a program on PATH.
    """
    one = need(name)
    named = os.environ.get(one.variable, "") if one.variable else ""
    hint = one.install + (f", or name another with {one.variable}" if one.variable else "")
    if named:
        hint = f"correct {one.variable}, or unset it and {one.install}"
    return ToolMissing(
        what or f"{named or name} is not installed; it is needed to {one.purpose}",
        expected=expected or (f"a program named {named or name} on PATH" if one.is_program else named or name),
        hint=hint,
    )


def require(names: Iterable[str]) -> None:
    """Check that several things are there.

    Args:
        names: Their names in the table.

    Raises:
        ToolMissing: Some are missing; the error names them all.
    """
    lacking = [one for one in map(need, names) if find(one) is None]
    if len(lacking) == 1:
        raise missing(lacking[0].name)
    if lacking:
        packages = dict.fromkeys(package for one in lacking for package in one.packages)
        raise ToolMissing(
            f"{', '.join(one.name for one in lacking)} are not installed",
            expected="all of them",
            hint=f"apt-get install {' '.join(packages)}",
        )


def program(name: str) -> Path:
    """Return a program of the table: on PATH, or in the folders for administrators.

    Args:
        name: Its name in the table; its environment variable, if set, names another program.

    Raises:
        ToolMissing: It is not installed.
    """
    found = find(need(name))
    if found is None:
        raise missing(name)
    return found


def version_of(path: Path) -> str:
    """Return the first version number that a program prints for --version; "" when it prints none.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It does not end within 30 seconds.
    """
    done = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", timeout=30)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return found[0] if found else ""


def at_least(version: str, least: str) -> bool:
    """Return whether a version of numbers and dots is `least` or later."""
    return [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".")]
