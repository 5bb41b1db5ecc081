"""What the controller of pytest-xdist, which collects no test, does for the tests of its workers."""

from __future__ import annotations

from typing import Any

import pytest

from harness.pytest_plugin.parts import is_started, start
from harness.results import properties
from harness.results.outcomes import Trouble

LEFT_OUT = "harness_left_out"
UNREACHABLE = "harness_unreachable"
"""Keys of what a worker sends at its end."""


class Workers:
    """Starts the plugin with the first report of a test of a kernel, and says which kernel a killed test was on.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kernels: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at the kernel of each report; xdist's own report of a test whose worker ended has none."""
        labels = properties.values(report.user_properties, properties.KERNEL)
        if labels:
            self._kernels[report.nodeid] = labels[0]
        elif report.when not in ("setup", "call", "teardown"):
            label = self._kernels.get(report.nodeid) or self._from_id(report.nodeid)
            if label is None:
                return
            report.user_properties += [
                (properties.KERNEL, label),
                (properties.TROUBLE, Trouble.INFRASTRUCTURE.value),
            ]
        if not is_started(self._config) and report.nodeid in self._kernels:
            self._start_with(report)

    def _from_id(self, nodeid: str) -> str | None:
        """Return the kernel that a test's id begins its parameters with."""
        if not is_started(self._config):
            return None
        from harness.errors import HarnessError
        from harness.pytest_plugin.state import STATE
        from harness.results.ids import kernel_of

        try:
            return kernel_of(nodeid, [choice.label for choice in self._config.stash[STATE].choices()])
        except HarnessError:
            return None  # reported where kernels are resolved; no test runs on a kernel

    def _start_with(self, report: pytest.TestReport) -> None:
        """Start the plugin; pytest does not show a report to plugins that are registered while it is shown."""
        manager = self._config.pluginmanager
        before = set(manager.get_plugins())
        start(self._config)
        for plugin in set(manager.get_plugins()) - before:
            if hasattr(plugin, "pytest_runtest_logreport"):
                plugin.pytest_runtest_logreport(report=report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Receive what a worker says of the tests that its markers deselected."""
        output: dict[str, Any] = getattr(node, "workeroutput", {})
        if not output.get(UNREACHABLE) and not output.get(LEFT_OUT):
            return
        start(self._config)
        from harness.pytest_plugin.state import STATE

        state = self._config.stash[STATE]
        state.unreachable |= output[UNREACHABLE]
        if state.recorder is not None:
            state.recorder.left_out(output[LEFT_OUT])
