"""A project's objects in one file: `harness check --config check.toml`.

The file's keys are the command's options without their dashes; a list repeats one. Keys above the first `[[object]]`
are for all objects; those below are for one, and win::

    kernel = ["5.10", "6.1", "lts"]
    attach = true

    [[object]]
    path = "build/tracer.bpf.o"
    inner = ["traced=hash:4:4:8"]

    [[object]]
    path = "src/filter.bpf.c"
    D = ["DEBUG=1"]
    run-loader = "./loader {object}"

Paths are relative to the file's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.util.data import read_user_toml

OF_RUN = ("kernel", "format", "differences", "accel", "boot-timeout", "baseline", "threshold", "record")
"""Options that are for the whole run, not for one object."""
_PATHS = ("btf", "I", "baseline", "record")
_SHORT = ("D", "I")


def read_config(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the words of the whole run, and the command's words for each object.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be read, or names no object.
    """
    content = read_user_toml(path)
    objects = content.pop("object", [])
    if not isinstance(objects, list) or not objects or not all(isinstance(one, dict) for one in objects):
        raise UsageError(f"{path} names no object", expected='[[object]] with path = "FILE" for each object')
    run = [word for key in OF_RUN if key in content for word in _words(path, key, content.pop(key))]
    found = []
    for number, one in enumerate(objects, 1):
        settings = {**content, **one}
        file = settings.pop("path", None)
        if not isinstance(file, str):
            raise UsageError(f"{path}: object {number} has no path", expected='path = "FILE"')
        wrong = sorted(set(OF_RUN).intersection(one))
        if wrong:
            raise UsageError(
                f"{path}: {', '.join(wrong)} of object {number} is for the whole run", expected="it above [[object]]"
            )
        words = [word for key, value in settings.items() for word in _words(path, key, value)]
        found.append([str(path.parent / file), *words])
    return run, found


def _words(path: Path, key: str, value: Any) -> list[str]:
    """Return a setting as words of a command line."""
    if isinstance(value, bool):
        return [f"--{key}"] if value else []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in values):
        raise UsageError(
            f"{path}: {key} = {value!r} is not usable", expected="a text, a number, true, false, or a list"
        )
    option = f"-{key}" if key in _SHORT else f"--{key}="
    return [f"{option}{_placed(path, key, str(one))}" for one in values]


def _placed(path: Path, key: str, value: str) -> str:
    if key in _PATHS:
        return str(path.parent / value)
    if key == "run-loader":
        first, _, rest = value.partition(" ")
        if "/" in first:
            return f"{path.parent.resolve() / first} {rest}".rstrip()
    return value
