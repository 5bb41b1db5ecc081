"""Random sequences of operations on an outer map: every answer, every id and every element as a model foretells.

The same sequences are drawn each time, or others with `--hypothesis-seed=N`. When two kernels are named, sequences are
carried out on both side by side too, and a difference that no table foretells is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("hypothesis", reason="random sequences need hypothesis: pip install 'kernel-harness[contracts]'")

from harness import kernel as kernels
from harness.contracts import contracts
from harness.contracts.sequences.comparison import difference, seen, unexplained
from harness.contracts.sequences.facts import SETTINGS, Facts, OuterSetting, common, facts
from harness.contracts.sequences.model import Model
from harness.contracts.sequences.script import script
from harness.contracts.sequences.strategy import Foretold, check
from harness.guest import calls
from harness.kernel.types import Choice
from harness.machines.pool import Pool, Settings
from harness.pytest_plugin.options import option
from harness.testing import Kernel
from harness.vm.machine import Machine

EXAMPLES = 25

WHERE_READ = [
    pytest.param(name, marks=[] if one.is_hash else pytest.mark.requires("wide_words"))
    for name, one in SETTINGS.items()
]
"""Names of settings. The model has the elements of an array of maps where they were put."""


class SequenceGuest:
    """Carries sequences out on one machine, in one guest process."""

    def __init__(self, vm: Machine) -> None:
        self._process = vm.new_process()
        self._process.ask(calls.Hooks.expedite)

    def carry_out(self, setting: OuterSetting, foretold: Foretold) -> list[dict[str, object]]:
        steps = [(step.name, step.arguments, list(step.gone)) for step, _ in foretold]
        records = self._process.ask(calls.Sequences.run, setting.outer, setting.flags, setting.max_entries, steps)
        return [seen(record) for record in records]


def complaint(who: str, what: str, setting: OuterSetting, foretold: Foretold) -> AssertionError:
    done = [(step, expected["answer"]) for step, expected in foretold]
    return AssertionError(f"{who}: {what}\n\n{script(setting, done, what)}")


def seed_of(config: pytest.Config) -> int | str | None:
    given: int | str | None = config.getoption("hypothesis_seed", None)
    return given


@pytest.fixture
def known(kernel: Kernel, setting: str, request: pytest.FixtureRequest) -> Facts:
    """What the kernel does. Before its machine is taken: one that leaks by its contract is not complained of."""
    found = facts(contracts(), kernel.version, SETTINGS[setting])
    if found.leaks:
        request.applymarker(pytest.mark.leaks("replaced inner maps, by the contract lifetime.replaced_twenty_times"))
    return found


@pytest.mark.parametrize("setting", WHERE_READ)
def test_sequences(known: Facts, vm: Machine, kernel: Kernel, request: pytest.FixtureRequest, setting: str) -> None:
    guest = SequenceGuest(vm)

    def judge(outer: OuterSetting, foretold: Foretold) -> None:
        for number, record in enumerate(guest.carry_out(outer, foretold)):
            differs = difference(foretold[number][1], record)
            if differs:
                raise complaint(str(kernel.version), differs, outer, foretold[: number + 1])

    check(setting, known, judge, examples=EXAMPLES, seeded=seed_of(request.config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the two kernels that the user named a parameter."""
    if "pair" not in metafunc.fixturenames:
        return
    named = option(metafunc.config, "kernel")
    choices = kernels.resolve(named) if named else []
    if len(choices) == 2:
        metafunc.parametrize("pair", [tuple(choices)], ids=["~".join(choice.label for choice in choices)])
    else:
        why = pytest.mark.skip(reason="two kernels are carried on side by side: name both with --kernel")
        metafunc.parametrize("pair", [pytest.param(None, id="none", marks=why)])


@pytest.fixture
def machines(pair: tuple[Choice, Choice], request: pytest.FixtureRequest) -> Iterator[list[tuple[Kernel, Machine]]]:
    """Both kernels, each with a machine."""
    config = request.config
    settings = Settings(accel=option(config, "accel"), boot_timeout=option(config, "boot_timeout"))
    pool = Pool(settings, print)
    try:
        yield [(spec.kernel, pool.take(spec)) for spec in map(pool.prepare, pair)]
    finally:
        pool.close()


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_kernels_side_by_side(
    machines: list[tuple[Kernel, Machine]], request: pytest.FixtureRequest, setting: str
) -> None:
    guests = [SequenceGuest(machine) for _, machine in machines]
    known = [facts(contracts(), kernel.version, SETTINGS[setting]) for kernel, _ in machines]
    who = " and ".join(str(kernel.version) for kernel, _ in machines)

    def judge(outer: OuterSetting, planned: Foretold) -> None:
        models = [Model(outer, one) for one in known]
        foretold = [[model.take(step.name, *step.arguments) for step, _ in planned] for model in models]
        first, second = (guest.carry_out(outer, one) for guest, one in zip(guests, foretold, strict=True))
        for number, observed in enumerate(zip(first, second, strict=True)):
            expected = (foretold[0][number][1], foretold[1][number][1])
            differs = unexplained(expected, observed)
            if differs:
                raise complaint(who, differs, outer, planned[: number + 1])

    check(setting, common(*known), judge, examples=EXAMPLES, seeded=seed_of(request.config))
