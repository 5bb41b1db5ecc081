"""Finds the data folders `kernels/` and `bpf/`: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from harness.errors import InfrastructureError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PACKAGE = Path(__file__).resolve().parent.parent


def data_folder(name: str) -> Path:
    """Return the data folder `name` ("kernels" or "bpf").

    Raises:
        InfrastructureError: The installation lacks it.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InfrastructureError(
        f"the data folder {name!r} of kernel-harness is missing",
        expected=f"{_PACKAGE / '_data' / name}, or {_PACKAGE.parent / name} in a checkout",
        hint="reinstall kernel-harness",
    )


@functools.cache
def read_toml(folder: str, file: str) -> dict[str, Any]:
    """Return the content of a data file; it is read once, and callers must not change it.

    Args:
        folder: The data folder, as in :func:`data_folder`.
        file: The file's name in it.

    Raises:
        InfrastructureError: The installation lacks it, or it is damaged.
    """
    path = data_folder(folder) / file
    try:
        return _parse(path)
    except (OSError, ValueError) as error:
        raise InfrastructureError(
            f"the data file {path} cannot be read: {error}", expected="a TOML file", hint="reinstall kernel-harness"
        ) from error


def read_user_toml(path: Path) -> dict[str, Any]:
    """Return the content of a user's file.

    Raises:
        UsageError: It cannot be read, or is not a TOML file.
    """
    try:
        return _parse(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", expected="a TOML file") from error


def _parse(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return parsed
