"""The pytest plugin: each module has one job.

pytest loads it in every project that has this package installed. A project without tests of kernels pays for this
module and those that it imports here; the rest is loaded when a test uses a fixture of this plugin, or the command line
asks for something.
"""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest

from harness.pytest_plugin import fixtures, marks, options
from harness.pytest_plugin.parts import start

ENTRY_POINT = "harness"
"""The plugin's name where pytest finds it by itself."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the settings, and register what pytest has to know from the start."""
    if sys.stdout is None or sys.stderr is None:
        # pytest's reporter cannot do without, and the first machine's socket would take their place.
        from harness.util import streams

        streams.open_closed()
    options.declare_settings(parser)
    if pluginmanager.get_name(sys.modules[__name__]) != ENTRY_POINT:
        # A conftest loads it by its module's name, too late to look at the command line first.
        from harness.pytest_plugin import command_line

        command_line.declare(parser)
    pluginmanager.register(fixtures, fixtures.__name__)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Declare the options, where the command line has any."""
    return (yield from options.declare_where_asked(early_config, parser, args))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and start the plugin where that was asked for."""
    marks.declare(config)
    if options.is_asked_for(config):
        start(config)
    if config.getini(options.PROGRAMS_SETTING):
        config.pluginmanager.import_plugin("harness.programs")
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        from harness.pytest_plugin.workers import Workers

        config.pluginmanager.register(Workers(config), "harness-workers")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Refuse what cannot be, as long as that needs no collected test."""
    if options.named(config):
        options.refuse_parallel(config)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the kernels a parameter of a test that uses one, before all other parameters."""
    if options.KERNEL_PARAMETER in metafunc.fixturenames:
        start(metafunc.config)
        from harness.pytest_plugin.collection import parametrize

        parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Note the kernel of a test that uses one."""
    if options.KERNEL_PARAMETER in getattr(item, "fixturenames", ()):
        start(item.config)
        from harness.pytest_plugin.collection import note_kernel

        note_kernel(item)
