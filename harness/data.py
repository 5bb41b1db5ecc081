"""Finds the data folders `kernels/` and `bpf/`: beside the package in a checkout, inside it in a wheel.

Imports only :mod:`harness.errors`.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import InfrastructureError

_PACKAGE = Path(__file__).resolve().parent


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
