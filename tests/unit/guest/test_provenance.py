"""The record of who made which kernel object."""

from __future__ import annotations

import os

from harness.guest.leaks import descriptors
from harness.guest.leaks.provenance import UNKNOWN, Record


def test_a_process_reads_what_another_wrote() -> None:
    record = Record()
    assert record.used is False
    pid = os.fork()
    if pid == 0:
        for number in range(3000):
            record.add("map" if number % 2 else "btf", number, record.place([], f"t.py:{number % 5} in f"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    found = record.read()
    assert len(found) == 3000
    assert found["map", 2999] == "t.py:4 in f"
    assert found["btf", 2] == "t.py:2 in f"


def test_the_latest_are_kept() -> None:
    record = Record()
    place = record.place([], "t.py:1 in f")
    for number in range((1 << 17) + 5):
        record.add("map", number, place)
    found = record.read()
    assert len(found) == 1 << 17
    assert ("map", 4) not in found
    assert ("map", 5) in found


def test_more_places_than_there_is_room_for_cost_no_more_than_their_names() -> None:
    record = Record()
    for number in range(200):
        record.add("map", number, record.place([], f"{number} {'x' * 1000}"))
    found = record.read()
    assert found["map", 0].startswith("0 x")
    assert 60 < len(found) < 70


def test_an_unknown_place_is_called_so() -> None:
    record = Record()
    record.add("map", 1, record.place([], ""))
    record.add("map", 2, record.place([], "t.py:1 in f"))
    assert record.read() == {("map", 1): UNKNOWN, ("map", 2): "t.py:1 in f"}


def test_descriptors_are_described_by_kind() -> None:
    targets = {
        "anon_inode:bpf-map": "map",
        "anon_inode:bpf-prog": "prog",
        "anon_inode:bpf_link": "link",
        "anon_inode:btf": "btf",
        "anon_inode:[perf_event]": "perf_event",
        "socket:[1234]": "socket",
        "pipe:[12]": "pipe",
        "/dev/null": "file",
    }
    assert {target: descriptors.kind_of_fd(target) for target in targets} == targets


class Closing:
    """Holds a descriptor, and closes it when it is collected."""

    def __init__(self) -> None:
        self.fd = os.dup(0)
        self.itself: object = None

    def __del__(self) -> None:
        os.close(self.fd)


def test_what_a_function_left_open_is_found_and_what_is_garbage_is_not() -> None:
    before = descriptors.descriptors()
    assert descriptors.left_open(before) == []
    kept, other = os.pipe()
    os.close(other)
    (left,) = descriptors.left_open(before)
    assert (left["fd"], left["kind"], left["made"]) == (kept, "pipe", "")
    os.close(kept)
    garbage = Closing()
    garbage.itself = garbage
    del garbage
    assert descriptors.left_open(before) == []
