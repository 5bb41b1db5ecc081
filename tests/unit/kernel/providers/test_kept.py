"""Lists that are kept: when the server is asked, and which list is used when it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import MirrorError
from harness.kernel.providers.kept import KeptList
from harness.util import cache

START = 1_000_000.0
HOUR = 3600.0


class Clock:
    """The time, which only the test moves."""

    def __init__(self) -> None:
        self.now = START


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.time", lambda: made.now)
    return made


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the cache unwritable, for root too."""
    return lambda: monkeypatch.setattr(cache, "is_writable", lambda _path: False)


class Listing:
    """A list as a provider has it, and a server that answers with `answer`, or not when that is None."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "list.json"
        self.answer: dict[str, object] | None = {"versions": ["6.1"]}
        self.asked = 0
        self.said: list[str] = []

    def ask(self) -> dict[str, object]:
        self.asked += 1
        if self.answer is None:
            raise MirrorError("the server is down")
        return self.answer

    def get(self, server: str = "http://a", *, refresh: bool = False) -> list[str]:
        kept = KeptList(self.file, name="x", what="list", hours=12, refresh=refresh, retry_minutes=10)
        versions: list[str] = kept.get({"server": server}, self.ask, self.said.append)["versions"]
        return versions


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    return Listing(tmp_path)


def test_the_server_is_asked_when_the_list_is_due(listing: Listing, clock: Clock) -> None:
    for hours, asked in ((0, 1), (11.9, 1), (12, 2), (-1, 3)):
        clock.now = START + hours * HOUR
        assert listing.get() == ["6.1"]
        assert listing.asked == asked


@pytest.mark.parametrize("change", ["server", "refresh", "damaged"])
def test_the_server_is_asked_again(listing: Listing, change: str) -> None:
    listing.get()
    if change == "damaged":
        listing.file.write_text("{")
    listing.get("http://b" if change == "server" else "http://a", refresh=change == "refresh")
    assert listing.asked == 2


def test_an_old_list_serves_for_some_minutes_when_the_server_does_not_answer(listing: Listing, clock: Clock) -> None:
    listing.get()
    listing.answer = None
    for minutes, asked in ((0, 2), (9.9, 2), (10, 3)):
        clock.now = START + 13 * HOUR + minutes * 60
        assert listing.get() == ["6.1"]
        assert listing.asked == asked
    assert listing.said == ["x: the server is down; using the list of 13 hours ago"] * 2


def test_without_a_list_the_error_is_raised(listing: Listing) -> None:
    listing.get()
    listing.answer = None
    with pytest.raises(MirrorError, match="the server is down"):
        listing.get("http://b")


def test_an_incomplete_list_serves_for_some_minutes(listing: Listing, clock: Clock) -> None:
    listing.answer = {"versions": [], "troubles": ["a suite is missing"]}
    listing.get()
    clock.now += 9 * 60
    listing.get()
    assert listing.asked == 1
    clock.now += 2 * 60
    listing.get()
    assert listing.asked == 2


def test_an_unwritable_cache(listing: Listing, clock: Clock, unwritable: Callable[[], None]) -> None:
    listing.get()
    unwritable()
    clock.now += 13 * HOUR
    assert listing.get() == ["6.1"]
    assert listing.asked == 1
    assert listing.said == [f"x: {listing.file.parent} cannot be written; using the list in it"]
    listing.answer = {"versions": ["6.2"]}
    assert listing.get("http://b") == ["6.2"]
    assert listing.get() == ["6.1"]
