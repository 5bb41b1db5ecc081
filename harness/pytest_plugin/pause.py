"""`--pause-on-failure`: keeps the guest of a failed test until the user continues."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.pytest_plugin.options import option
from harness.pytest_plugin.state import MACHINE, STATE, PluginState
from harness.util.proc import quote

if TYPE_CHECKING:
    from harness.remote.attach import Holder
    from harness.vm.machine import Machine


def check_pause_options(config: pytest.Config) -> None:
    """Raise a UsageError when --pause-on-failure cannot work."""
    if not option(config, "pause_on_failure"):
        return
    if config.getoption("numprocesses", None) or config.getoption("dist", "no") != "no":
        raise pytest.UsageError(
            "--pause-on-failure does not work with -n: a worker has no terminal to pause at, and other workers would "
            "continue; run without -n"
        )
    if not option(config, "pause_timeout") >= 0:
        raise pytest.UsageError("--pause-timeout is a number of seconds, 0 or more")


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any], report: pytest.CollectReport | pytest.TestReport
) -> None:
    """Pause at a failed test with --pause-on-failure."""
    if not (report.failed and call.when == "call" and isinstance(node, pytest.Item)):
        return
    if option(node.config, "pause_on_failure"):
        machine = node.stash.get(MACHINE, None)
        if machine is not None:
            pause_at(node, machine, report.longreprtext)


def pause_at(item: pytest.Item, machine: Machine, failure: str) -> None:
    """Keep the guest of a failed test until the user continues."""
    from harness.remote.attach import Holder
    from harness.vm.command import CONSOLE_LOG
    from harness.vm.machine import State as MachineState

    state = item.config.stash[STATE]
    capture: Any = item.config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.suspend(in_=True)
    holder: Holder | None = None
    try:
        key = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        state.output.show([failure, ""])
        if machine.state is MachineState.READY:
            holder = Holder(machine, f"{item.nodeid} failed here and is paused.")
            state.output.say(f"{item.nodeid} failed; its guest is as it was then. In another terminal:")
            state.output.show([f"    {_attach_command(machine.folder)}"])
        else:
            state.output.say(f"{item.nodeid} failed; there is no guest to attach to, it is {machine.state.value}")
        state.output.show([f"    console log: {machine.folder / CONSOLE_LOG}"])
        if key is not None:
            state.output.say("press Enter to continue")
        _hold(state, holder, machine, key)
    finally:
        if holder is not None:
            holder.close()
        if capture is not None:
            capture.resume()


def _hold(state: PluginState, holder: Holder | None, machine: Machine, key: int | None) -> None:
    timeout: float | None = None if key is not None else option(state.config, "pause_timeout")
    if holder is not None:
        if key is None:
            state.output.say(f"there is no terminal to press a key at: continuing after that, or in {timeout:g} s")
        attached = holder.wait(key=key, timeout=timeout)
        if attached:
            state.pool().spoil(machine)
        if key is None:
            state.output.say(
                "the attached prompt was closed; continuing" if attached else "nobody attached; continuing"
            )
    if key is not None:
        sys.stdin.readline()


def _attach_command(folder: Path) -> str:
    """Return the command to attach, for a terminal without this virtual environment."""
    beside = Path(sys.executable).with_name("harness")
    program = str(beside) if beside.exists() else "harness"
    return quote([program, "attach", folder])
