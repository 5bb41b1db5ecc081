"""The plugin's markers: their names and descriptions, and those on a test.

Each has a name that no project uses, `harness_NAME`. The short form, `NAME`, is this plugin's too, unless the project
declares a marker of that name. Markers count only on tests that use this plugin's fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

PREFIX = "harness_"

MARKERS = {
    "vm": "(memory, cpus, parameters, modules, rootfs, network, nics, second, scope, group): shape the test's machine.",
    "kernel": "(condition, ...): run the test only on kernels of these versions, such as '>=5.11' or '>=5.10,<6.2'.",
    "requires": "(capability, ...): run the test only on kernels with these capabilities, which probes find.",
    "leaks": "(reason): let the test leave kernel objects behind.",
    "expects_fault": "(kind, reason=..., title=regex): fail the test unless the kernel reports this fault.",
    "stress": ": the test repeats work as often as --harness-stress says.",
}
"""The markers, with what `pytest --markers` says of each."""

_OTHERS = pytest.StashKey[frozenset[str]]()
"""Short names that are the project's own markers."""


def declare(config: pytest.Config) -> None:
    """Declare the markers, after the project has declared its own."""
    declared = {line.partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")}
    config.stash[_OTHERS] = frozenset(declared.intersection(MARKERS))
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{PREFIX}{name}{text}")
        if name not in declared:
            config.addinivalue_line("markers", f"{name}{text.partition(':')[0]}: the same as {PREFIX}{name}.")


def marks(node: pytest.Item, name: str) -> Iterator[pytest.Mark]:
    """Return a test's markers of one kind, the nearest first.

    Args:
        node: The test.
        name: One of :data:`MARKERS`.
    """
    names = {PREFIX + name} if name in node.config.stash[_OTHERS] else {PREFIX + name, name}
    return (mark for mark in node.iter_markers() if mark.name in names)


def has_mark(node: pytest.Item, *names: str) -> bool:
    """Whether a test has a marker of one of these kinds."""
    return any(True for name in names for _ in marks(node, name))
