"""The wire format: what goes in comes out as it was, and nothing damaged does."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest import wire

hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=25,
)


def typed(value: Any) -> Any:
    """Return the value with the type of every part beside it: 1, True and 1.0 are equal, and are not the same."""
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(typed(item)) for item in value)
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    return type(value), repr(value)


@given(plain)
def test_every_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert typed(wire.decode(wire.encode(value))) == typed(value)


def test_a_nan_and_a_lone_surrogate_cross() -> None:
    assert math.isnan(wire.decode(wire.encode(math.nan)))
    assert wire.decode(wire.encode("\ud800")) == "\ud800"


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_a_wire_error(data: bytes) -> None:
    try:
        value = wire.decode(data)
    except wire.WireError:
        return
    wire.encode(value)


@given(plain, st.data())
def test_a_payload_cut_short_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = wire.encode(value)
    with pytest.raises(wire.WireError):
        wire.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "value is a builtins.object"),
        ({"a": [1, {2: print}]}, r"value\['a'\]\[1\]\[2\] is a builtins.builtin_function_or_method"),
        ({(1, 1j): 0}, r"key \(1, 1j\) of value\[1\] is a builtins.complex"),
        (type("Sub", (int,), {})(3), "Sub"),
    ],
)
def test_what_cannot_cross_is_named(value: object, named: str) -> None:
    with pytest.raises(wire.WireError, match=named):
        wire.encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(wire.WireError, match="contains itself"):
        wire.encode(endless)


def test_a_payload_nested_without_end_is_refused() -> None:
    with pytest.raises(wire.WireError, match="nested"):
        wire.decode(b"l\x01\0\0\0" * 5000 + b"n")


FRAMES: list[tuple[int, int, int, object]] = [
    (wire.REQUEST, 1, 7, ("f", (1,), {})),
    (wire.REPLY, 0xFFFF, 0xFFFF, b"\0" * 1000),
    (wire.EVENT, 0, 0, None),
]


@given(st.lists(st.integers(1, 300), min_size=1))
def test_frames_are_found_however_the_stream_is_cut(sizes: list[int]) -> None:
    stream = b"".join(wire.frame(*frame) for frame in FRAMES)
    splitter = wire.Splitter()
    found = []
    at = 0
    for size in itertools.cycle(sizes):
        found += splitter.feed(stream[at : at + size])
        at += size
        if at >= len(stream):
            break
    assert [(kind, process, tag, wire.decode(payload)) for kind, process, tag, payload in found] == FRAMES


@given(st.data())
def test_a_frame_with_one_bit_turned_never_passes_as_another(data: st.DataObject) -> None:
    whole = wire.frame(wire.REPLY, 3, 4, {"value": [1, 2, 3]})
    damaged = bytearray(whole)
    # Kind, process and tag are not covered by the checksum: they route, and a wrong route finds no request that waits.
    at = data.draw(st.sampled_from([*range(4), *range(12, len(whole))]))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    splitter = wire.Splitter()
    try:
        assert splitter.feed(bytes(damaged)) == []  # it announces more bytes than have come
    except wire.WireError:
        return
    assert damaged[12:16] != whole[12:16]


def test_an_unknown_kind_is_not_a_frame() -> None:
    with pytest.raises(wire.WireError, match="not a frame"):
        wire.Splitter().feed(wire.pack(9, 0, 0, b"n"))


def test_a_frame_that_announces_too_much_is_refused_at_its_header() -> None:
    header = wire.HEADER.pack(wire.MAGIC, wire.REPLY, 1, 1, 0, wire.MAX_PAYLOAD + 1, 0)
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.Splitter().feed(header)


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_PAYLOAD", 100)
    assert wire.frame(wire.REPLY, 1, 1, b"x" * 95)
    with pytest.raises(wire.WireError, match="larger than the limit of 100"):
        wire.frame(wire.REPLY, 1, 1, b"x" * 96)


def of(code: bytes, count: int, unit: bytes) -> bytes:
    return code + count.to_bytes(4, "little") + unit * count


@pytest.mark.parametrize(
    "payload",
    [
        of(b"l", 12_000_000, b"e\0\0\0\0"),  # empty sets: five bytes here, 216 there
        of(b"l", 12_000_000, b"m\0\0\0\0"),
        of(b"l", 60_000_000, b"n"),
        of(b"u", 6_000_000, b"u\1\0\0\0n"),
        of(b"m", 3_000_000, b"nn"),
        b"m" + 4 * b"\xff",
        of(b"s", 60_000_000, b"\xc3\xa9"[:1]),
    ],
    ids=["sets", "dicts", "Nones", "tuples", "pairs", "announced", "wide text"],
)
def test_a_payload_that_would_fill_the_hosts_memory_is_refused_before_anything_of_it_is_made(
    payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*_: object) -> None:
        raise AssertionError("it is decoded")

    monkeypatch.setattr(wire, "_decode", make)
    with pytest.raises(wire.WireError, match="more than 192 MiB of memory"):
        wire.decode(payload.ljust(wire._LIGHT + 1, b"n"))


@pytest.mark.parametrize(
    "value", [bytes(60 << 20), "x" * (60 << 20), [None] * 1_100_000, list(range(200_000))], ids=type
)
def test_a_large_value_that_fits_crosses(value: Any) -> None:
    assert wire.decode(wire.encode(value)) == value


def test_a_value_that_the_other_side_would_refuse_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="too many values"):
        wire.encode([set()] * 1_000_000)


SMALL = ["", "a", "\xe9", "\u20ac", "\U0001f600", b"", 0.0, 1 << 62, 1 << 64, [], (), {}, set(), frozenset()]


@pytest.mark.parametrize("value", SMALL, ids=repr)
def test_a_small_value_is_weighed_from_above(value: Any) -> None:
    data = wire.encode(value)
    assert wire.weigh(data) >= len(data) + sizes(value)


@pytest.mark.parametrize(
    "kind", [list, tuple, set, frozenset, dict.fromkeys], ids=["list", "tuple", "set", "frozenset", "dict"]
)
def test_a_container_that_has_just_grown_is_weighed_from_above(kind: Callable[[Iterable[int]], Any]) -> None:
    for count in range(1, 400):
        data = wire.encode(kind(range(1 << 62, (1 << 62) + count)))
        assert wire.weigh(data) >= len(data) + sizes(wire.decode(data)), count


@given(plain)
def test_a_value_is_weighed_from_above(value: Any) -> None:
    data = wire.encode(value)
    assert wire.weigh(data) >= len(data) + sizes(value)


KINDS = (list, tuple, set, frozenset)


def sizes(value: Any) -> int:
    """Return what a value takes in memory; small numbers and the like are there anyway."""
    parts = [*value, *value.values()] if isinstance(value, dict) else value if type(value) in KINDS else []
    return sys.getsizeof(value) + sum(map(sizes, parts))
