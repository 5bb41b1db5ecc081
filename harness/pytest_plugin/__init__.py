"""The pytest plugin: each module has one job and is a plugin itself.

pytest loads it in every project that has this package installed. So its modules import other rooms only where they are
used.
"""

from __future__ import annotations

import pytest

from harness.pytest_plugin import collection, fixtures, options, outcomes, pause, scopes, session

PARTS = (options, session, collection, scopes, fixtures, outcomes, pause)


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the parts of the plugin before pytest parses the command line, because some parts have options."""
    for part in PARTS:
        pluginmanager.register(part, part.__name__)
