"""Loads the rest of the plugin, each module of it a plugin itself, when a test or the command line needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.pytest_plugin.state import PluginState

_PARTS = ("session", "collection", "attempts", "retry", "scopes", "outcomes", "pause", "plain_reports")

_STARTED = pytest.StashKey[bool]()


def is_started(config: pytest.Config) -> bool:
    """Whether the rest of the plugin is loaded."""
    return _STARTED in config.stash


def start(config: pytest.Config) -> None:
    """Load and register the rest of the plugin, once."""
    if is_started(config):
        return
    config.stash[_STARTED] = True
    for name in _PARTS:
        # Not `from harness.pytest_plugin import ...`: pytester forgets modules, but not the package's names for them.
        part = importlib.import_module(f"harness.pytest_plugin.{name}")
        config.pluginmanager.register(part, part.__name__)


def running(config: pytest.Config) -> PluginState:
    """Return the plugin's state; start the plugin where nothing has: a test can ask for a fixture while it runs."""
    start(config)
    from harness.pytest_plugin.state import STATE

    return config.stash[STATE]
