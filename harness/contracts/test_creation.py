"""Creating outer maps: sizes, flags, templates, and who may."""

from __future__ import annotations

import pytest

from harness.contracts.conftest import Observe
from harness.judge.contracts import Contract
from harness.testing import Bpf, Map, errno_of


@pytest.fixture
def template(bpf: Bpf) -> Map:
    return bpf.map("hash", key_size=4, value_size=4, max_entries=8)


@pytest.mark.contract("create.value_size")
def test_value_size(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, value_size=int(contract.case), inner=template))


@pytest.mark.contract("create.key_size_513")
def test_key_size(bpf: Bpf, contract: Contract, template: Map, observe: Observe) -> None:
    observe(errno_of(bpf.map, contract.outer, key_size=513, inner=template))
