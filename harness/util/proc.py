"""Runs other programs: logs a line that can be pasted into a shell, limits the time, leaves no orphans."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import InfrastructureError, ToolMissing

log = logging.getLogger("harness.util.proc")

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Completed:
    """A program that ended.

    Attributes:
        argv: The command, as given.
        status: Exit status; negative is the signal that ended it.
        stdout: Standard output, decoded with replacement characters.
        stderr: Standard error, likewise.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def tail(self, lines: int = 15) -> str:
        """Return the last lines that it printed, preferably on standard error."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.split("\n")[-lines:])


def quote(argv: Sequence[str | Path]) -> str:
    """Return the command as one line that can be pasted into a shell."""
    return shlex.join(str(arg) for arg in argv)


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
) -> Completed:
    """Run a program to its end and return what it printed.

    Args:
        argv: Program and arguments; no shell is involved.
        timeout: Seconds that it may take; then its process group is killed.
        env: Environment; default: the caller's.
        cwd: Working folder.
        stdin: Bytes for its standard input; default: none.

    Raises:
        ToolMissing: The program does not exist.
        InfrastructureError: It did not end in time.
    """
    log.info("+ %s", quote(argv))
    words = tuple(str(arg) for arg in argv)
    with group(
        words,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            kill_group(process.pid)
            out, err = process.communicate()
            raise InfrastructureError(
                f"{words[0]} did not end within {timeout:g} s",
                expected="an exit before the time-out",
                hint=f"run it by hand: {quote(argv)}",
                detail=err.decode(errors="replace")[-2000:],
            ) from error
    return Completed(words, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


_WATCH = 'trap "" HUP INT TERM; read -r over || kill -s KILL -- "-$1"'
"""What a shell runs to kill a process group when the harness has ended without a word."""


@contextmanager
def group(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in a process group of its own, which ends with the body and with the harness, even if killed.

    The kernel kills the program itself with the harness, but not what it started: the compilers of a make.

    Args:
        argv: Program and arguments; no shell is involved.
        stdin: As for subprocess.Popen; so are `stdout` and `stderr`.
        stdout: See `stdin`.
        stderr: See `stdin`.
        env: Environment; default: the caller's.
        cwd: Working folder.

    Raises:
        ToolMissing: The program does not exist.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{argv[0]} cannot be started: {error}", hint=f"install {argv[0]}") from error
    nothing = subprocess.DEVNULL
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "sh", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:
        kill_group(process.pid)
        process.wait()
        raise
    finally:
        watch.communicate(b"over\n")


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads; no error when it is gone."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


# Loaded here, because a child between fork and exec should do as little as possible.
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Let the kernel kill this forked child when the thread that forked it ends. Called before exec."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
