"""The summary of contracts: what tests observed, in workers of xdist too, is counted and named at the end."""

from __future__ import annotations

import pytest

from tests.plugin.inner import KERNEL, Inner

TESTS = """
import pytest


def saw(request, contract, verdict, observed):
    request.node.user_properties.append(
        ("observation", {"contract": contract, "sentence": "x", "takes": "errno", "observed": observed,
                         "expected": "ok", "source": "", "verdict": verdict, "note": ""}))


def test_holds(kernel, request):
    saw(request, "hom.holds", "as expected", "ok")


def test_does_not(kernel, request):
    saw(request, "hom.does_not", "differs", "EINVAL")
    raise AssertionError


def test_unknown(kernel, request):
    saw(request, "hom.unknown", "observed", "ENOMEM")
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_each_contract_is_counted_once_and_surprises_are_named(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.write(test_seen=TESTS)
    out = inner.run(f"--kernel={KERNEL}", *workers).out
    summary = out[out.index(" contracts ") :]
    assert summary.splitlines()[2].split() == [KERNEL, "1", "1", "1", "0"]
    assert f"not as expected:\n  hom.does_not: EINVAL, expected ok ({KERNEL})" in summary
    assert f"nothing known of this kernel:\n  hom.unknown: ENOMEM ({KERNEL})" in summary
