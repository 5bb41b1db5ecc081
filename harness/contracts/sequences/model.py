"""What an outer map and its inner maps do, foretold: a Python dictionary beside the kernel's.

:class:`Model` takes one step after the other and says what the kernel will answer and what will be there afterwards:
which maps are alive, what each holds. What kernels differ in is a :class:`Facts`, read from the tables of contracts and
capabilities; where these know nothing of a kernel, nothing is foretold (:data:`ANY`) and nothing is judged.
:func:`difference` compares a foretold step with what the guest saw.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.contracts.contract import Contract, judge
from harness.errors import UsageError
from harness.features.capabilities import find
from harness.guest.api.uapi import EXIST, NO_PREALLOC, NOEXIST
from harness.guest.steps import COUNTED, MISSING, NULL, OPERATIONS
from harness.kernel.version import KernelVersion
from harness.util.errnos import errno_name


class _Any:
    """Equal to everything: what is not foretold."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "anything"


ANY: Any = _Any()


def _is(answer: Any, word: str | int) -> bool:
    """Whether an answer is known, and is this one."""
    return answer is not ANY and bool(answer == word)


@dataclass(frozen=True)
class OuterSetting:
    """The outer map of a sequence.

    Attributes:
        outer: Its type.
        flags: Its map_flags.
        max_entries: Its elements.
    """

    outer: str
    flags: int = 0
    max_entries: int = 3

    @property
    def is_hash(self) -> bool:
        """Whether it is a hash of maps."""
        return self.outer == "hash_of_maps"


SETTINGS = {
    "hash_of_maps": OuterSetting("hash_of_maps"),
    "hash_of_maps_no_prealloc": OuterSetting("hash_of_maps", NO_PREALLOC),
    "array_of_maps": OuterSetting("array_of_maps"),
}


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


@dataclass(frozen=True)
class Facts:
    """What kernels differ in: an answer's name, or ANY where no table knows it.

    Attributes:
        ids: Whether maps have ids.
        lookup: Of a lookup of an element that is there.
        second_freeze: Of freezing a frozen map.
        freeze: Of freezing a map.
        other_size: Of inserting an inner hash table whose max_entries differ from the template's.
        batch: Of each batch command, where there is something to do: update, delete, lookup, lookup_and_delete.
        over_hole: Of a batch lookup over an empty slot.
        leaks: Whether an inner map that was replaced stays alive.
    """

    ids: bool = True
    lookup: Any = "ok"
    second_freeze: Any = "EPERM"
    freeze: Any = "ok"
    other_size: Any = "ok"
    batch: Mapping[str, Any] = field(
        default_factory=lambda: dict.fromkeys(("update", "delete", "lookup", "lookup_and_delete"), "ok")
    )
    over_hole: Any = "ENOENT"
    leaks: bool = False


def facts(contracts: Mapping[str, Contract], version: KernelVersion, setting: OuterSetting) -> Facts:
    """Return what the tables know of a kernel.

    Args:
        contracts: The contracts, by id.
        version: The kernel's.
        setting: The outer map that they are to be known of.

    Raises:
        UsageError: There is no such contract (any more).
    """
    short = "hom" if setting.is_hash else "aom"

    def known(name: str) -> Any:
        contract = contracts.get(f"{short}.{name}")
        if contract is None:
            raise UsageError(
                f"the model of outer maps rests on the contract {short}.{name}, which is not there",
                expected="the ids that harness.contracts.sequences.model.facts() names",
            )
        verdict = judge(contract, version, None)
        return ANY if verdict.word == "observed" else verdict.expected

    def has(capability: str) -> bool:
        return find(capability).expected(version)

    how = "array" if not setting.is_hash else "no_prealloc" if setting.flags & NO_PREALLOC else "prealloc"
    return Facts(
        ids=has("ids"),
        lookup=known("lookup.present"),
        second_freeze=known("frozen.freeze") if has("freeze") else "EINVAL",
        freeze="ok" if has("freeze") else "EINVAL",
        other_size="ok" if has("inner_max_entries") else "EINVAL",
        batch={name: known(f"batch.command.{name}") for name in ("update", "delete", "lookup", "lookup_and_delete")},
        over_hole=_errno_of(known("batch.lookup_over_empty_slot")) if short == "aom" else "ENOENT",
        leaks=_is(known(f"lifetime.replaced_twenty_times.{how}"), 20),
    )


