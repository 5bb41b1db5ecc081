"""The summary of contracts: counts by kernel, and a name for everything that is not as expected."""

from __future__ import annotations

from typing import Any

from harness.pytest_plugin.summaries.contracts import summary
from harness.results.types import Observation, VerdictWord


def seen(
    contract: str, verdict: VerdictWord = "as expected", observed: Any = "ok", expected: Any = "ok", note: str = ""
) -> Observation:
    return Observation("A thing.", observed, contract, "errno", expected, "f()", verdict, note)


def test_counts_are_listed_by_kernel() -> None:
    lines = summary(
        {"6.1": [seen("hom.a"), seen("hom.b"), seen("hom.c", "differs", "EINVAL")], "6.12": [seen("hom.a")]}
    )
    assert lines[0].split() == ["kernel", "as", "expected", "differs", "observed", "not", "asked"]
    assert lines[1].split() == ["6.1", "2", "1", "0", "0"]
    assert lines[2].split() == ["6.12", "1", "0", "0", "0"]


def test_what_is_not_as_expected_is_named_with_its_kernels() -> None:
    text = "\n".join(
        summary(
            {
                "5.10": [seen("hom.a", "differs", [1], []), seen("hom.b", "observed", "ENOMEM", None)],
                "6.1": [seen("hom.a", "differs", [1], []), seen("hom.b", "observed", "E2BIG", None)],
            }
        )
    )
    assert "not as expected:\n  hom.a: [1], expected [] (5.10, 6.1)" in text
    assert "nothing known of this kernel:\n  hom.b: E2BIG (6.1)\n  hom.b: ENOMEM (5.10)" in text
    assert "disagree" not in text


def test_a_vendor_kernel_is_named_where_its_version_would_answer_otherwise() -> None:
    note = "observed on a vendor kernel (Enterprise Linux)"
    other = seen("hom.b", "observed", "ok", "EINVAL", f"{note}; 4.18 would answer 'EINVAL'")
    lines = summary({"el8": [seen("hom.a", "observed", "ok", "ok", note), other]})
    assert lines[1].split() == ["el8", "0", "0", "2", "0"]
    assert lines[2:] == [
        "",
        "on a vendor kernel, other than its version promises:",
        f"  hom.b: ok; {note}; 4.18 would answer 'EINVAL' (el8)",
    ]


def test_what_was_not_asked_says_why() -> None:
    why = "6.1 has no CONFIG_NET"
    left_out = [seen(name, "not asked", None, None, why) for name in ("hom.a", "aom.a")]
    lines = summary({"6.1": [*left_out, seen("hom.b")], "6.12": [seen("hom.a")]})
    assert lines[1].split() == ["6.1", "1", "0", "0", "2"]
    assert lines[-2:] == ["not asked:", f"  2: {why} (6.1)"]


def test_what_is_for_other_versions_is_one_number() -> None:
    older, newer = (seen("hom.a", "not asked", None, None, f"it is for kernels {bound}") for bound in ("<5.9", ">=6.9"))
    lines = summary({"6.1": [older, newer, newer], "7.3": [older]})
    assert lines[-2:] == ["  3: they are for other versions (6.1)", "  1: they are for other versions (7.3)"]


def test_a_version_and_a_probe_that_disagree_are_named() -> None:
    lines = summary({"7.1": [seen("hom.a", note="the table says 'ok' for 7.1, the probe x says no")]})
    assert lines[-2:] == [
        "version and probe disagree:",
        "  hom.a: the table says 'ok' for 7.1, the probe x says no (7.1)",
    ]


def test_other_observations_make_no_summary() -> None:
    assert summary({"6.1": [seen("")]}) == []
    assert summary({}) == []
