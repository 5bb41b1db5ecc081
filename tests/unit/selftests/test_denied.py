"""Selftests that are not run: entries with a reason and an expiry date."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.selftests.denied import denied, load, read_denied

ENTRY: dict[str, Any] = {
    "test": "timers:n*",
    "kernels": ">=6.1",
    "reason": "there is no clock",
    "expires": dt.date(2027, 1, 31),
}
TEXT = '[[deny]]\ntest = "timers:n*"\nkernels = ">=6.1"\nreason = "there is no clock"\nexpires = 2027-01-31\n'


def test_an_entry_holds_for_its_tests_and_kernels() -> None:
    entries = read_denied({"deny": [ENTRY]}, "f.toml")
    assert denied(entries, "timers:nanosleep", lambda condition: condition == ">=6.1") is entries[0]
    assert denied(entries, "timers:nanosleep", lambda _: False) is None
    assert denied(entries, "net:tls", lambda _: True) is None


def test_an_expired_entry_has_no_effect_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(TEXT)
    kept, lines = load([tmp_path / "d.toml"], dt.date(2027, 1, 31))
    assert [one.reason for one in kept if one.test == "timers:n*"] == ["there is no clock"]
    kept, lines = load([tmp_path / "d.toml"], dt.date(2027, 2, 1))
    assert "timers:n*" not in [one.test for one in kept]
    assert f"{tmp_path}/d.toml, entry 1 (timers:n*) expired on 2027-01-31 and has no effect" in lines


@pytest.mark.parametrize("name", ["test", "kernels", "reason", "expires"])
@pytest.mark.parametrize("value", [None, "", 7])
def test_an_entry_without_a_field_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"f.toml, entry 1 has no valid {name}"):
        read_denied({"deny": [{**ENTRY, name: value}]}, "f.toml")


def test_other_content_is_refused() -> None:
    with pytest.raises(UsageError, match="more than tests to leave out"):
        read_denied({"fault": []}, "f.toml")
    with pytest.raises(UsageError, match="unknown fields"):
        read_denied({"deny": [{**ENTRY, "why": ""}]}, "f.toml")
    with pytest.raises(UsageError, match="entry 1: kernels"):
        read_denied({"deny": [{**ENTRY, "kernels": ">=six"}]}, "f.toml")


def test_the_packages_own_list_is_valid() -> None:
    load([], dt.datetime.now(tz=dt.timezone.utc).date())
