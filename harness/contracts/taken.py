"""A pytest plugin that takes things away from every guest before a contract is asked (`scripts/config-trials`).

`pytest -p harness.contracts.taken` reads the words for the kernel's command line from $HARNESS_TAKEN, and if it is set
from $HARNESS_TAKEN_SHARE how many of the contracts that require no part are asked: one of so many.
"""

from __future__ import annotations

import os
import zlib

import pytest

from harness.contracts.contract import Contract
from harness.features.capabilities import CAPABILITIES

VARIABLE, SHARE = "HARNESS_TAKEN", "HARNESS_TAKEN_SHARE"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Boot the machines of a test with these words."""
    item.add_marker(pytest.mark.vm(parameters=os.environ[VARIABLE].split()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the contracts that require a part of the kernel, and some of the others."""
    share = int(os.environ.get(SHARE, "1"))
    kept = [item for item in items if _looks_through_a_part(item) or zlib.crc32(item.nodeid.encode()) % share == 0]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _looks_through_a_part(item: pytest.Item) -> bool:
    contract: Contract | None = getattr(item, "callspec", None) and item.callspec.params.get("contract")  # type: ignore[attr-defined]
    return contract is not None and any(CAPABILITIES[name].is_part for name in contract.requires)
