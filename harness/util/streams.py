"""The standard streams: a shell may have closed them, and a locale may lack letters."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def open_closed() -> None:
    """Open those that are closed on /dev/null: else the next file or socket that is opened takes their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def allow_every_letter() -> None:
    """Print letters that the output's encoding lacks as escapes, in place of an error."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
