"""Does jobs in forked processes, several at once.

A process, not a thread: what a job starts (QEMU) ends with the thread that started it, and a job that is interrupted
clears up as if it were alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from harness.errors import HarnessError, InfrastructureError
from harness.util.proc import die_with_parent

Job = TypeVar("Job")
Done = TypeVar("Done")
Say = Callable[[str], None]
Work = Callable[[Job, Say], Iterator[Done]]
"""Does a job: yields its results, one after the other. The other argument prints a line of progress."""

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def do(
    jobs: Sequence[Job], work: Work[Job, Done], *, at_once: int, say: Say
) -> Generator[tuple[int, Done], None, None]:
    """Do jobs, and yield the results as they come, each with the position of its job.

    When the caller stops reading, is interrupted, or a job fails, all jobs are asked to end and waited for.

    Args:
        jobs: The jobs. They are begun in this order.
        work: What does a job.
        at_once: Jobs at the same time, 1 or more. A single one, or one at a time, is done in this process.
        say: Prints a line of progress.

    Raises:
        HarnessError: What a job has raised.
        InfrastructureError: The process of a job ended too early.
        RuntimeError: A job has raised something else; the message has its traceback.
    """
    if min(at_once, len(jobs)) < 2:
        for number, job in enumerate(jobs):
            yield from ((number, result) for result in work(job, say))
        return
    running: dict[Connection, _RunningJob] = {}
    waiting = list(enumerate(jobs))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                _start(*waiting.pop(0), work, running)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection), "nothing else is running"
                yield from _received(connection, running, say)
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            _wait_for_end(one.process)


@dataclass(frozen=True)
class _RunningJob:
    """A job whose process runs.

    Attributes:
        number: The position of the job.
        process: The process.
    """

    number: int
    process: ForkProcess


def _wait_for_end(process: ForkProcess) -> None:
    """Wait until a process that was asked to end has ended."""
    # A signal that arrives just before a blocking call does not interrupt it: the next one does.
    while process.is_alive():
        process.join(1.0)
        process.terminate()


def _start(number: int, job: Job, work: Work[Job, Done], running: dict[Connection, _RunningJob]) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_body, args=(job, work, theirs, [ours, *running]), name=f"job {number}"
    )
    # An interrupt waits until the new process can handle it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        process.start()
        running[ours] = _RunningJob(number, process)
    finally:
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(connection: Connection, running: dict[Connection, _RunningJob], say: Say) -> Iterator[tuple[int, Any]]:
    """Receive what the process of a job has sent."""
    one = running[connection]
    try:
        kind, value = connection.recv()
    except EOFError:
        one.process.join()
        del running[connection]
        raise InfrastructureError(
            f"the process of a job ended with status {one.process.exitcode} before the job was done",
            expected="its results",
            hint="the system's log says whether memory ran out",
        ) from None
    if kind == "result":
        yield one.number, value
    elif kind == "say":
        say(value)
    elif kind == "raised":
        raise value
    else:
        one.process.join()
        del running[connection]
        connection.close()


class _Ended(BaseException):
    """This process was asked to end."""


def _end(number: int, frame: object) -> None:  # noqa: ARG001 - the signature of a signal handler
    signal.signal(signal.SIGTERM, _pass)  # what follows must not be interrupted
    raise _Ended


def _pass(number: int, frame: object) -> None:
    """Do nothing. A signal that is ignored would stay ignored in the programs that a job starts."""


def _body(job: Job, work: Work[Job, Done], pipe: Connection, others: Sequence[Connection]) -> None:
    """Do a job, as the body of a process."""
    die_with_parent()
    for one in others:
        one.close()
    signal.signal(signal.SIGINT, _pass)  # Ctrl-C reaches the parent too, which ends its jobs
    signal.signal(signal.SIGTERM, _end)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
        pipe.send(_last_words(job, work, pipe))
    except (_Ended, BrokenPipeError):
        os._exit(_INTERRUPTED)


def _last_words(job: Job, work: Work[Job, Done], pipe: Connection) -> tuple[str, Exception | None]:
    """Do a job; return what is to be sent after its results."""
    try:
        for result in work(job, lambda line: pipe.send(("say", line))):
            pipe.send(("result", result))
    except (HarnessError, BrokenPipeError) as error:
        return "raised", error
    except Exception:  # noqa: BLE001 - the parent raises it
        return "raised", RuntimeError(f"a job failed:\n{traceback.format_exc()}")
    return "end", None
