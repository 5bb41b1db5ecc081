"""Inner runs of pytest, which leave nothing behind whatever becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.plugin.inner import Inner, inner_runs


@pytest.fixture(scope="module")
def new_inner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Inner]]:
    with inner_runs(tmp_path_factory) as make:
        yield make


@pytest.fixture
def inner(new_inner: Callable[[], Inner]) -> Inner:
    return new_inner()
