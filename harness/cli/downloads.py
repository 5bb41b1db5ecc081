"""Downloads on the command line: side by side, with a progress bar for each."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from harness.kernel.files.download import Meter, no_meter


def parallel(jobs: Sequence[Callable[[], Any]], workers: int, stop: threading.Event) -> list[Any]:
    """Run jobs side by side; when one fails, start no further ones, let the running ones end, and raise.

    An interrupt is passed on by setting `stop`, at which a download ends where it is, to go on another time.

    Args:
        jobs: The jobs.
        workers: Jobs at the same time.
        stop: Set when the jobs must end.

    Returns:
        What they return, in their order.
    """
    if len(jobs) == 1:
        # In the main thread an interrupt is felt even while nothing arrives.
        return [jobs[0]()]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            futures: list[Future[Any]] = [pool.submit(job) for job in jobs]
            wait(futures, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    # The first that failed says why; those after it were perhaps not even started.
    return [future.result() for future in sorted(futures, key=lambda future: future.cancelled())]


@contextmanager
def bars() -> Iterator[Meter]:
    """Show a progress bar with speed for each download, on a terminal; elsewhere lines of progress must do."""
    if not sys.stderr.isatty():
        yield no_meter
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=2)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        DownloadColumn(table_column=Column(no_wrap=True)),
        TransferSpeedColumn(table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as shown:
        tasks: dict[str, Any] = {}
        lock = threading.Lock()

        def meter(name: str, done: int, total: int) -> None:
            with lock:
                if name not in tasks:
                    tasks[name] = shown.add_task(name.partition("_")[0], total=total or None)
                shown.update(tasks[name], completed=done)

        yield meter
