"""The run record of a command that runs programs or objects on kernels, without pytest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.results import host
from harness.results.file import Journal
from harness.results.types import RecordedKernel, RecordedResult
from harness.vm.spec import Acceleration


class CommandRecord:
    """Writes the record of one command; what was added survives the end of this process.

    Args:
        path: The record's file; its old content is removed.
        command: The command line, for the record.

    Raises:
        RecordError: It cannot be written.
    """

    def __init__(self, path: Path, command: Sequence[str]) -> None:
        self._journal = Journal(path)
        self._began = time.monotonic()
        self._run = msgspec.structs.replace(host.new_run(command, Path.cwd()), isolation="vm")
        self._journal.add(run=self._run)

    @property
    def run(self) -> str:
        """The run's id, which each result names."""
        return self._run.id

    def add_kernel(self, kernel: RecordedKernel, acceleration: Acceleration | None) -> None:
        """Add a kernel.

        Args:
            kernel: The kernel.
            acceleration: How it was run; None when it was not.
        """
        self._journal.add(kernel=kernel)
        if acceleration is not None:
            self._run = msgspec.structs.replace(
                self._run, accelerator=acceleration.accel.value, accelerator_reason=acceleration.reason
            )

    def add_result(self, result: RecordedResult) -> None:
        """Add a result."""
        self._journal.add(result=result)

    def finish(self, exit_status: int) -> None:
        """Write the complete record."""
        seconds = round(time.monotonic() - self._began, 3)
        self._journal.finish(
            msgspec.structs.replace(self._run, seconds=seconds, complete=True, exit_status=exit_status)
        )
