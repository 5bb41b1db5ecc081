"""Which tests run on which kernels, and the data that xdist's workers send about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import (
    HarnessError,
)
from harness.pytest_plugin.options import BCC, KERNEL_PARAMETER, LOADER_PARAMETER, RAW
from harness.pytest_plugin.state import STATE
from harness.results import properties

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.vm.spec import Needs

_BCC_MEMORY = 1536
"""MiB of a guest with bcc: its memory contains LLVM and the kernel's headers, and compiling needs the rest."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make each kernel a parameter of the tests that use one."""
    checked = ("kernel", "requires", "leaks", "expects_fault", "vm")
    if any(metafunc.definition.get_closest_marker(name) for name in checked):
        from harness.pytest_plugin.markers import check

        try:
            check(metafunc.definition, metafunc.fixturenames)
        except pytest.UsageError as error:
            # A collection error names the test, also in workers of xdist.
            pytest.fail(f"{metafunc.definition.nodeid}: {error}", pytrace=False)
    loaders = metafunc.config.getoption("loader")
    if LOADER_PARAMETER in metafunc.fixturenames and loaders != [RAW]:
        metafunc.parametrize(LOADER_PARAMETER, loaders, indirect=True)
    if KERNEL_PARAMETER in metafunc.fixturenames:
        try:
            choices = metafunc.config.stash[STATE].choices()
        except HarnessError as error:
            raise pytest.Collector.CollectError(str(error)) from None
        metafunc.parametrize(
            KERNEL_PARAMETER, choices, ids=[choice.label for choice in choices], indirect=True, scope="session"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests whose `kernel` marker excludes their kernel."""
    if not any(item.get_closest_marker("kernel") or item.get_closest_marker("requires") for item in items):
        return
    from harness.kernel.catalog import policy
    from harness.pytest_plugin.markers import behaviour, sort_out

    state = config.stash[STATE]
    tests = sort_out(items, policy)
    state.unreachable = tests.unreachable
    if tests.left_out:
        config.hook.pytest_deselected(items=[item for item, _ in tests.left_out])
        items[:] = tests.kept
    if config.getoption("record") is not None:
        labels = {item.nodeid: choice.label for item, _ in tests.left_out if (choice := kernel_of(item))}
        state.left_out = [(behaviour(item), labels[item.nodeid], condition) for item, condition in tests.left_out]
        if state.recorder is not None:
            state.recorder.left_out(state.left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive data about collected tests from an xdist worker."""
    state = node.config.stash[STATE]
    output = getattr(node, "workeroutput", {})
    state.unreachable |= output.get("harness_unreachable", {})
    if state.recorder is not None:
        state.recorder.left_out(output.get("harness_left_out", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send data about collected tests to the controller of xdist."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        state = session.config.stash[STATE]
        output["harness_unreachable"] = state.unreachable
        output["harness_left_out"] = state.left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the tests that no selected kernel can run."""
    unreachable = config.stash[STATE].unreachable
    if unreachable:
        terminalreporter.section("run on none of the selected kernels")
        for name, condition in unreachable.items():
            terminalreporter.write_line(f"{name}: is for kernels {condition}")


def wanted_by(item: pytest.Item | None) -> tuple[Choice, Needs] | None:
    """Return what a test asks of the machine that it runs on; None when it runs on none."""
    choice = kernel_of(item)
    if item is None or choice is None or "vm" not in getattr(item, "fixturenames", ()):
        return None
    return choice, needs_of(item)


def kernel_of(item: pytest.Item | None) -> Choice | None:
    """Return the kernel in a test's parameters; a project may have its own fixtures called kernel and vm."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get(KERNEL_PARAMETER)


def needs_of(item: pytest.Item) -> Needs:
    """Return the machine settings from a test's markers."""
    from harness.vm.spec import Needs

    asked: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("vm"))):
        asked.update(mark.kwargs)
    asked = {name: value for name, value in asked.items() if name not in ("scope", "group")}
    for name in ("parameters", "modules"):
        words = asked.get(name, ())
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise pytest.UsageError(f"{item.nodeid}: {name} of the marker vm is a list of words, not {words!r}")
        asked[name] = tuple(words)
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if BCC in getattr(item, "fixturenames", ()) or parameters.get(LOADER_PARAMETER) == BCC:
        asked = {"image": BCC, **asked, "memory": max(asked.get("memory", 0), _BCC_MEMORY)}
    try:
        return Needs(**asked)
    except TypeError as error:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker vm takes memory, cpus, parameters, modules, scope and group: {error}"
        ) from error


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put a test's kernel into its reports, regardless of the outcome."""
    choice = kernel_of(item)
    if choice is not None:
        item.user_properties.append((properties.KERNEL, choice.label))
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if LOADER_PARAMETER in parameters:
        item.user_properties.append((properties.LOADER, parameters[LOADER_PARAMETER]))
