"""Asks a test program on this machine for the names of its tests."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.util import proc

TIMEOUT = 30.0
"""Seconds that a program has to list its tests."""

LIMIT = 8 << 20
"""Bytes that it may print."""

_LAST = 2000


def printed_list(argv: Sequence[str], cwd: Path, *, timeout: float = TIMEOUT) -> str:
    """Run a program that prints a list, and return what it prints.

    What it starts ends with it; it can neither wait for input nor print without end.

    Args:
        argv: The program and the arguments that make it list its tests.
        cwd: Its working folder.
        timeout: Seconds.

    Raises:
        UsageError: It fails, prints too much, or does not end in time.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with proc.group(argv, stdout=out, stderr=err, cwd=cwd) as process:
            # A write beyond it fails, or ends the program.
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
            why = ""
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                why = f"did not end within {timeout:g} s"
            proc.kill_group(process.pid)
            status = process.wait()
        if max(os.fstat(file.fileno()).st_size for file in (out, err)) >= LIMIT:
            why = f"printed more than {LIMIT >> 20} MiB"
        elif not why and status != 0:
            why = f"ended with status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"
        out.seek(0)
        text = out.read(LIMIT).decode(errors="replace")
        err.seek(0)
        said = err.read(LIMIT).decode(errors="replace")
    if why:
        raise UsageError(
            f"{argv[0]} cannot list its tests: it {why}",
            expected="the names of its tests",
            hint=f"run it by hand: cd {proc.quote([cwd])} && {proc.quote(argv)}",
            detail=(said.strip() or text.strip())[-_LAST:],
        )
    return text
