"""What the guest reads of its own kernel."""

from __future__ import annotations

import pytest

from harness.guest.api.hooks import series_of


@pytest.mark.parametrize(
    ("release", "series"),
    [
        ("6.1.0-57-cloud-amd64", (6, 1)),
        ("7.3-cloud-amd64", (7, 3)),
        ("5.17.0-rc5-minimal", (5, 17)),
        ("4.19.13Connoisseur-minimal", (4, 19)),
        ("6.12+deb13", (6, 12)),
        ("4.12", (4, 12)),
    ],
)
def test_a_release_begins_with_its_series(release: str, series: tuple[int, int]) -> None:
    assert series_of(release) == series
