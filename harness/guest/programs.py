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
_STEP_MS = 20
"""Between two looks at a program that keeps its streams open; the end of its streams is seen at once."""
_MOST_PRINTED = 1 << 20
"""Bytes of output in one answer."""


class _Program:
    """One program that this process has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def _has_ended(self) -> bool:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                provenance.started(0)
        return self.returncode is not None


class _Running(_Program):
    """One program, and a thread that reads its output.

    Not subprocess.Popen and threading.Thread: importing them takes the guest longer than most programs run.
    """

    def __init__(self, pid: int, stdin: bytes, pipes: tuple[int, int, int], limit: int) -> None:
        super().__init__(pid)
        self.limit = limit
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


class _Streamed(_Program):
    """One program whose streams the host carries: it waits while the host does not fetch what it has printed."""

    def __init__(self, pid: int, pipes: tuple[int, int, int]) -> None:
        super().__init__(pid)
        self._into: int | None = pipes[0]
        self._names = {pipes[1]: "stdout", pipes[2]: "stderr"}
        self._pending = b""
        self._is_last = False
        os.set_blocking(pipes[0], False)

    def exchange(self, data: bytes, is_last: bool, timeout: float) -> calls.Exchanged:
        """Answer :func:`exchange`."""
        self._pending += data
        self._is_last = self._is_last or is_last
        deadline = time.monotonic() + timeout
        printed = {"stdout": bytearray(), "stderr": bytearray()}
        room = _MOST_PRINTED
        while room > 0:
            self._feed()
            # Other processes may still have the pipes open after the program ended; its own output is complete by now.
            over = self._has_ended()
            poll = select.poll()
            for fd in self._names:
                poll.register(fd, select.POLLIN)
            if self._into is not None and self._pending:
                poll.register(self._into, select.POLLOUT)
            waits = not over and room == _MOST_PRINTED
            ready = [fd for fd, _ in poll.poll(_STEP_MS if waits else 0) if fd != self._into]
            for fd in ready:
                piece = os.read(fd, min(room, 1 << 16))
                printed[self._names[fd]] += piece
                room -= len(piece)
                if not piece:
                    os.close(fd)
                    del self._names[fd]
            if not ready and (not waits or time.monotonic() > deadline):
                break
            if not self._names and not over:
                time.sleep(_PAUSE)
        else:
            over = False  # there may be more
        if over:
            self._end()
        return {
            "stdout": bytes(printed["stdout"]),
            "stderr": bytes(printed["stderr"]),
            "returncode": self.returncode if over else None,
            "pending": len(self._pending),
        }

    def _feed(self) -> None:
        if self._into is None:
            return
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._into, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._pending, self._is_last = b"", True  # the program closed its input
        if self._is_last:
            os.close(self._into)
            self._into = None

    def _end(self) -> None:
        """Kill the rest of its process group, and close the pipes."""
        _kill_group(self.pid, signal.SIGKILL)
        for fd in (*self._names, *([self._into] if self._into is not None else [])):
            os.close(fd)
        self._names, self._into = {}, None


_running: list[_Running] = []
_streamed: list[_Streamed] = []


def start(
    argv: list[str],
    stdin: bytes,
    env: dict[str, str],
    cwd: str,
    user: int | None,
    group: int | None,
    limit: int,
) -> int:
    """Start a program, and keep what it prints; return its pid.

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
    pid, pipes = _spawn(argv, env, cwd, user, group)
    _running.append(_Running(pid, stdin, pipes, limit))
    return pid


def begin(argv: list[str], env: dict[str, str], cwd: str, user: int | None, group: int | None) -> int:
    """Start a program whose streams the host carries with :func:`exchange`; arguments as for :func:`start`."""
    pid, pipes = _spawn(argv, env, cwd, user, group)
    _streamed.append(_Streamed(pid, pipes))
    return pid


def exchange(data: bytes, is_last: bool, timeout: float) -> calls.Exchanged:
    """Give the program of :func:`begin` input, and return what it has printed since the last call.

    Args:
        data: More bytes for its standard input.
        is_last: Whether its standard input ends with them.
        timeout: Seconds to wait for output or the program's end.

    Returns:
        What it printed; its return code once it has ended and all is fetched; how much input it has not taken yet.
    """
    return _streamed[0].exchange(data, is_last, timeout)


def _spawn(
    argv: list[str], env: dict[str, str], cwd: str, user: int | None, group: int | None
) -> tuple[int, tuple[int, int, int]]:
    """Start a program; return its pid, and this end of its three streams."""
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
    return pid, (stdin_in, out, err)


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
    _kill_group((_running or _streamed)[0].pid, number)


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
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
