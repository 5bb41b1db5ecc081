"""The pytest plugin: each of its modules is one job, and a plugin of its own.

Top of the house but for the commands: it may import every room below, and does so where a thing is used, since pytest
loads it in every project that has this package installed.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import collection, fixtures, options, outcomes, pause, scopes, session

PARTS = (options, session, collection, scopes, fixtures, outcomes, pause)


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin's parts, before pytest reads the command line with their options."""
    for part in PARTS:
        pluginmanager.register(part, part.__name__)
