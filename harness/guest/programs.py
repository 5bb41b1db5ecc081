"""A program that runs in the guest for the host: starts it, supervises it, waits, ends it. One per guest process.

Runs in the guest.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import time

from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from harness.guest import calls

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_PAUSE = 0.01


class _Running:
    """One program, and a thread that reads its output.

    Not subprocess.Popen and threading.Thread: importing them takes the guest longer than most programs run.
    """

    def __init__(self, pid: int, stdin: bytes, pipes: tuple[int, int, int], limit: int) -> None:
        self.pid = pid
        self.limit = limit
        self.returncode: int | None = None
        self.output = {"stdout": bytearray(), "stderr": bytearray()}
        self.cut = False
        self.ended = _thread.allocate_lock()
        self.ended.acquire()
        _thread.start_new_thread(self._pump, (memoryview(stdin), *pipes))

    def _pump(self, stdin: memoryview, into: int, out: int, err: int) -> None:
        names = {out: "stdout", err: "stderr"}
        poll = select.poll()
        for fd in names:
            poll.register(fd, select.POLLIN)
        os.set_blocking(into, False)
        poll.register(into, select.POLLOUT)
        while names or self.returncode is None:
            # Other processes may still have the pipes open after the program ended; its own output is complete by now.
            over = self._has_ended()
            ready = poll.poll(0 if over else 50)
            for fd, _ in ready:
                if fd == into:
                    stdin = _feed(fd, stdin)
                    if not stdin:
                        poll.unregister(fd)
                        os.close(fd)
                        into = -1
                    continue
                data = os.read(fd, 1 << 16)
                if data:
                    kept = self.output[names[fd]]
                    room = self.limit - len(kept)
                    self.cut = self.cut or len(data) > room
                    kept += data[:room]
                else:
                    poll.unregister(fd)
                    del names[fd]
            if over and not any(fd in names for fd, _ in ready):
                break
        for fd in (into, out, err):
            if fd >= 0:
                os.close(fd)
        self.ended.release()

    def _has_ended(self) -> bool:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                provenance.started(0)
        return self.returncode is not None

    def wait(self, timeout: float) -> bool:
        """Wait for the end; return whether the program has ended."""
        if not self.ended.acquire(timeout=timeout):
            return False
        self.ended.release()
        return True


def _feed(fd: int, stdin: memoryview) -> memoryview:
    try:
        return stdin[os.write(fd, stdin) :] if stdin else stdin
    except BrokenPipeError:
        return stdin[:0]  # the program closed its input


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
        stdin: Bytes for its standard input.
        env: More variables than PATH, HOME and LANG.
        cwd: Its working folder.
        user: User id; None for root.
        group: Group id; None for the user id.
        limit: Bytes of each output to keep.

    Raises:
        OSError: There is no such program or folder, or the program cannot run.
    """
    (stdin_out, stdin_in), (out, out_in), (err, err_in), (trouble, trouble_in) = (os.pipe() for _ in range(4))
    pid = os.fork()
    if pid == 0:
        variables = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **env}
        _become(argv, variables, cwd, user, group, (stdin_out, out_in, err_in), trouble_in)
    for fd in (stdin_out, out_in, err_in, trouble_in):
        os.close(fd)
    said = os.read(trouble, 16)
    os.close(trouble)
    if said:
        os.waitpid(pid, 0)
        for fd in (stdin_in, out, err):
            os.close(fd)
        raise OSError(int(said), os.strerror(int(said)), argv[0])
    provenance.started(pid)
    _running.append(_Running(pid, stdin, (stdin_in, out, err), limit))
    return pid


def _become(
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    user: int | None,
    group: int | None,
    streams: tuple[int, int, int],
    trouble: int,
) -> NoReturn:
    """In the forked child: become the program, or report why not."""
    try:
        os.setsid()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
        os.chdir(cwd)
        if user is not None or group is not None:
            os.setgroups([])
            os.setgid(group if group is not None else user or 0)
            os.setuid(user or 0)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - an argument list; no shell reads it
    except OSError as error:
        os.write(trouble, b"%d" % (error.errno or 5))
    finally:
        os._exit(127)


def wait(timeout: float, text: bytes) -> bool:
    """Wait until the program has ended or printed a text; return whether it did.

    Args:
        timeout: Seconds.
        text: The text to wait for; b"" waits for the end.
    """
    running = _running[0]
    if not text:
        return running.wait(timeout)
    deadline = time.monotonic() + timeout
    while True:
        alive = not running.wait(0)
        if any(text in kept for kept in running.output.values()):
            return True
        if not alive or time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def send_signal(number: int) -> None:
    """Send a signal to the program's process group."""
    try:
        os.killpg(_running[0].pid, number)
    except ProcessLookupError:
        return


def collect() -> calls.Collected:
    """Return the program's result so far; if it has ended, the rest of its process group is killed."""
    running = _running[0]
    ended = running.wait(0)
    if ended:
        send_signal(signal.SIGKILL)
    return {
        "returncode": running.returncode if ended else None,
        "stdout": bytes(running.output["stdout"]),
        "stderr": bytes(running.output["stderr"]),
        "cut": running.cut,
    }
