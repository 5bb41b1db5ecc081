"""Probes agree with the versions that are known to have introduced what they ask for."""

from __future__ import annotations

import pytest

from harness.judge.capabilities import CAPABILITIES, Answer
from harness.kernel.version import KernelVersion
from harness.remote.bpf import Bpf
from harness.testing import Kernel
from harness.vm.machine import Machine


def test_every_probe_answers_as_the_version_promises(vm: Machine, kernel: Kernel) -> None:
    found, expected = {}, {}
    for name, capability in CAPABILITIES.items():
        process = vm.new_process()
        finding = capability.probe(Bpf(process))
        process.close()
        has = kernel.version.series >= KernelVersion.parse(capability.since).series
        found[name] = (finding.answer, finding.evidence)
        expected[name] = (Answer.YES if has else Answer.NO, finding.evidence)
    assert found == expected


@pytest.mark.requires("batch_ops", "outer_batch_ops")
def test_a_test_runs_where_the_kernel_can(bpf: Bpf) -> None:
    outer = bpf.map("hash_of_maps", max_entries=4, inner=bpf.map("hash"))
    assert outer.lookup_batch(4).done
