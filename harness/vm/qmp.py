"""Talks to QEMU's monitor: stop, save. Used when a template is made; a clone needs none of it.

Imports qemu.qmp and :mod:`harness.errors`.
"""

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
    """Save the machine's state into a file; QEMU keeps running, and the machine stands still.

    Args:
        monitor: QEMU's monitor.
        state: The file; made.
        ignore_shared: Leave out memory that is in a file of its own (capability x-ignore-shared).
        timeout: Seconds.

    Raises:
        MonitorError: QEMU refused, or did not get it done in time.
    """
    _run(_save(monitor, state, ignore_shared), "save the machine", timeout)


def load_state(monitor: socket.socket, state: Path, *, timeout: float) -> None:
    """Have a machine that waits for its state load it, memory included, and wait until it runs.

    Args:
        monitor: Connected to QEMU's monitor; closed afterwards.
        state: The saved state.
        timeout: Seconds.

    Raises:
        MonitorError: It did not get there.
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
        # It is not stopped first: QEMU does that at the end, and notes in the state that it ran, so that clones run.
        capability = {"capability": "x-ignore-shared", "state": ignore_shared}
        await client.execute("migrate-set-capabilities", {"capabilities": [capability]})
        # Without a limit: the default is meant for a network.
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
