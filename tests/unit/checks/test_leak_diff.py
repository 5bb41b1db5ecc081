"""What the leak check makes of two snapshots."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checks import leak_diff
from harness.checks.leak_diff import FoundLeak
from harness.results.types import Leak

KINDS = ("map", "prog", "link", "btf")


MEMINFO = """\
MemTotal:          89364 kB
Slab:               9000 kB
SUnreclaim:         4000 kB
HugePages_Total:       0
"""


def snapshot(**given: Any) -> dict[str, Any]:
    ids: dict[str, list[int] | None] = {kind: [] for kind in KINDS}
    ids.update(given.pop("ids", {}))
    found: dict[str, Any] = {"ids": ids, "pins": [], "memory": MEMINFO, "locked": None}
    left = {"objects": [], "holders": [], "processes": [], "more_processes": 0}
    return {**found, **left, "waited": 0, "grace": 0, **given}


def a_map(number: int, **more: Any) -> dict[str, Any]:
    sizes = {"key_size": 4, "value_size": 4, "max_entries": 8}
    return {"kind": "map", "id": number, "type": "hash", "name": "", "made": "t.py:3 in f", **sizes, **more}


def only(leaks: list[FoundLeak]) -> Leak:
    assert len(leaks) == 1, leaks
    return leaks[0].leak


def test_an_unchanged_object_is_not_a_leak() -> None:
    there = snapshot(ids={"map": [1, 7]}, pins=["/sys/fs/bpf/old"])
    assert leak_diff.judge(there, there) == []


def test_a_missing_object_is_not_a_leak() -> None:
    assert leak_diff.judge(snapshot(ids={"map": [1]}, pins=["/sys/fs/bpf/old"]), snapshot()) == []


@pytest.mark.parametrize("memory", ["Slab:          9001 kB\n", ""])
def test_totals_of_memory_are_no_leak(memory: str) -> None:
    assert leak_diff.judge(snapshot(), snapshot(memory=memory)) == []


def test_totals_of_memory_are_those_of_both_snapshots() -> None:
    end = snapshot(memory="SlabInfo: 1 kB\nSlab:          9001 kB\nPercpu:  5 kB\n")
    assert leak_diff.memory(snapshot(), end) == {"Slab": [9000, 9001]}


def test_an_object_is_named_with_its_maker_and_all_that_hold_it() -> None:
    holders = [["map", 9, "outer map 8 at key 3"], ["map", 9, "program 4"], ["map", 7, "pin /sys/fs/bpf/x"]]
    end = snapshot(ids={"map": [7, 9]}, objects=[a_map(9, name="inner", memlock=4096)], holders=holders)
    leak = only(leak_diff.judge(snapshot(ids={"map": [7]}), end))
    assert (leak.kind, leak.id, leak.type, leak.name) == ("map", 9, "hash", "inner")
    assert leak.holder == "outer map 8 at key 3, program 4"
    assert leak.made == "t.py:3 in f"
    assert leak.text == (
        "hash map 9 'inner' (key 4, value 4, 8 entries, memlock 4096) is still there; "
        "held by outer map 8 at key 3, program 4; made at t.py:3 in f"
    )


def test_where_no_holder_was_found_the_kernel_is_not_accused() -> None:
    end = snapshot(ids={"map": [9]}, objects=[a_map(9, made="")])
    leak = only(leak_diff.judge(snapshot(), end))
    assert leak.holder == ""
    assert "what holds it was not found" in leak.text
    assert leak.text.endswith("a socket may, or the kernel itself; who made it is not known")


def test_a_program_goes_by_its_whole_name() -> None:
    about = {"kind": "prog", "id": 4, "type": "xdp", "name": "p", "made": ""}
    end = snapshot(ids={"prog": [4]}, objects=[about], holders=[["prog", 4, "link 2"]])
    leak = only(leak_diff.judge(snapshot(), end))
    assert (leak.kind, leak.text[:17]) == ("program", "xdp program 4 'p'")


def test_a_pin_is_reported_once() -> None:
    pinned = snapshot(pins=["/sys/fs/bpf/x"], ids={"map": [9]}, holders=[["map", 9, "pin /sys/fs/bpf/x"]])
    leak = only(leak_diff.judge(snapshot(), {**pinned, "objects": [a_map(9)]}))
    assert (leak.kind, leak.holder) == ("map", "pin /sys/fs/bpf/x")
    # Of an object that was there before, the pin itself is what leaked.
    leak = only(leak_diff.judge(snapshot(ids={"map": [9]}), pinned))
    assert (leak.kind, leak.name, leak.text) == ("pin", "/sys/fs/bpf/x", "the pin /sys/fs/bpf/x is still there")


def test_a_crowd_is_counted_when_it_was_not_looked_at() -> None:
    end = snapshot(ids={"map": list(range(10, 110))}, objects=[a_map(10)])
    first, rest = leak_diff.judge(snapshot(), end)
    assert first.leak.id == 10
    assert rest.leak.text == "99 more maps are still there, ids 11 to 109, not looked at closely"


def test_a_process_that_still_runs_is_named() -> None:
    leak = only(leak_diff.judge(snapshot(), snapshot(processes=[[88, "/usr/bin/python3 -c pass", False]])))
    assert (leak.kind, leak.id, leak.text) == ("process", 88, "the process 88 still runs: /usr/bin/python3 -c pass")


def test_a_process_that_spins_is_said_to_use_the_processor() -> None:
    leak = only(leak_diff.judge(snapshot(), snapshot(processes=[[88, "stress", True]])))
    assert leak.text == "the process 88 still runs and uses the processor: stress"


def test_of_very_many_processes_the_others_are_counted() -> None:
    found = leak_diff.judge(snapshot(), snapshot(processes=[[88, "bomb", True]], more_processes=1200))
    assert found[-1].leak.text == "1200 more processes still run, not looked at closely"


def test_a_forgotten_descriptor_is_named_with_who_opened_it() -> None:
    one = {**a_map(9, name="inner"), "fd": 12, "target": "anon_inode:bpf-map", "function": "churn"}
    leak = only(leak_diff.judge(snapshot(), snapshot(), [one]))
    assert (leak.kind, leak.id, leak.type, leak.name, leak.made) == ("fd", 9, "hash", "inner", "t.py:3 in f")
    assert leak.holder == "fd 12 of the process of churn()"
    assert leak.text == (
        "hash map 9 'inner' (key 4, value 4, 8 entries) was left open as fd 12 when churn() returned; "
        "opened at t.py:3 in f"
    )


def test_a_forgotten_socket_is_named_by_where_it_leads() -> None:
    one = {"kind": "socket", "id": None, "type": "", "name": "", "made": ""}
    leak = only(leak_diff.judge(snapshot(), snapshot(), [{**one, "fd": 5, "target": "socket:[33]", "function": "f"}]))
    assert (leak.kind, leak.type) == ("fd", "socket")
    assert leak.text == "socket (socket:[33]) was left open as fd 5 when f() returned"


def test_without_ids_locked_memory_shows_a_leak() -> None:
    nothing: dict[str, Any] = {"ids": dict.fromkeys(KINDS)}
    before = snapshot(**nothing, locked=1)
    assert leak_diff.judge(before, snapshot(**nothing, locked=1)) == []
    leak = only(leak_diff.judge(before, snapshot(**nothing, locked=4)))
    assert leak.kind == "memory"
    assert leak.text.startswith("12 KiB of locked memory are still charged for maps or programs;")


def test_what_cannot_be_checked_is_said() -> None:
    assert leak_diff.unchecked(snapshot()) == []
    assert leak_diff.unchecked(snapshot(ids={"link": None})) == ["links by id: BPF_LINK_GET_NEXT_ID came with 5.8"]
    old = leak_diff.unchecked(snapshot(ids=dict.fromkeys(KINDS), locked=0))
    assert old[0] == "maps by id: BPF_MAP_GET_NEXT_ID came with 4.13"
    assert old[-1] == "which map or program leaked: only the memory that they lock shows them"
