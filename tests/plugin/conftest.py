"""Inner runs of pytest, which leave nothing behind whatever becomes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugin.inner import Inner


@pytest.fixture(scope="module")
def new_inner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Inner]]:
    made = []

    def make() -> Inner:
        # A short path: sockets are made below it.
        runtime = Path("/tmp") / f"khp-{os.getpid()}-{os.urandom(3).hex()}"
        runtime.mkdir(mode=0o700)
        made.append(Inner(tmp_path_factory.mktemp("inner"), runtime))
        return made[-1]

    yield make
    for inner in made:
        inner.close()


@pytest.fixture
def inner(new_inner: Callable[[], Inner]) -> Inner:
    return new_inner()
