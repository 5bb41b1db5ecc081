"""What contracts are observed on: outer maps with something in them, made as they are asked for.

Imports :mod:`harness.testing`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

from harness.testing import Bpf, Map, errno_name

ENTRIES = 4
"""Elements that the outer maps have room for."""


class Scene:
    """An inner map like the template, and as many outer maps as are asked for.

    Attributes:
        bpf: Makes them.
        type: The outer maps' type.
        inner: The inner map.
    """

    def __init__(self, bpf: Bpf, outer_type: str) -> None:
        self.bpf = bpf
        self.type = outer_type
        self.template = bpf.map("hash", max_entries=8)
        self.inner = bpf.map("hash", max_entries=8)

    def empty(self, **attributes: Any) -> Map:
        """Return a new outer map."""
        return self.bpf.map(self.type, inner=self.template, **{"max_entries": ENTRIES, **attributes})

    def holding(self, *keys: int, **attributes: Any) -> Map:
        """Return a new outer map with the inner map at these keys, at 0 when none is named."""
        outer = self.empty(**attributes)
        for key in keys or (0,):
            outer[key] = self.inner
        return outer


def name_of(errno: int) -> str:
    """Return the name of an errno as contracts have it, "ok" for 0."""
    return errno_name(errno) if errno else "ok"


def by_errno(answers: Iterable[tuple[int, int]]) -> dict[str, str]:
    """Return numbers by what they were answered with; what most of them got is "the rest"."""
    numbers = collections.defaultdict(list)
    for number, errno in answers:
        numbers[errno_name(errno) if errno else "ok"].append(number)
    most = max(numbers, key=lambda name: len(numbers[name]))
    return {
        name: "the rest" if name == most else " ".join(f"{number:#x}" for number in found)
        for name, found in sorted(numbers.items())
    }
