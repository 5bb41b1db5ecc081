"""Every fault of the table on a real machine: outcome, message, blame, recovery, and nothing left behind.

The tests of provocations.py run in an inner pytest, one after the other: each looks first that its machine works, so it
also shows that the fault before it did no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.kernel.types import Choice
from harness.results.file import read
from harness.results.outcomes import Outcome
from harness.results.types import RecordedResult
from tests.faults.table import FAULTS, Fault, matches
from tests.plugin.inner import inner_runs

PROVOCATIONS = Path(__file__).with_name("provocations.py")
HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}
MOST_MEMORY = 260 * 1024
"""KiB that the inner pytest may take in all: itself some 60 MiB, and 200 for the worst answer of a guest."""

QUICK = [fault for fault in FAULTS if not fault.is_long]
LONG = [fault for fault in FAULTS if fault.is_long]


@dataclass(frozen=True)
class Provoked:
    """The inner run."""

    out: str
    results: dict[str, RecordedResult]
    most_memory: int
    """KiB."""
    architecture: str


def run(folders: pytest.TempPathFactory, choice: Choice, which: str) -> Iterator[Provoked]:
    with inner_runs(folders) as new_inner:
        inner = new_inner()
        inner.write(test_provocations=PROVOCATIONS.read_text())
        (inner.folder / "pytest.ini").write_text("[pytest]\nmarkers = long: takes long\n")
        # It ends with the check that no QEMU and no folder is left.
        result = inner.run(f"--kernel={choice.label}", "-m", which, "-rA", "--record=r.json", env=HERE, within=570)
        results = {one.test.partition("::test_")[2]: one for one in read(inner.folder / "r.json").results}
        memory = inner.folder / "most-memory"
        yield Provoked(result.out, results, int(memory.read_text()) if memory.exists() else 0, choice.architecture)


@pytest.fixture(scope="module")
def quick(kernel_choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provoked]:
    yield from run(tmp_path_factory, kernel_choice, "not long")


@pytest.fixture(scope="module")
def long(kernel_choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provoked]:
    yield from run(tmp_path_factory, kernel_choice, "long")


def check(fault: Fault, provoked: Provoked) -> None:
    found = provoked.results[fault.name]
    if fault.only_on not in ("", provoked.architecture):
        pytest.skip(f"machines of {fault.only_on} alone have it")
    if found.outcome is Outcome.UNSUPPORTED:
        pytest.skip(found.reason)  # what the kernel was built without
    if any(found.outcome is outcome and re.search(message, found.reason) for outcome, message in fault.instead):
        return
    assert found.outcome is fault.outcome, f"{found.outcome}: {found.reason}\n{found.failure}"
    assert found.trouble == ((fault.trouble.value,) if fault.trouble is not None else ())
    assert matches(fault, found.reason), found.reason
    assert found.attempts == fault.attempts
    assert fault.printed in found.output


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_a_fault_has_its_outcome_its_message_and_its_culprit(quick: Provoked, fault: Fault) -> None:
    check(fault, quick)


@pytest.mark.long
@pytest.mark.parametrize("fault", LONG, ids=lambda fault: fault.name)
def test_a_fault_that_takes_long_has_them_too(long: Provoked, fault: Fault) -> None:
    check(fault, long)


def test_the_table_has_every_provocation_and_nothing_else(quick: Provoked) -> None:
    names = re.findall(r"^def test_(\w+)", PROVOCATIONS.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(fault.name for fault in FAULTS)
    assert sorted(quick.results) == sorted(fault.name for fault in QUICK)


def test_no_answer_of_a_guest_costs_the_host_much_memory(quick: Provoked) -> None:
    assert 0 < quick.most_memory < MOST_MEMORY


def test_the_stacks_of_what_hangs_are_shown(quick: Provoked) -> None:
    hang = quick.results["hang"].failure
    assert re.search(r'File "\S+test_provocations\.py", line \d+ in sleep', hang)
    assert len(re.findall(r"\| thread \d+: S \(sleeping\)", hang)) == 2


def test_a_failure_names_the_kernel_the_image_and_qemus_command(quick: Provoked) -> None:
    for name in ("panic", "noise", "process_dies", "power_off"):
        output = quick.results[name].output
        assert f"pytest 'test_provocations.py::test_{name}[" in output
        assert re.search(r"^kernel \S+: \S+ \(.*\), sha256 [0-9a-f]{64}$", output, re.MULTILINE)
        assert re.search(r"^guest image: sha256 [0-9a-f]{64}$", output, re.MULTILINE)
        assert "\nQEMU: " in output
