"""Random sequences of operations on an outer map: every answer, every id and every element as a model foretells.

The same sequences are drawn each time, or others with `--hypothesis-seed=N`.
"""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="random sequences need hypothesis: pip install 'kernel-harness[contracts]'")

from harness.contracts import contracts
from harness.contracts.sequences import Foretold, check
from harness.judge.model import SETTINGS, Setting, difference, facts, script, seen
from harness.testing import Kernel
from harness.vm.machine import Machine

EXAMPLES = 15


class Guest:
    """Carries sequences out on one machine, each in a guest process of its own."""

    def __init__(self, vm: Machine) -> None:
        self._vm = vm
        process = vm.new_process()
        process.call("sequences.quicken")
        process.close()

    def carry_out(self, setting: Setting, foretold: Foretold) -> list[dict[str, object]]:
        process = self._vm.new_process()
        steps = [(step.name, step.arguments, list(step.gone)) for step, _ in foretold]
        records = process.call("sequences.run", setting.outer, setting.flags, setting.max_entries, steps)
        process.close()
        return [seen(record) for record in records]


@pytest.mark.parametrize("setting", SETTINGS)
def test_sequences(vm: Machine, kernel: Kernel, request: pytest.FixtureRequest, setting: str) -> None:
    guest = Guest(vm)
    known = facts(contracts(), kernel.version, SETTINGS[setting])

    def judge(outer: Setting, foretold: Foretold) -> None:
        for number, record in enumerate(guest.carry_out(outer, foretold)):
            differs = difference(foretold[number][1], record)
            if differs:
                done = [(step, expected["answer"]) for step, expected in foretold[: number + 1]]
                raise AssertionError(f"{kernel.version}: {differs}\n\n{script(outer, done, differs)}")

    check(setting, known, judge, examples=EXAMPLES, seeded=request.config.getoption("hypothesis_seed", None))
