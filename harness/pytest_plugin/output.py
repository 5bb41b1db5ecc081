"""What the plugin prints between pytest's own lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from harness.util.printable import printable


class Output:
    """Prints by way of pytest's terminal reporter, which a worker of xdist has not."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def say(self, line: str) -> None:
        """Print a line that says what takes time; nothing without a reporter."""
        self.show([f"harness: {line}"])

    def show(self, lines: Sequence[str]) -> None:
        """Print lines; nothing without a reporter."""
        reporter = self._reporter
        if reporter is not None:
            reporter.ensure_newline()
            for line in lines:
                reporter.write_line(printable(line))
            reporter.flush()

    def complain(self, message: str) -> None:
        """Print what went wrong outside any test; on stderr without a reporter."""
        reporter, message = self._reporter, printable(message)
        if reporter is None:
            sys.stderr.write(f"ERROR: {message}\n")
            return
        reporter.ensure_newline()
        for number, line in enumerate(message.split("\n")):
            reporter.write_line(line if number else f"ERROR: {line}", red=True)
