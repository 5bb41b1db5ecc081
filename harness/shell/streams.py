"""The standard streams of a command in a guest: vng opens them a second time, which not every stream allows."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from harness.util.proc import die_with_parent


def can_be_opened_anew(descriptor: int) -> bool:
    """Return whether vng may open what a descriptor of this process leads to a second time, as it does with 0 to 2.

    A file of another user, or a socket, cannot be opened, and then vng waits for ever or loses what the command prints.
    A regular file can be, but is cut off by it.

    Args:
        descriptor: 0, 1 or 2.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True


def through_pipes(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run vng with pipes of our own as its standard streams, which it may open.

    Args:
        argv: vng's command line.
        environment: Its environment.

    Returns:
        Its exit status; 128 and the signal's number when a signal ended it.
    """
    given: list[IO[bytes] | int] = []
    writers: list[subprocess.Popen[bytes]] = []
    reader: subprocess.Popen[bytes] | None = None
    for descriptor in range(3):
        if not _is_open(descriptor):
            given.append(subprocess.DEVNULL)
        elif descriptor == 0:
            reader = subprocess.Popen(["cat"], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
            assert reader.stdout is not None
            given.append(reader.stdout)
        else:
            writer = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=descriptor, preexec_fn=die_with_parent, start_new_session=True
            )
            assert writer.stdin is not None
            writers.append(writer)
            given.append(writer.stdin)
    stdin, stdout, stderr = given
    with subprocess.Popen(
        argv, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, preexec_fn=die_with_parent
    ) as vng:
        try:
            for stream in given:
                if not isinstance(stream, int):
                    stream.close()
            status = vng.wait()
        except BaseException:
            vng.terminate()
            raise
        finally:
            if reader is not None:
                reader.kill()
                reader.wait()
    for writer in writers:
        writer.wait()
    return status if status >= 0 else 128 - status


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