def _errno_of(answer: Any) -> Any:
    return answer["errno"] if isinstance(answer, Mapping) else answer


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
            outer = (
                {key: ["found", number] for key, number in self.slots.items()} if _is(self.facts.lookup, "ok") else ANY
            )
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
        if not _is(self.facts.lookup, "ok"):
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
        if _is(can, "EINVAL"):
            return ["EINVAL", ANY]  # bpf(2) does not know the command
        if self.outer_frozen:
            return ["EPERM", ANY]
        if not _is(can, "ok"):
            return [can, ANY]
        for done, step in enumerate(steps):
            answer = step()
            if answer != "ok":
                return [answer, done]
        return ["ok", len(steps)]

    def _batch_read(self) -> Any:
        can = self.facts.batch["lookup"]
        if not _is(can, "ok"):
            return can
        has_holes = not self.setting.is_hash and len(self.slots) < self.setting.max_entries
        if has_holes and not _is(self.facts.over_hole, "ENOENT"):
            return self.facts.over_hole
        return ["batch", dict(self.slots)]

    def _batch_take(self) -> Any:
        can = self.facts.batch["lookup_and_delete"]
        if _is(can, "EINVAL"):
            return "EINVAL"
        if self.outer_frozen:
            return "EPERM"
        if not _is(can, "ok"):
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


def seen(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the guest saw after a step, with error numbers by their names."""
    return {**record, "answer": _named(record["answer"])}


def _named(answer: Any) -> Any:
    if isinstance(answer, int):
        return errno_name(answer) if answer else "ok"
    if isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], int):
        return [_named(answer[0]), *answer[1:]]
    return answer


_WORDS = {
    "answer": "the answer",
    "outer": "what the outer map holds",
    "inners": "what the inner maps hold",
    "alive": "which maps are alive",
}


def difference(expected: Mapping[str, Any], observed: Mapping[str, Any]) -> str:
    """Return what differs between two steps, in words; "" for nothing."""
    return "; ".join(
        f"{word}: expected {_shown(expected[name])}, got {_shown(observed[name])}"
        for name, word in _WORDS.items()
        if not _equal(expected[name], observed[name])
    )


def unexplained(
    expected: tuple[Mapping[str, Any], Mapping[str, Any]], observed: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> str:
    """Return what two kernels did differently at a step that no table foretells; "" for nothing.

    Args:
        expected: What was foretold of each.
        observed: What each did.
    """
    return "; ".join(
        f"{word}: the first {_shown(observed[0][name])}, the second {_shown(observed[1][name])}"
        for name, word in _WORDS.items()
        if observed[0][name] != observed[1][name]
        and not all(
            _is_known(one[name]) and _equal(one[name], two[name]) for one, two in zip(expected, observed, strict=True)
        )
    )


def _is_known(expected: Any) -> bool:
    """Whether nothing in it is left open."""
    if isinstance(expected, (list, tuple)):
        return all(map(_is_known, expected))
    return expected is not ANY


def common(one: Facts, other: Facts) -> Facts:
    """Return facts that a sequence for two kernels is planned with: no step that one of them could not be asked."""
    batch = {name: ANY if other.batch[name] is ANY else answer for name, answer in one.batch.items()}
    return replace(one, ids=one.ids and other.ids, batch=batch)


def _equal(expected: Any, observed: Any) -> bool:
    if isinstance(expected, (list, tuple)) and isinstance(observed, (list, tuple)):
        return len(expected) == len(observed) and all(map(_equal, expected, observed))
    return bool(expected == observed)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in sorted(value.items())) + "}"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return " ".join(_shown(one) for one in value)
    return str(value)
