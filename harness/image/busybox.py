"""The applets of a static busybox: what a guest's scripts and system(3) have for a shell and its tools."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import BuildError
from harness.util.proc import run

PLACE = "usr/bin/busybox"
"""Where a folder with the programs of another architecture has it."""

_TABLE = re.compile(rb"\[\0\[\[\0(?:[\w.+-]+\0)+")


def listed(busybox: Path) -> list[str]:
    """Return the names of the applets of this machine's busybox, as it lists them itself.

    Raises:
        BuildError: It does not.
    """
    done = run([busybox, "--list"], timeout=20)
    if done.status != 0:
        raise BuildError(
            f"{busybox} --list failed", expected="the names of its applets", hint="reinstall it", detail=done.tail()
        )
    return done.stdout.split()


def read(busybox: Path) -> list[str]:
    """Return the names of the applets of a busybox that cannot be run here: from its table of them (applet_names).

    Raises:
        BuildError: It has none.
    """
    match = _TABLE.search(busybox.read_bytes())
    if match is None:
        raise BuildError(f"{busybox} has no table of applets", expected="a busybox of Debian's package busybox-static")
    return match[0].decode().rstrip("\0").split("\0")
