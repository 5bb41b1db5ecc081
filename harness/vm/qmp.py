"""QEMU's monitor: saves a machine's state for a template, and loads a state that contains the memory."""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from harness.errors import MonitorError

_POLL_SECONDS = 0.01


def save_state(monitor: Path, state: Path, *, ignore_shared: bool, timeout: float) -> None:
    """Save the machine's state into a file; QEMU keeps running, the machine is stopped.

    Args:
        monitor: QEMU's monitor.
        state: The file; created.
        ignore_shared: Omit memory that is in a separate file (capability x-ignore-shared).
        timeout: Seconds.

    Raises:
        MonitorError: QEMU refused, or did not finish in time.
    """
    _run(_save(monitor, state, ignore_shared), "save the machine", timeout)


def load_state(monitor: socket.socket, state: Path, *, timeout: float) -> None:
    """Make a waiting machine load its state, memory included, and wait until it runs.

    Args:
        monitor: Connected to QEMU's monitor; closed afterwards.
        state: The saved state.
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


async def _load(monitor: socket.socket, state: Path) -> None:
    client = QMPClient("kernel-harness")
    await client.connect(monitor)
    try:
        await client.execute("migrate-incoming", {"uri": f"exec:cat {shlex.quote(str(state))}"})
        while True:
            answer: Any = await client.execute("query-status")
            if answer["running"]:
                return
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await client.disconnect()


async def _save(monitor: Path, state: Path, ignore_shared: bool) -> None:
    client = QMPClient("kernel-harness")
    await client.connect(str(monitor))
    try:
        # Do not stop it first: QEMU stops it at the end and records in the state that it ran, so that clones run.
        capability = {"capability": "x-ignore-shared", "state": ignore_shared}
        await client.execute("migrate-set-capabilities", {"capabilities": [capability]})
        # No limit: the default is for networks.
        await client.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        await client.execute("migrate", {"uri": f"exec:cat > {shlex.quote(str(state))}"})
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
