"""What an outer map and its inner maps do, foretold: a Python dictionary beside the kernel's.

:class:`Model` takes one step after the other and says what the kernel will answer and what will be there afterwards:
which maps are alive, what each holds. What kernels differ in is a :class:`~harness.contracts.sequences.facts.Facts`;
where the tables know nothing of a kernel, nothing is foretold (:data:`~harness.contracts.sequences.facts.ANY`) and
nothing is judged.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.contracts.sequences.facts import ANY, Facts, OuterSetting, is_answer
from harness.guest.api.uapi import EXIST, NOEXIST
from harness.guest.steps import COUNTED, MISSING, NULL, OPERATIONS


@dataclass(frozen=True)
class Step:
    """One operation of a sequence.

    Attributes:
        name: One of harness.guest.steps.OPERATIONS.
        arguments: Its numbers.
        gone: Maps that are gone after it, whose release the kernel leaves to a worker.
    """

    name: str
    arguments: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()


@dataclass
class _Map:
    """An inner map.

    Attributes:
        kind: Index of KINDS.
        fds: How many descriptors user space has.
        elements: What it holds.
        frozen: Whether it is frozen.
        leaked: Whether a reference was lost that nobody will give back.
    """

    kind: int
    fds: int = 1
    elements: dict[int, int] = field(default_factory=dict)
    frozen: bool = False
    leaked: bool = False


class Model:
    """An outer map with its inner maps, as the kernel's tables promise them.

    Args:
        setting: The outer map.
        facts: What this kernel does.

    Attributes:
        maps: The inner maps by number; 0 is the template.
        slots: What the outer map holds: a map's number by key.
        outer_fds: How many descriptors of the outer map user space has.
        loaded: Whether a program holds the outer map.
    """

    def __init__(self, setting: OuterSetting, facts: Facts) -> None:
        self.setting = setting
        self.facts = facts
        self.maps = [_Map(0)]
        self.slots: dict[int, int] = {}
        self.outer_fds = 1
        self.outer_frozen = False
        self.loaded = False

    # What a sequence may do next.

    def open_maps(self) -> list[int]:
        """Return the maps that user space has a descriptor of."""
        return [number for number, one in enumerate(self.maps) if one.fds]

    def counted_maps(self) -> list[int]:
        """Return those of them whose elements a sequence reads and writes."""
        return [number for number in self.open_maps() if self.maps[number].kind in COUNTED]

    def outer_is_alive(self) -> bool:
        """Whether anything holds the outer map."""
        return self.outer_fds > 0 or self.loaded

    def can_foretell(self, command: str) -> bool:
        """Whether it is known what a batch command does here; a sequence leaves out what is not."""
        return self.facts.batch[command] is not ANY

    def can_take(self, name: str, *arguments: int) -> bool:
        """Whether all that a step uses is open; arguments as for :meth:`take`."""
        operation = OPERATIONS[name]
        is_open = all(self.maps[number].fds for number in operation.maps(arguments))
        return is_open and (not operation.uses_outer or self.outer_fds > 0)

    def is_alive(self, number: int) -> bool:
        """Whether anything holds an inner map."""
        one = self.maps[number]
        return one.fds > 0 or one.leaked or number in self.slots.values()

    # Steps.

    def take(self, name: str, *arguments: int) -> tuple[Step, dict[str, Any]]:
        """Take a step.

        Args:
            name: One of harness.guest.steps.OPERATIONS.
            *arguments: Its numbers.

        Returns:
            The step, and what will be seen: the answer and the state of all maps.
        """
        before = {number for number in range(len(self.maps)) if self.is_alive(number)}
        held = self.outer_is_alive()
        # A sequence that was planned beside another kernel may use what could not be opened on this one.
        can = self.can_take(name, *arguments)
        answer = getattr(self, f"_{name}")(*arguments) if can else "nothing open"
        if held and not self.outer_is_alive():
            self.slots.clear()
        gone = [number for number in before if not self.is_alive(number)]
        step = Step(name, arguments, tuple(gone) if held and not self.outer_is_alive() else ())
        return step, {"answer": answer, **self._state()}

    def _state(self) -> dict[str, Any]:
        alive = [number for number in range(len(self.maps)) if self.is_alive(number)]
        outer: Any = None
        if self.outer_fds:
            known = {key: ["found", number] for key, number in self.slots.items()}
            outer = known if is_answer(self.facts.lookup, "ok") else ANY
        return {
            "outer": outer,
            "inners": {number: dict(self.maps[number].elements) for number in self.counted_maps()},
            "alive": alive if self.facts.ids else None,
        }

    def _create(self, kind: int) -> Any:
        self.maps.append(_Map(kind))
        return "ok"

    def _close(self, number: int) -> Any:
        self.maps[number].fds -= 1
        return "ok"

    def _reopen(self, number: int) -> Any:
        if not self.is_alive(number):
            return "ENOENT"
        self.maps[number].fds += 1
        return "ok"

    def _close_outer(self) -> Any:
        self.outer_fds -= 1
        return "ok"

    def _reopen_outer(self) -> Any:
        if not self.outer_is_alive():
            return "ENOENT"
        self.outer_fds += 1
        return "ok"

    def _fits(self, number: int) -> Any:
        """Return what the kernel answers for the inner map itself."""
        return {0: "ok", 1: self.facts.other_size}.get(self.maps[number].kind, "EINVAL")

    def _put(self, key: int, number: int, flags: int) -> Any:
        if self.setting.is_hash:
            fits = self._fits(number)
            if fits != "ok":
                return fits
            if flags > EXIST:
                return "EINVAL"
            if flags == NOEXIST and key in self.slots:
                return "EEXIST"
            if flags == EXIST and key not in self.slots:
                return "ENOENT"
            if key not in self.slots and len(self.slots) == self.setting.max_entries:
                return "E2BIG"
        elif flags:
            return "EINVAL"
        elif key >= self.setting.max_entries:
            return "E2BIG"
        elif (fits := self._fits(number)) != "ok":
            return fits
        if key in self.slots and self.facts.leaks:
            self.maps[self.slots[key]].leaked = True
        self.slots[key] = number
        return "ok"

    def _remove(self, key: int) -> Any:
        if not self.setting.is_hash and key >= self.setting.max_entries:
            return "E2BIG"
        return "ENOENT" if self.slots.pop(key, None) is None else "ok"

    def _insert(self, key: int, number: int, flags: int) -> Any:
        return "EPERM" if self.outer_frozen else self._put(key, number, flags)

    def _delete(self, key: int) -> Any:
        return "EPERM" if self.outer_frozen else self._remove(key)

    def _lookup(self, key: int) -> Any:
        if not is_answer(self.facts.lookup, "ok"):
            return self.facts.lookup
        return ["found", self.slots[key]] if key in self.slots else "ENOENT"

    def _keys(self) -> Any:
        return ["keys", sorted(self.slots) if self.setting.is_hash else list(range(self.setting.max_entries))]

    def _batch_insert(self, *pairs: int) -> Any:
        steps = [lambda key=key, number=number: self._put(key, number, 0) for key, number in _pairs(pairs)]
        return self._batch("update", steps)

    def _batch_delete(self, *keys: int) -> Any:
        return self._batch("delete", [lambda key=key: self._remove(key) for key in keys])

    def _batch(self, command: str, steps: Sequence[Any]) -> Any:
        can = self.facts.batch[command]
        # What is refused before it begins leaves the count as it was.
        if is_answer(can, "EINVAL"):
            return ["EINVAL", len(steps)]  # bpf(2) does not know the command
        if self.outer_frozen:
            return ["EPERM", len(steps)]
        if not is_answer(can, "ok"):
            return [can, len(steps)]
        for done, step in enumerate(steps):
            answer = step()
            if answer != "ok":
                return [answer, done]
        return ["ok", len(steps)]

    def _batch_read(self) -> Any:
        can = self.facts.batch["lookup"]
        if not is_answer(can, "ok"):
            return can
        has_holes = not self.setting.is_hash and len(self.slots) < self.setting.max_entries
        if has_holes and not is_answer(self.facts.over_hole, "ENOENT"):
            return self.facts.over_hole
        return ["batch", dict(self.slots)]

    def _batch_take(self) -> Any:
        can = self.facts.batch["lookup_and_delete"]
        if is_answer(can, "EINVAL"):
            return "EINVAL"
        if self.outer_frozen:
            return "EPERM"
        if not is_answer(can, "ok"):
            return can
        taken = dict(self.slots)
        self.slots.clear()
        return ["batch", taken]

    def _write(self, number: int, key: int, value: int) -> Any:
        if self.maps[number].frozen:
            return "EPERM"
        self.maps[number].elements[key] = value
        return "ok"

    def _read(self, number: int, key: int) -> Any:
        elements = self.maps[number].elements
        return ["value", elements[key]] if key in elements else "ENOENT"

    def _erase(self, number: int, key: int) -> Any:
        if self.maps[number].frozen:
            return "EPERM"
        return "ENOENT" if self.maps[number].elements.pop(key, None) is None else "ok"

    def _freeze_outer(self) -> Any:
        if self.outer_frozen or self.facts.freeze != "ok":
            return self.facts.second_freeze
        self.outer_frozen = True
        return "ok"

    def _freeze(self, number: int) -> Any:
        if self.maps[number].frozen or self.facts.freeze != "ok":
            return self.facts.second_freeze
        self.maps[number].frozen = True
        return "ok"

    def _load(self) -> Any:
        self.loaded = True
        return "ok"

    def _unload(self) -> Any:
        self.loaded = False
        return "ok"

    def _run(self, key: int) -> Any:
        if key not in self.slots:
            return ["returned", NULL]
        return ["returned", self.maps[self.slots[key]].elements.get(0, MISSING)]


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
