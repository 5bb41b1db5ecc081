"""Which tests run on which kernels, and the data that xdist's workers send about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, UsageError
from harness.pytest_plugin.marks import MARKERS, has_mark, marks
from harness.pytest_plugin.options import (
    BCC,
    BCC_FIXTURE,
    KERNEL_PARAMETER,
    LOADER_PARAMETER,
    RAW,
    SECOND_FIXTURE,
    VM_FIXTURE,
    option,
)
from harness.pytest_plugin.state import CHOICE, STATE
from harness.pytest_plugin.workers import LEFT_OUT, UNREACHABLE
from harness.results import properties

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.vm.spec import Needs

_MOST_CARDS = 4
"""Network cards that a test may ask for; more were not tried."""

_BCC_MEMORY = 1536
"""MiB of a guest with bcc: its memory contains LLVM and the kernel's headers, and compiling needs the rest."""


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make each kernel a parameter of a test that uses one, and each loader; check the test's markers."""
    if has_mark(metafunc.definition, *MARKERS):
        from harness.pytest_plugin.markers import check

        try:
            check(metafunc.definition, metafunc.fixturenames)
        except pytest.UsageError as error:
            # A collection error names the test, also in workers of xdist.
            pytest.fail(f"{metafunc.definition.nodeid}: {error}", pytrace=False)
    choices = _choices(metafunc.config)
    metafunc.parametrize(
        KERNEL_PARAMETER, choices, ids=[choice.label for choice in choices], indirect=True, scope="session"
    )
    loaders = option(metafunc.config, "loader")
    if LOADER_PARAMETER in metafunc.fixturenames and loaders != [RAW]:
        metafunc.parametrize(LOADER_PARAMETER, loaders, indirect=True)


def note_kernel(item: pytest.Item) -> None:
    """Put a test's kernel into its reports, regardless of the outcome; nothing where that was done.

    A test of unittest has no parameters; it runs on the kernel that is selected, if that is one.
    """
    if properties.values(item.user_properties, properties.KERNEL):
        return
    choice = kernel_of(item)
    if choice is None:
        choices = _choices(item.config)
        if len(choices) != 1:
            return  # its fixture says so
        choice = item.stash[CHOICE] = choices[0]
    item.user_properties.append((properties.KERNEL, choice.label))
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if LOADER_PARAMETER in parameters:
        item.user_properties.append((properties.LOADER, parameters[LOADER_PARAMETER]))


def _choices(config: pytest.Config) -> list[Choice]:
    try:
        return config.stash[STATE].choices()
    except HarnessError as error:
        raise pytest.Collector.CollectError(str(error)) from None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests whose `kernel` marker excludes their kernel."""
    if not any(kernel_of(item) and has_mark(item, "kernel") for item in items):
        return
    from harness.kernel.catalog import policy
    from harness.pytest_plugin.markers import behaviour, sort_out

    state = config.stash[STATE]
    tests = sort_out(items, policy)
    state.unreachable = tests.unreachable
    if tests.left_out:
        config.hook.pytest_deselected(items=[item for item, _ in tests.left_out])
        items[:] = tests.kept
    if option(config, "record") is not None:
        labels = {item.nodeid: choice.label for item, _ in tests.left_out if (choice := kernel_of(item))}
        state.left_out = [(behaviour(item), labels[item.nodeid], condition) for item, condition in tests.left_out]
        if state.recorder is not None:
            state.recorder.left_out(state.left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send data about collected tests to the controller of xdist."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        state = session.config.stash[STATE]
        output[UNREACHABLE] = state.unreachable
        output[LEFT_OUT] = state.left_out


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
    if item is None or choice is None or VM_FIXTURE not in getattr(item, "fixturenames", ()):
        return None
    return choice, needs_of(item)


def wanted_second(item: pytest.Item) -> tuple[Choice, Needs] | None:
    """Return what a test asks of its second machine; None when it has none.

    Raises:
        HarnessError: Its kernel is not to be had.
    """
    wanted = wanted_by(item) if SECOND_FIXTURE in getattr(item, "fixturenames", ()) else None
    if wanted is None:
        return None
    return second_choice(item, wanted[0]), wanted[1]


def second_choice(item: pytest.Item, first: Choice) -> Choice:
    """Return the kernel of a test's second machine: the one that its markers name, or that of the first.

    Raises:
        HarnessError: It is not to be had.
    """
    selector = next((mark.kwargs["second"] for mark in marks(item, "vm") if "second" in mark.kwargs), None)
    return first if selector is None else item.config.stash[STATE].choice_of(selector)


def kernel_of(item: pytest.Item | None) -> Choice | None:
    """Return the kernel that a test is about; None for a test that is about none."""
    if item is None:
        return None
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get(KERNEL_PARAMETER) or item.stash.get(CHOICE, None)


def needs_of(item: pytest.Item) -> Needs:
    """Return the machine settings from a test's markers."""
    from harness.vm.spec import Needs

    asked: dict[str, Any] = {}
    for mark in reversed(list(marks(item, "vm"))):
        asked.update(mark.kwargs)
    asked = {name: value for name, value in asked.items() if name not in ("scope", "group", "second")}
    cards = asked.get("nics", 0)
    if "nics" in asked and (type(cards) is not int or not 1 <= cards <= _MOST_CARDS):
        raise pytest.UsageError(f"{item.nodeid}: nics of the marker vm is from 1 to {_MOST_CARDS}, not {cards!r}")
    for name in ("parameters", "modules"):
        words = asked.get(name, ())
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise pytest.UsageError(f"{item.nodeid}: {name} of the marker vm is a list of words, not {words!r}")
        asked[name] = tuple(words)
    what = asked.get("rootfs") or item.config.getini("harness_rootfs")
    if what:
        from harness.image.rootfs import named

        asked["rootfs"] = str(named(Path(str(what)), item.config.rootpath))
    if "network" in asked:
        from harness.vm.network import network_named

        try:
            asked["network"] = network_named(asked["network"])
        except UsageError as error:
            raise pytest.UsageError(f"{item.nodeid}: the marker vm: {error}") from None
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if BCC_FIXTURE in getattr(item, "fixturenames", ()) or parameters.get(LOADER_PARAMETER) == BCC:
        asked = {"image": BCC, **asked, "memory": max(asked.get("memory", 0), _BCC_MEMORY)}
    try:
        return Needs(**asked)
    except TypeError as error:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker vm takes memory, cpus, parameters, modules, rootfs, network, nics, second, "
            f"scope and group: {error}"
        ) from error
