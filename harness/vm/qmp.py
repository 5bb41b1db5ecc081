"""QEMU's monitor: saves a machine's state for a template, and loads a state that contains the memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from harness.errors import MonitorError

_POLL_SECONDS = 0.01
_STATE = "harness-state"
"""What QEMU calls the descriptor that it writes the state to."""


def save_state(monitor: Path, state: Path, *, ignore_shared: bool, timeout: float) -> None:
    """Save the machine's state into a file; QEMU keeps running, the machine is stopped.

    Args:
        monitor: QEMU's monitor.
        state: The file; created. QEMU gets a pipe to this process, which writes it: it may start no program.
        ignore_shared: Omit memory that is in a separate file (capability x-ignore-shared).
        timeout: Seconds.

    Raises:
        MonitorError: QEMU refused, or did not finish in time.
    """
    with _Drain(state) as drain:
        _run(_save(monitor, drain, ignore_shared), "save the machine", timeout)


def load_state(monitor: socket.socket, state: int, *, timeout: float) -> None:
    """Make a waiting machine load its state, memory included, and wait until it runs.

    Args:
        monitor: Connected to QEMU's monitor; closed afterwards.
        state: Descriptor that QEMU inherited and reads the saved state from.
        timeout: Seconds.

    Raises:
        MonitorError: The machine does not run.
    """
    _run(_load(monitor, state), "load the machine", timeout)


def _run(work: Coroutine[Any, Any, None], what: str, timeout: float) -> None:
    try:
        asyncio.run(asyncio.wait_for(work, timeout))
    except ExecuteError as error:
        raise MonitorError(f"QEMU refused to {what}: {error}") from error
    except (QMPError, OSError) as error:
        raise MonitorError(f"QEMU's monitor could not be used to {what}: {error}") from error
    except asyncio.TimeoutError as error:
        raise MonitorError(f"QEMU did not {what} within {timeout:g} s") from error


async def _load(monitor: socket.socket, state: int) -> None:
    client = QMPClient("kernel-harness")
    await client.connect(monitor)
    try:
        await client.execute("migrate-incoming", {"uri": f"fd:{state}"})
        while True:
            answer: Any = await client.execute("query-status")
            if answer["running"]:
                return
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await client.disconnect()


class _Drain:
    """Copies what is written into a pipe to a file, in a thread.

    Attributes:
        writer: The pipe's end to write to, open until :meth:`given`.
    """

    def __init__(self, path: Path) -> None:
        self._reader, self.writer = os.pipe()
        self._path = path
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._copy, name="harness-saved-state", daemon=True)

    def __enter__(self) -> _Drain:  # noqa: PYI034 - never subclassed
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.given()
        if kind is not None:
            return  # QEMU may have its end open as long as it runs, and the thread with it
        self._thread.join()
        if self._error is not None:
            raise MonitorError(f"the saved state could not be written: {self._error.strerror}") from self._error

    def given(self) -> None:
        """Close the own end of the pipe, which another process has now."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def _copy(self) -> None:
        try:
            with os.fdopen(self._reader, "rb", buffering=0) as source, self._path.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except OSError as error:
            self._error = error


async def _save(monitor: Path, drain: _Drain, ignore_shared: bool) -> None:
    client = QMPClient("kernel-harness")
    await client.connect(str(monitor))
    try:
        # Do not stop it first: QEMU stops it at the end and records in the state that it ran, so that clones run.
        capability = {"capability": "x-ignore-shared", "state": ignore_shared}
        await client.execute("migrate-set-capabilities", {"capabilities": [capability]})
        # No limit: the default is for networks.
        await client.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        client.send_fd_scm(drain.writer)
        await client.execute("getfd", {"fdname": _STATE})
        drain.given()
        await client.execute("migrate", {"uri": f"fd:{_STATE}"})
        while True:
            answer: Any = await client.execute("query-migrate")
            status = answer.get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise MonitorError(f"QEMU could not save the machine: {answer.get('error-desc', status)}")
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await client.disconnect()
