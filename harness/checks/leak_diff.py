"""Compares two snapshots: the kernel objects that exist after a test and not before it leaked.

Pure: two snapshots of harness.guest.leaks.snapshot in, leaks out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.types import Leak

Snapshot = Mapping[str, Any]

_WORDS = {"map": "map", "prog": "program", "link": "link", "btf": "BTF"}
_ID_COMMANDS = {"map": "4.13", "prog": "4.13", "link": "5.8", "btf": "5.4"}
"""The first mainline version with GET_NEXT_ID for each kind."""

_MEMORY = ("Slab", "SUnreclaim", "VmallocUsed", "Percpu", "KernelStack")
_PAGE_KIB = 4


@dataclass(frozen=True)
class FoundLeak:
    """A leak, and the message about it.

    Attributes:
        leak: The leak.
        lines: The message: what it is and that it is there, what holds it, how it was made.
    """

    leak: Leak
    lines: tuple[str, ...]


def _found(
    kind: str, *lines: str, number: int | None = None, type_: str = "", name: str = "", made: str = "", holder: str = ""
) -> FoundLeak:
    return FoundLeak(Leak(kind, "; ".join(lines), number, type_, name, made, holder), lines)


def judge(baseline: Snapshot, end: Snapshot, left_open: Sequence[Mapping[str, Any]] = ()) -> list[FoundLeak]:
    """Return the leaks.

    Args:
        baseline: The snapshot when the machine was ready.
        end: The snapshot after the test, when everything had settled.
        left_open: Descriptors that functions had open when they returned, as harness.guest.leaks.descriptors.left_open
            harness.guest.leaks.snapshot.left_open, each with its `function`.
    """
    found = [_forgotten(one) for one in left_open]
    holders: dict[tuple[str, int], list[str]] = {}
    for kind, number, holder in end["holders"]:
        holders.setdefault((kind, number), []).append(holder)
    looked_at = {(one["kind"], one["id"]): one for one in end["objects"]}
    explained: set[str] = set()
    for kind in _WORDS:
        new = sorted(set(end["ids"][kind] or ()).difference(baseline["ids"][kind] or ()))
        for number in new:
            about = looked_at.get((kind, number))
            if about is not None:
                held_by = holders.get((kind, number), [])
                explained.update(held_by)
                found.append(_object(about, held_by))
        others = [number for number in new if (kind, number) not in looked_at]
        if others:
            found.append(_others(kind, others))
    found += [
        _found("pin", f"the pin {path} is still there", name=path)
        for path in sorted(set(end["pins"]).difference(baseline["pins"]))
        if f"pin {path}" not in explained
    ]
    for pid, command, spins in end["processes"]:
        how = "still runs and uses the processor" if spins else "still runs"
        found.append(_found("process", f"the process {pid} {how}: {command}", number=pid, name=command))
    if end["more_processes"]:
        found.append(_found("process", f"{end['more_processes']} more processes still run, not looked at closely"))
    return found + _locked(baseline, end)


def unchecked(baseline: Snapshot) -> list[str]:
    """Return what cannot be checked on a kernel, one line each."""
    found = [
        f"{_WORDS[kind]}s by id: BPF_{kind.upper()}_GET_NEXT_ID came with {since}"
        for kind, since in _ID_COMMANDS.items()
        if baseline["ids"][kind] is None
    ]
    if baseline["ids"]["map"] is None:
        found.append(
            "which map or program leaked: only the memory that they lock shows them"
            if baseline["locked"] is not None
            else "maps and programs that nothing but the kernel holds: no ids, and no count of locked memory"
        )
    return found


def memory(baseline: Snapshot, end: Snapshot) -> dict[str, list[int]]:
    """Return totals of kernel memory before and after a test, in KiB, as far as the kernel shows them."""
    before, after = (
        {name: value.split()[0] for name, _, value in (line.partition(":") for line in one["memory"].splitlines())}
        for one in (baseline, end)
    )
    return {name: [int(before[name]), int(after[name])] for name in _MEMORY if name in before and name in after}


def _name(about: Mapping[str, Any]) -> str:
    """Return a description of an object: "hash map 17 'inner' (key 4, value 4, 8 entries)"."""
    words = [str(about["type"])] if about["type"] else []
    words.append(_WORDS.get(about["kind"], str(about["kind"])))
    if about["id"] is not None:
        words.append(str(about["id"]))
    if about["name"]:
        words.append(repr(about["name"]))
    if "max_entries" in about:
        sizes = f"key {about.get('key_size', 0)}, value {about.get('value_size', 0)}, {about['max_entries']} entries"
        words.append(f"({sizes}, memlock {about['memlock']})" if "memlock" in about else f"({sizes})")
    return " ".join(words)


def _forgotten(one: Mapping[str, Any]) -> FoundLeak:
    what = _name(one) if one["kind"] in _WORDS else f"{one['kind']} ({one['target']})"
    holder = f"fd {one['fd']} of the process of {one['function']}()"
    made = str(one["made"])
    lines = [f"{what} was left open as fd {one['fd']} when {one['function']}() returned"]
    if made:
        lines.append(f"opened at {made}")
    what_type = str(one["type"] or one["kind"])
    return _found("fd", *lines, number=one["id"], type_=what_type, name=str(one["name"]), made=made, holder=holder)


_NOT_FOUND = (
    "what holds it was not found: no descriptor, pin, map, program, link, cgroup, network namespace or interface does; "
    "a socket may, or the kernel itself"
)


def _object(about: Mapping[str, Any], held_by: Sequence[str]) -> FoundLeak:
    made = str(about.get("made", ""))
    holder = ", ".join(held_by)
    lines = (
        f"{_name(about)} is still there",
        f"held by {holder}" if held_by else _NOT_FOUND,
        f"made at {made}" if made else "who made it is not known",
    )
    return _found(
        str(about["kind"]).replace("prog", "program"),
        *lines,
        number=about["id"],
        type_=str(about["type"]),
        name=str(about["name"]),
        made=made,
        holder=holder,
    )


def _others(kind: str, numbers: Sequence[int]) -> FoundLeak:
    word = _WORDS[kind]
    shown = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    text = f"{len(numbers)} more {word}s are still there, ids {shown}, not looked at closely"
    return _found(kind.replace("prog", "program"), text, number=numbers[0])


def _locked(baseline: Snapshot, end: Snapshot) -> list[FoundLeak]:
    before, after = baseline["locked"], end.get("locked")
    if before is None or after is None or after <= before:
        return []
    size = (after - before) * _PAGE_KIB
    text = (
        f"{size} KiB of locked memory are still charged for maps or programs; this kernel gives them no ids, so that "
        "which they are is unknown"
    )
    return [_found("memory", text, type_="locked memory")]
