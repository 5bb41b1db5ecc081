"""A program that runs in the guest for the host: started, watched, waited for, ended. One for each guest process.

Runs in the guest. Imports the standard library alone.
"""

from __future__ import annotations

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

_KEPT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_PAUSE = 0.01


class _Running:
    """One program, and a thread that takes what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, limit: int) -> None:
        import threading  # as subprocess below: only for those who run programs

        self.process = process
        self.limit = limit
        self.output = {"stdout": bytearray(), "stderr": bytearray()}
        self.cut = False
        self._stdin = memoryview(stdin)
        self.pump = threading.Thread(target=self._pump, daemon=True)
        self.pump.start()

    def _pump(self) -> None:
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        names = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr"}
        poll = select.poll()
        for fd in names:
            poll.register(fd, select.POLLIN)
        if self._stdin:
            os.set_blocking(process.stdin.fileno(), False)
            poll.register(process.stdin.fileno(), select.POLLOUT)
        else:
            process.stdin.close()
        while names:
            # A program that ended may have left the pipes to others: what it wrote itself is there by now.
            ended = process.poll() is not None
            ready = poll.poll(0 if ended else 50)
            for fd, _ in ready:
                if fd not in names:
                    self._feed(poll, fd)
                    continue
                data = os.read(fd, 1 << 16)
                if not data:
                    poll.unregister(fd)
                    del names[fd]
                kept = self.output.get(names.get(fd, ""))
                if kept is not None:
                    room = self.limit - len(kept)
                    self.cut = self.cut or len(data) > room
                    kept += data[:room]
            if ended and not any(fd in names for fd, _ in ready):
                break
        process.wait()

    def _feed(self, poll: select.poll, fd: int) -> None:
        assert self.process.stdin is not None
        try:
            self._stdin = self._stdin[os.write(fd, self._stdin) :]
        except BrokenPipeError:
            self._stdin = self._stdin[:0]  # it does not want to know
        if not self._stdin:
            poll.unregister(fd)
            self.process.stdin.close()


_running: list[_Running] = []


def start(
    argv: list[str],
    stdin: bytes,
    env: dict[str, str],
    cwd: str,
    user: int | None,
    group: int | None,
    limit: int,
) -> int:
    """Start a program; return its pid.

    Args:
        argv: Program and arguments.
        stdin: Bytes on its standard input.
        env: Variables beside PATH, HOME and LANG.
        cwd: Its working folder.
        user: User id; None for root.
        group: Group id; None for the user id.
        limit: Bytes of each output that are kept.
    """
    import subprocess  # it takes other imports along, which only those who run programs should pay for

    found = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": _KEPT_PATH, "HOME": "/root", "LANG": "C.UTF-8", **env},
        cwd=cwd,
        user=user,
        group=user if group is None else group,
        extra_groups=None if user is None else [],
        start_new_session=True,
    )
    _running.append(_Running(found, stdin, limit))
    return found.pid


def wait(timeout: float, text: bytes = b"") -> bool:
    """Wait until the program has ended, or has printed a text; return whether that came to be.

    Args:
        timeout: Seconds.
        text: What to wait for; b"" waits for the end.
    """
    running = _running[0]
    if not text:
        running.pump.join(timeout)
        return not running.pump.is_alive()
    deadline = time.monotonic() + timeout
    while True:
        alive = running.pump.is_alive()
        if any(text in kept for kept in running.output.values()):
            return True
        if not alive or time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def send_signal(number: int) -> None:
    """Send a signal to the program and all that it started in its process group."""
    try:
        os.killpg(_running[0].process.pid, number)
    except ProcessLookupError:
        return


def collect() -> dict[str, Any]:
    """Return what became of the program so far; what is left of its process group is killed if it has ended."""
    running = _running[0]
    ended = not running.pump.is_alive()
    if ended:
        send_signal(signal.SIGKILL)
    return {
        "returncode": running.process.returncode if ended else None,
        "stdout": bytes(running.output["stdout"]),
        "stderr": bytes(running.output["stderr"]),
        "cut": running.cut,
    }
