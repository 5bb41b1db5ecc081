"""Which of the kernel's complaints count."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from harness.checks.expiring import in_force
from harness.checks.known_faults import KINDS, KnownFault, expect, read_known, sort_out
from harness.errors import UsageError
from harness.results.types import Fault
from harness.util.data import read_toml

DAY = dt.date(2027, 1, 31)
WARN = Fault("WARN", "WARNING: CPU: 0 PID: 1 at mm/vmalloc.c:1 vfree+0x1/0x2", "WARN: vfree", "line")
OOPS = Fault("oops", "BUG: kernel NULL pointer dereference, address: 0", "oops: map_free", "line")

ENTRY: dict[str, Any] = {
    "kind": "WARN",
    "fingerprint": "WARN: vfree",
    "kernels": ">=6.1,<6.2",
    "reason": "seen at boot, harmless",
    "expires": DAY,
}


def known(**changes: Any) -> list[KnownFault]:
    return read_known({"fault": [{**ENTRY, **changes}]}, "some.toml")


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ENTRY.items() if name != field}


def test_all_that_is_found_counts_and_the_same_fault_once() -> None:
    found = sort_out([WARN, OOPS, WARN])
    assert [(one.fault.kind, one.times) for one in found.counted] == [("WARN", 2), ("oops", 1)]
    assert found.known == []
    assert found.missing == []


def test_an_expected_fault_does_not_count_and_another_one_does() -> None:
    found = sort_out([WARN, OOPS], expected=[expect("WARN", "vfree", "on purpose")])
    assert [one.fault for one in found.counted] == [OOPS]
    assert found.missing == []


@pytest.mark.parametrize("title", ["another_function", "^vfree"])
def test_an_expected_fault_that_did_not_come_is_missing(title: str) -> None:
    expected = expect("WARN", title, "on purpose")
    found = sort_out([WARN], expected=[expected])
    assert found.missing == [expected]
    assert [one.fault for one in found.counted] == [WARN]


PANICKED = Fault(
    "oops",
    OOPS.title,
    OOPS.fingerprint,
    excerpt=f"{OOPS.title}\nCall Trace:\nKernel panic - not syncing: Fatal exception\nKernel Offset: disabled",
)


@pytest.mark.parametrize("title", ["", "NULL pointer", "not syncing: Fatal exception$"])
def test_an_expected_panic_may_be_what_an_oops_led_to(title: str) -> None:
    found = sort_out([PANICKED], expected=[expect("panic", title, "on purpose")])
    assert (found.counted, found.missing) == ([], [])


@pytest.mark.parametrize(
    ("fault", "kind", "title"),
    [(OOPS, "panic", ""), (PANICKED, "panic", "sysrq triggered crash"), (PANICKED, "WARN", ""), (PANICKED, "hung", "")],
)
def test_an_oops_that_led_to_no_such_panic_counts(fault: Fault, kind: str, title: str) -> None:
    found = sort_out([fault], expected=[expect(kind, title, "on purpose")])
    assert [one.fault for one in found.counted] == [fault]
    assert len(found.missing) == 1


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        (("warning", "", "x"), "is not a kind of fault"),
        ((3, "", "x"), "is not a kind of fault"),
        (("WARN", "", None), "has no reason"),
        (("WARN", "", " "), "has no reason"),
        (("WARN", "(", "x"), "is not a regular expression"),
        (("WARN", 3, "x"), "is not a title"),
    ],
)
def test_an_expectation_that_says_too_little_is_refused(marker: tuple[Any, Any, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        expect(*marker)


def test_a_known_fault_does_not_count_on_its_kernels() -> None:
    entries = known()
    (excused,) = sort_out([WARN, OOPS], known=entries, is_for=lambda condition: condition == ">=6.1,<6.2").known
    assert excused[0].fault is WARN
    assert excused[1].reason == "seen at boot, harmless"
    elsewhere = sort_out([WARN], known=entries, is_for=lambda _condition: False)
    assert [one.fault for one in elsewhere.counted] == [WARN]


@pytest.mark.parametrize(
    ("changes", "hides"),
    [
        ({}, True),
        ({"fingerprint": "WARN: vfre"}, False),
        ({"fingerprint": "", "title": r"at mm/vmalloc\.c"}, True),
        ({"title": "elsewhere"}, False),
        ({"kind": "BUG"}, False),
    ],
)
def test_an_entry_hides_what_it_names_and_nothing_else(changes: dict[str, Any], hides: bool) -> None:
    assert bool(sort_out([WARN], known=known(**changes)).known) is hides


def test_an_entry_holds_to_its_last_day_and_is_named_afterwards() -> None:
    assert in_force(known(), DAY) == (known(), [])
    kept, lines = in_force(known(), DAY + dt.timedelta(days=1))
    assert kept == []
    assert lines == ["some.toml, entry 1 (WARN) expired on 2027-01-31 and has no effect"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (without("reason"), "does not say why"),
        (without("expires"), "does not say until when"),
        (without("kernels"), "does not say where"),
        (without("kind"), "does not say what it is"),
        (without("fingerprint"), "would hide every WARN"),
        ({**ENTRY, "reason": ""}, "does not say why"),
        ({**ENTRY, "expires": "2027-01-31"}, "a day such as"),
        ({**ENTRY, "kind": "warning"}, "is not a kind of fault"),
        ({**ENTRY, "kernels": "newest"}, "says nothing about a kernel's version"),
        ({**ENTRY, "title": "("}, "is not a regular expression"),
        ({**ENTRY, "cause": "?"}, "unknown fields"),
        ("WARN", "unknown fields"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(row: object, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as raised:
        read_known({"fault": [ENTRY, row]}, "some.toml")
    assert "some.toml, entry 2" in str(raised.value)


@pytest.mark.parametrize("data", [{"faults": [ENTRY]}, {"fault": ENTRY}])
def test_a_file_of_something_else_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="known faults"):
        read_known(data, "some.toml")


def test_the_projects_own_entries_are_well_formed() -> None:
    for entry in read_known(read_toml("kernels", "known-faults.toml"), "kernels/known-faults.toml"):
        assert entry.kind in KINDS
