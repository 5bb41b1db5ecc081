"""Whom a difference between loaders speaks of."""

from __future__ import annotations

import pytest

from harness.pytest_plugin.summaries.loaders import loader_differences


@pytest.mark.parametrize(
    ("outcomes", "blamed"),
    [
        ({"raw": "passed", "libbpf": "passed"}, None),
        ({"raw": "failed", "libbpf": "failed"}, None),
        ({"raw": "passed", "libbpf": "skipped"}, None),
        ({"raw": "passed", "libbpf": "failed"}, "look at libbpf"),
        ({"raw": "failed", "libbpf": "passed"}, "libbpf hides the kernel's answer"),
        ({"bcc": "failed", "libbpf": "passed"}, "the loaders disagree"),
    ],
)
def test_a_difference_names_the_loader_or_the_kernel(outcomes: dict[str, str], blamed: str | None) -> None:
    lines = loader_differences({"test_x[6.1]": outcomes})
    assert lines == [] if blamed is None else blamed in lines[0]
