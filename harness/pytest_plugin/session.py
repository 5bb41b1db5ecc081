"""A pytest process from start to end: state, kernels, summaries, the record."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import HarnessError
from harness.pytest_plugin.collection import kernel_of, wanted_by, wanted_second
from harness.pytest_plugin.evidence import EvidenceLast
from harness.pytest_plugin.options import KERNEL_FIXTURE, PREFIX, TAKEN, VM_FIXTURE, option, refuse_parallel
from harness.pytest_plugin.pause import check_pause_options
from harness.pytest_plugin.state import STATE, PluginState
from harness.util import interrupts

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.vm.spec import Needs


def pytest_configure(config: pytest.Config) -> None:
    """Create the plugin's state."""
    # pexpect starts vng in a child that does nothing but exec(). From Python 3.12 on, pty warns of that when the
    # process has threads: under pytest-xdist, and beside a machine's console.
    config.addinivalue_line(
        "filterwarnings", r"ignore:.*use of forkpty\(\) may lead to deadlocks:DeprecationWarning:pty"
    )
    check_pause_options(config)
    config.stash[STATE] = PluginState(config)
    if not config.stash[STATE].is_worker:
        _register_summaries(config)
    _start_record(config)


def _register_summaries(config: pytest.Config) -> None:
    import harness.pytest_plugin.summaries as summaries

    def labels() -> list[str]:
        return [choice.label for choice in config.stash[STATE].choices()]

    register = config.pluginmanager.register
    register(summaries.CountOnce(config), "harness-count-once")
    register(summaries.Unchecked(), "harness-unchecked")
    register(summaries.Contracts(labels), "harness-contracts")
    register(summaries.KernelFaults(), "harness-kernel-faults")
    register(summaries.Infrastructure(), "harness-infrastructure")
    register(EvidenceLast(), "harness-evidence-last")
    register(summaries.Retried(), "harness-retried")
    if config.getoption("xmlpath", None):
        from harness.pytest_plugin.junit import JUnit

        register(JUnit(Path(config.getoption("xmlpath"))), "harness-junit")
    register(summaries.Throughputs(), "harness-throughputs")
    if option(config, "verdicts"):
        register(summaries.Verdicts(labels), "harness-verdicts")
    if len(option(config, "loader")) > 1:
        register(summaries.Loaders(), "harness-loaders")


def _start_record(config: pytest.Config) -> None:
    path: Path | None = option(config, "record")
    state = config.stash[STATE]
    if path is None or state.is_worker or config.getoption("collectonly"):
        return
    from harness.pytest_plugin.recorder import Recorder

    state.recorder = Recorder(
        config,
        path.absolute(),
        choices=state.choices,
        prepare=lambda choice: state.pool().prepare(choice),
        complain=state.output.complain,
    )
    config.pluginmanager.register(state.recorder, "harness-recorder")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End every machine."""
    if STATE in config.stash:
        state = config.stash[STATE]
        state.heed_no_more()
        state.close()
        if state.recorder is not None:
            state.recorder.finish()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Prepare the selected kernels, and return header lines about them."""
    state = config.stash[STATE]
    return _prepare_all(state) if state.named and not config.getoption("collectonly") else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Prepare the selected kernels before collection, also when no header is printed (-q)."""
    state = session.config.stash[STATE]
    if state.named and not state.is_worker:
        if session.config.getoption("collectonly"):
            with _one_error(state):
                state.choices()
        else:
            _prepare_all(state)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepare the default kernel if there are tests that use it."""
    state = session.config.stash[STATE]
    if any(kernel_of(item) for item in session.items):
        refuse_parallel(session.config)
    if state.named or state.is_worker or session.config.getoption("collectonly"):
        return
    needing = {KERNEL_FIXTURE, VM_FIXTURE}
    if any(kernel_of(item) and needing.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        for line in _prepare_all(state):
            state.output.say(line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Save the machines that tests start from, before the first of them: its time-out is not for that."""
    config = session.config
    if config.getoption("collectonly") or (
        session.testsfailed and not config.getoption("continue_on_collection_errors")
    ):
        return
    machines = list(
        dict.fromkeys(
            wanted for item in session.items for wanted in (wanted_by(item), _second(item)) if wanted is not None
        )
    )
    # Each of xdist's workers begins with another, since one machine is saved once.
    worker = getattr(config, "workerinput", {}).get("workerid", "").removeprefix("gw")
    first = int(worker) % len(machines) if worker.isdecimal() and machines else 0
    for choice, needs in machines[first:] + machines[:first]:
        config.stash[STATE].pool().save(choice, needs)


def _second(item: pytest.Item) -> tuple[Choice, Needs] | None:
    """Return what a test asks of its second machine; an error is the test's own, when its fixture raises it again."""
    try:
        return wanted_second(item)
    except HarnessError:
        return None


def _heed_termination(state: PluginState) -> None:
    """Let SIGTERM end the run as Ctrl-C does, with reports and the summary, unless the project handles it itself."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        state.heed_no_more = interrupts.heed(KeyboardInterrupt("terminated by SIGTERM"))


def _prepare_all(state: PluginState) -> list[str]:
    """Bring the kernels onto this machine; return a line about each."""
    _heed_termination(state)
    lines = [
        f"{name} is an option of this project's own; kernel-harness's is {PREFIX}{name.removeprefix('--')}"
        for name in state.config.stash.get(TAKEN, [])
    ]
    with _one_error(state):
        for choice in state.choices():
            spec = state.pool().prepare(choice)
            kernel = spec.kernel
            lines.append(f"kernel {choice.label}: {kernel.version} ({kernel.origin}), {spec.acceleration}")
        state.known_faults()
        lines += [f"known fault: {line}" for line in state.expired]
    return lines


@contextmanager
def _one_error(state: PluginState) -> Iterator[None]:
    """End the run at an error of the harness outside any test: one message, and the error's exit status."""
    try:
        yield
    except HarnessError as error:
        state.output.complain(str(error))
        pytest.exit("no test was run", returncode=error.exit_status)
