"""Promises by version: which range a kernel is in, what its answer means, and the error for a malformed table."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contracts import contracts
from harness.contracts.contract import Contract, judge, read
from harness.errors import UsageError
from harness.kernel.version import KernelVersion

CHANGED = {
    "id": "update.thing",
    "outer": ["hom"],
    "sentence": "A thing.",
    "takes": "errno",
    "expect": [
        {"until": "5.10", "answer": "EINVAL", "source": "f()"},
        {"since": "5.15", "answer": "ok", "source": "g()"},
    ],
    "backports": [{"since": "5.4.214", "answer": "ok", "source": "h()"}],
}


def contract(**changes: Any) -> Contract:
    (found,) = read([("a.toml", {"contract": [{**CHANGED, **changes}]})]).values()
    return found


@pytest.mark.parametrize(
    ("version", "observed", "word", "expected"),
    [
        ("4.12", "EINVAL", "as expected", "EINVAL"),
        ("5.4.213", "EINVAL", "as expected", "EINVAL"),
        ("5.4.214", "EINVAL", "differs", "ok"),
        ("5.5", "EINVAL", "as expected", "EINVAL"),
        ("5.9.1", "ok", "differs", "EINVAL"),
        ("5.10", "ok", "observed", None),
        ("5.14.21", "EPERM", "observed", None),
        ("5.10-rc1", "EINVAL", "observed", None),
        ("5.15-rc1", "ok", "as expected", "ok"),
        ("5.15", "ok", "as expected", "ok"),
        ("7.3.4", "EINVAL", "differs", "ok"),
    ],
)
def test_an_answer_is_held_against_its_version_s_range(version: str, observed: str, word: str, expected: str) -> None:
    verdict = judge(contract(), KernelVersion.parse(version), observed)
    assert (verdict.word, verdict.expected) == (word, expected)


@pytest.mark.parametrize(
    ("version", "probed", "word", "note"),
    [
        ("5.9", "yes", "as expected", True),
        ("5.9", "no", "differs", False),
        ("5.12", "yes", "as expected", False),  # no range, and the probe decides all the same
        ("6.1", "", "as expected", False),
    ],
)
def test_a_probe_decides_where_there_is_one(version: str, probed: str, word: str, note: bool) -> None:
    decided = contract(decided_by="inner_max_entries", when={"yes": "ok", "no": "EINVAL"})
    verdict = judge(decided, KernelVersion.parse(version), "ok", probed)
    assert (verdict.word, bool(verdict.note)) == (word, note)


def test_on_a_vendor_kernel_only_a_probe_decides() -> None:
    old = KernelVersion.parse("4.18")
    seen = [judge(contract(), old, answer, vendor="Enterprise Linux") for answer in ("EINVAL", "ok")]
    assert [one.word for one in seen] == ["observed", "observed"]
    assert [one.note for one in seen] == [
        "observed on a vendor kernel (Enterprise Linux)",
        "observed on a vendor kernel (Enterprise Linux); 4.18 would answer 'EINVAL'",
    ]
    decided = contract(decided_by="inner_max_entries", when={"yes": "ok", "no": "EINVAL"})
    words = [judge(decided, old, "ok", probed, "Enterprise Linux").word for probed in ("yes", "no", "")]
    assert words == ["as expected", "differs", "observed"]
    assert judge(decided, old, "ok", "yes", "Enterprise Linux").note == ""


def test_a_range_has_a_sentence_of_its_own() -> None:
    ranges = [{"until": "5.10", "answer": "EINVAL", "source": "f()", "sentence": "No {each} in {outer}."}]
    found = contract(expect=ranges, each=["x"])
    said = [judge(found, KernelVersion.parse(version), "ok").sentence for version in ("5.9", "5.10", "5.4.214")]
    assert said == ["No x in hash_of_maps.", "A thing.", "A thing."]


def test_a_case_has_requirements_of_its_own() -> None:
    entry = {**CHANGED, "each": ["xdp", "kprobe"], "requires": ["ids", "prog_{each}"]}
    found = read([("a.toml", {"contract": [{**entry, "requires_by_case": {"xdp": ["links"]}}]})])
    assert [one.requires for one in found.values()] == [("ids", "prog_xdp", "links"), ("ids", "prog_kprobe")]


def test_an_outer_map_has_requirements_of_its_own() -> None:
    entry = {**CHANGED, "outer": ["hom", "aom"], "requires": ["ids"], "requires_by_outer": {"aom": ["links"]}}
    assert [one.requires for one in read([("a.toml", {"contract": [entry]})]).values()] == [("ids",), ("ids", "links")]


def test_a_contract_is_for_some_versions() -> None:
    old, new, always = contract(until="5.9"), contract(since="5.10", until="6.1"), contract()
    assert [one.condition for one in (old, new, always)] == ["<5.9", ">=5.10,<6.1", ""]
    asked = [one.can_be_asked_of(KernelVersion.parse("5.9.3")) for one in (old, new, always)]
    assert asked == [False, False, True]


def test_an_entry_stands_for_each_outer_map_and_case() -> None:
    found = read(
        [
            (
                "a.toml",
                {"contract": [{**CHANGED, "outer": ["hom", "aom"], "each": ["x", "y"], "sentence": "{outer} {each}"}]},
            )
        ]
    )
    assert list(found) == [f"{outer}.update.thing.{case}" for outer in ("hom", "aom") for case in ("x", "y")]
    last = found["aom.update.thing.y"]
    assert (last.outer, last.name, last.case, last.sentence) == (
        "array_of_maps",
        "update.thing",
        "y",
        "array_of_maps y",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"sentence": ""},
        {"takes": "luck"},
        {"outer": ["xom"]},
        {"oter": ["hom"]},
        {"requires": ["flying"]},
        {"requires": ["prog_{each}"], "each": ["flying"]},
        {"requires_by_case": {"y": ["ids"]}, "each": ["x"]},
        {"requires_by_case": {"x": ["flying"]}, "each": ["x"]},
        {"requires_by_outer": {"aom": ["ids"]}, "outer": ["hom"]},
        {"requires_by_outer": {"mim": ["ids"]}},
        {"requires_by_outer": {"hom": ["flying"]}},
        {"decided_by": "inner_max_entries"},
        {"when": {"yes": 1}},
        {"expect": [{"answer": "ok"}]},
        {"expect": [{"answer": "ok", "source": "f()", "since": 5.1}]},
        {"expect": [{"answer": "ok", "source": "f()", "since": "5.10", "until": "5.10"}]},
        {"expect": [{"answer": "ok", "source": "f()"}, {"answer": "EINVAL", "since": "5.1", "source": "f()"}]},
        {"backports": [{"answer": "ok", "source": "f()"}]},
        {"backports": [{"answer": "ok", "source": "f()", "since": "5.4.1", "until": "5.6"}]},
    ],
    ids=str,
)
def test_a_malformed_table_is_one_error(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"a\.toml"):
        contract(**changes)


def test_an_id_is_used_once() -> None:
    with pytest.raises(UsageError, match=r"two contracts are called hom\.update\.thing"):
        read([("a.toml", {"contract": [CHANGED, CHANGED]})])


def test_the_project_s_tables_are_sound() -> None:
    assert len(contracts()) >= 4
