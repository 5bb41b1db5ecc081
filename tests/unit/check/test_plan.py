"""What the options of a check say, and what is refused of them."""

from __future__ import annotations

import pytest

from harness.check.plan import (
    MapSetting,
    MapTemplate,
    Place,
    Variable,
    parse_map,
    parse_place,
    parse_template,
    parse_variable,
)
from harness.errors import UsageError


def test_an_inner_map_is_described_in_a_word() -> None:
    assert parse_template("traced=hash:4:0x8:16") == MapTemplate("traced", "hash", 4, 8, 16)
    assert parse_template("o=array:4:4:2:0x1000").map_flags == 0x1000


@pytest.mark.parametrize("text", ["", "traced", "traced=hash", "traced=hsah:4:4:8", "=hash:4:4:8", "o=hash:4:x:8"])
def test_what_describes_no_inner_map_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not describe an inner map"):
        parse_template(text)


def test_settings_of_a_map() -> None:
    assert parse_map("rings:max_entries=8,flags=0x4") == [
        MapSetting("rings", "max_entries", 8),
        MapSetting("rings", "map_flags", 4),
    ]
    assert parse_map("m:type=hash") == [MapSetting("m", "type", 1)]


@pytest.mark.parametrize(
    "text", ["", "m", "m:", "m:max_entries", "m:max=3", "m:max_entries=x", ":flags=1", "m:flags=-1"]
)
def test_what_sets_nothing_in_a_map_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not say what to set in a map"):
        parse_map(text)


def test_values_of_variables() -> None:
    assert parse_variable("pid=0x10").encoded(4, "little") == b"\x10\0\0\0"
    assert parse_variable("n=-1").encoded(2, "little") == b"\xff\xff"
    assert parse_variable("late=true").encoded(1, "little") == b"\1"
    assert parse_variable("name=lo").encoded(4, "little") == b"lo\0\0"
    assert parse_variable("pid=0x10").encoded(4, "big") == b"\0\0\0\x10"
    assert parse_variable("n=-2").encoded(8, "big") == b"\xff" * 7 + b"\xfe"
    assert parse_variable("empty=").encoded(2, "little") == b"\0\0"


@pytest.mark.parametrize("variable", [Variable("a", 256), Variable("a", -129), Variable("a", "x")])
def test_a_value_that_does_not_fit_is_refused(variable: Variable) -> None:
    with pytest.raises(UsageError, match="does not fit into the variable a"):
        variable.encoded(1, "little")


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", ""])
def test_what_sets_no_variable_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not set a variable"):
        parse_variable(text)


def test_places() -> None:
    assert parse_place("xdp=lo") == Place("xdp", "lo")
    assert parse_place("cgroup=/") == Place("cgroup", "/")
    assert parse_place("netns") == Place("netns", "")


@pytest.mark.parametrize("text", ["", "xdp", "xdp=", "eth0", "netns=x", "kprobe=f"])
def test_what_is_not_a_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a place to attach to"):
        parse_place(text)
