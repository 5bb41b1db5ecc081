"""Probes agree with the versions that are known to have introduced what they ask for."""

from __future__ import annotations

import pytest

from harness.features.capabilities import CAPABILITIES, judge
from harness.features.capability import Availability, Decision
from harness.kernel.build.kconfig import parse_config
from harness.remote.bpf import Bpf
from harness.testing import Kernel
from harness.vm.machine import Machine


def test_every_probe_answers_as_the_version_promises(vm: Machine, kernel: Kernel) -> None:
    config = parse_config(kernel.config.read_text()) if kernel.config is not None else None
    surprises = []
    for name, capability in CAPABILITIES.items():
        process = vm.new_process()
        finding = capability.probe(Bpf(process))
        process.close()
        judgement = judge(name, finding, kernel.version, config)
        early = not capability.expected(kernel.version)
        if judgement.decision not in (Decision.RUN, Decision.SKIP) or (early and finding.answer is Availability.YES):
            surprises.append(judgement.reason)
    assert surprises == []


@pytest.mark.requires("batch_ops", "outer_batch_ops")
def test_a_test_runs_where_the_kernel_can(bpf: Bpf) -> None:
    outer = bpf.map("hash_of_maps", max_entries=4, inner=bpf.map("hash"))
    assert outer.lookup_batch(4).done
