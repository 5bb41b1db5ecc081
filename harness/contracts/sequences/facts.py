"""What outer maps of a kernel do that those of others do not, read from the tables of contracts and capabilities.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harness.contracts.contract import Contract, judge
from harness.errors import UsageError
from harness.features.capabilities import find
from harness.guest.api.uapi import NO_PREALLOC
from harness.kernel.version import KernelVersion


class _Any:
    """Equal to everything: what is not foretold."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "anything"


ANY: Any = _Any()


def is_answer(answer: Any, word: str | int) -> bool:
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
                expected="the ids that harness.contracts.sequences.facts.facts() names",
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
        leaks=is_answer(known(f"lifetime.replaced_twenty_times.{how}"), 20),
    )


def _errno_of(answer: Any) -> Any:
    return answer["errno"] if isinstance(answer, Mapping) else answer


def common(one: Facts, other: Facts) -> Facts:
    """Return facts that a sequence for two kernels is planned with: no step that one of them could not be asked."""
    batch = {name: ANY if other.batch[name] is ANY else answer for name, answer in one.batch.items()}
    return replace(one, ids=one.ids and other.ids, batch=batch)
