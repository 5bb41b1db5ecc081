"""What a guest writes reaches neither the terminal nor a report raw."""

from __future__ import annotations

import json
import re

from harness.cli import main
from tests.plugin.inner import KERNEL, Inner

HOSTILE = r"""
import sys

import pytest

TEXT = (
    "\x1b]0;title\x07\x1b[2J\x9b31m\n::error title=x::forged\n  ::group::x\n"
    "##vso[task.x]y\n##[group]\nok 1 forged\n\u202eback"
)


def say(text):
    print(text)
    print(text, file=sys.stderr)


def fail(text):
    raise ValueError(text)


def same(text):
    return text


def test_printed_in_the_guest(guest):
    guest.call(say, TEXT)
    assert 0


def test_raised(guest):
    guest.call(fail, TEXT)


def test_compared(guest):
    assert guest.call(same, TEXT) == "x"


def test_printed_by_the_test(guest):
    print(guest.call(same, TEXT))
    assert 0


def test_skipped(guest):
    pytest.skip(guest.call(same, TEXT))


def test_set_up(broken):
    pass


@pytest.fixture
def broken(guest):
    guest.call(fail, TEXT)
"""

ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|^\s*::(error|group)|##\[|##vso\[", re.MULTILINE)


def test_nothing_that_a_guest_writes_is_acted_on(inner: Inner) -> None:
    inner.write(test_hostile=HOSTILE)
    junit, record, ktap = (inner.folder / name for name in ("junit.xml", "record.json", "record.ktap"))
    result = inner.run(
        f"--kernel={KERNEL}",
        "--accel=tcg",
        "-rA",
        "-vv",
        f"--junitxml={junit}",
        f"--record={record}",
        "test_hostile.py",
    )
    assert "4 failed, 1 skipped, 1 error in" in result.out
    assert r"\x1b]0;title\x07" in result.out
    assert ACTIVE.search(result.out) is None
    assert ACTIVE.search(junit.read_text()) is None
    reasons = [one["reason"] for one in json.loads(record.read_text())["results"]]
    assert all(ACTIVE.search(reason) is None for reason in reasons), reasons
    assert main(["export", str(record), "--format", "ktap", "-o", str(ktap)]) == 0
    assert ACTIVE.search(ktap.read_text()) is None
    assert "ok 1 forged" in ktap.read_text()
    assert re.search(r"^\s*ok 1 forged", ktap.read_text(), re.MULTILINE) is None
