"""What contracts are observed on: outer maps with something in them, made as they are asked for.

Imports :mod:`harness.testing` and the judge of contracts.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from harness.remote.sysctl import JIT, UNPRIVILEGED, sysctl
from harness.testing import Bpf, Guest, Held, Kernel, Map, errno_name, errno_of
from harness.vm.guest_process import GuestProcess

T = TypeVar("T")

ENTRIES = 4
"""Elements that the outer maps have room for."""


class Scene:
    """What contracts of one outer map are observed on: a guest process, which tests that share a machine share too.

    What a test changes it makes itself (:meth:`empty`, :meth:`holding`); what it only uses is made once for all tests
    (:attr:`template`, :attr:`inner`, :meth:`map_once`).

    Attributes:
        guest: The guest.
        bpf: Makes maps, in one guest process.
        kernel: The guest's kernel.
        type: The outer maps' type.
    """

    def __init__(self, guest: Guest, bpf: Bpf, kernel: Kernel, outer_type: str) -> None:
        self.guest = guest
        self.bpf = bpf
        self.kernel = kernel
        self.type = outer_type
        self._made: dict[tuple[object, ...], Any] = {}
        self._others: list[GuestProcess] = []

    @functools.cached_property
    def template(self) -> Map:
        """The template."""
        return self.like_template()

    @functools.cached_property
    def inner(self) -> Map:
        """The inner map."""
        return self.like_template()

    def like_template(self, **attributes: Any) -> Map:
        """Return a new map that differs from the template in these attributes alone."""
        return self.bpf.map("hash", **{"max_entries": 8, **attributes})

    def once(self, make: Callable[..., T], *arguments: Any, **attributes: Any) -> T:
        """Return what `make` makes of :attr:`bpf` and the arguments, made once, for tests that do not change it."""
        key = (make, *arguments, *sorted(attributes.items()))
        if key not in self._made:
            self._made[key] = make(self.bpf, *arguments, **attributes)
        made: T = self._made[key]
        return made

    def map_once(self, type: str, **attributes: Any) -> Map:  # noqa: A002 - as Bpf.map has it
        """Return a map, the same each time for the same attributes, for tests that do not change it."""
        return self.once(Bpf.map, type, **attributes)

    def create(self, **attributes: Any) -> str:
        """Create an outer map; return "ok" or the errno's name. The default template is :attr:`template`."""
        return errno_of(self.bpf.map, self.type, **{"inner": self.template, **attributes})

    def another(self) -> Bpf:
        """Return the bpf system call in another guest process, for what changes the process; the test's end ends it."""
        self._others.append(self.guest.new_process())
        return Bpf(self._others[-1])

    def end_others(self) -> None:
        """End the other processes: with pages of 64 KiB each has 18 MiB."""
        while self._others:
            self._others.pop().close()

    def empty(self, **attributes: Any) -> Map:
        """Return a new outer map."""
        return self.bpf.map(self.type, **{"inner": self.template, "max_entries": ENTRIES, **attributes})

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


@contextlib.contextmanager
def descriptor(of: Held | int) -> Iterator[int]:
    """Yield the descriptor of an object and close it in the end; a number stands for itself.

    Until v4.15 one program alone can be attached to a tracepoint, so that a test must not leave its own there.
    """
    if isinstance(of, int):
        yield of
        return
    with of:
        yield of.fd


def jit(bpf: Bpf, value: bytes) -> contextlib.AbstractContextManager[None]:
    """Switch the kernel's compiler of BPF programs on (b"1") or off (b"0") for a while; errors as :func:`sysctl`."""
    return sysctl(bpf.commands, JIT, value.decode())


def open_to_all(bpf: Bpf) -> contextlib.AbstractContextManager[None]:
    """Allow bpf(2) to the unprivileged for a while; errors as :func:`sysctl`."""
    return sysctl(bpf.commands, UNPRIVILEGED, "0")
