"""The ini setting `harness_programs`: which files are test programs, of which kind, and how to run them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.programs.kinds import KINDS, ProgramKind
from harness.pytest_plugin.options import PROGRAMS_SETTING

_TIMEOUT = 120.0
_MEMORY = 256
_FORM = "KIND [cwd=FOLDER] [args=WORDS] [env=NAME=VALUE] [timeout=S] [memory=MIB] [scope=module]: PATTERN ..."
_SCOPES = ("function", "module")


@dataclass(frozen=True)
class Named:
    """One line of the setting.

    Attributes:
        line: The line itself, for messages.
        kind: What the programs are.
        patterns: Which files they are, relative to the project's root.
        cwd: Their working folder, relative to that too; "" for the folder of each.
        args: More arguments for each run.
        env: More variables than PATH, HOME and LANG.
        timeout: Seconds for one test.
        memory: MiB of the guest's memory.
        scope: What tests share a machine: "function" for none, "module" for those of one program.
    """

    line: str
    kind: ProgramKind
    patterns: tuple[str, ...]
    cwd: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = _TIMEOUT
    memory: int = _MEMORY
    scope: str = "function"


def parse(line: str) -> Named:
    """Read a line of the setting.

    Raises:
        UsageError: It has another form.
    """
    head, colon, rest = line.partition(": ")
    (word, *settings), patterns = _words(line, head) or [""], tuple(_words(line, rest))
    if word not in KINDS:
        raise _wrong(line, f"{word!r} is not a kind of program; the kinds are {', '.join(KINDS)}")
    if not colon or not patterns:
        raise _wrong(line, "it names no files")
    given: dict[str, str] = {}
    env: dict[str, str] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "env" and "=" in value:
            variable, _, text = value.partition("=")
            env[variable] = text
        elif name in ("cwd", "args", "timeout", "memory", "scope") and value:
            given[name] = value
        else:
            raise _wrong(line, f"{setting!r} is not a setting")
    scope = given.get("scope", _SCOPES[0])
    if scope not in _SCOPES:
        raise _wrong(line, f"the scope is {' or '.join(_SCOPES)}, not {scope!r}")
    return Named(
        line,
        KINDS[word],
        patterns,
        given.get("cwd", ""),
        tuple(_words(line, given.get("args", ""))),
        env,
        _number(line, "timeout", given, _TIMEOUT),
        int(_number(line, "memory", given, _MEMORY)),
        scope,
    )


def _words(line: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _wrong(line, f"its quotes are wrong: {error}") from None


def _number(line: str, name: str, given: Mapping[str, str], default: float) -> float:
    try:
        found = float(given.get(name, default))
    except ValueError:
        found = 0
    if not 0 < found < float("inf"):
        raise _wrong(line, f"{name}={given[name]} is not a number above 0")
    return found


def _wrong(line: str, why: str) -> UsageError:
    return UsageError(f"{PROGRAMS_SETTING}: {line!r}: {why}", expected=_FORM, hint="for example: go: build/*.test")


def find(lines: Iterable[Named], root: Path) -> tuple[dict[Path, Named], list[str]]:
    """Return the files that the lines name, and the patterns that name none.

    Args:
        lines: The setting.
        root: The project's root.

    Raises:
        UsageError: Two lines name one file, or one names a file outside the project.
    """
    found: dict[Path, Named] = {}
    without: list[str] = []
    for named in lines:
        for pattern in named.patterns:
            anchor = Path(Path(pattern).anchor) if Path(pattern).is_absolute() else root
            relative = str(Path(pattern).relative_to(anchor)) if Path(pattern).is_absolute() else pattern
            files = sorted(Path(os.path.normpath(path)) for path in anchor.glob(relative) if path.is_file())
            if not files:
                without.append(pattern)
            for path in files:
                if not path.is_relative_to(root):
                    # pytest gives such a file no name of its own, and never looks there by itself.
                    raise UsageError(
                        f"{PROGRAMS_SETTING}: {named.line!r} names {path}, which is outside the project",
                        expected=f"files below {root}",
                        hint="make a symbolic link to it in the project, and name that",
                    )
                if found.setdefault(path, named) is not named:
                    raise UsageError(
                        f"{PROGRAMS_SETTING}: {path} is named by {found[path].line!r} and by {named.line!r}",
                        expected="each program on one line",
                    )
    return found, without
