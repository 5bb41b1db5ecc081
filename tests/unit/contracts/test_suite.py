"""The contract suite as a whole: no promise without a test, none with two."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import contracts as suite
from harness.contracts.conftest import pytest_configure


def observed_names() -> Iterator[str]:
    """Yield the names in every marker `contract` of the suite's tests."""
    folder = Path(suite.__file__).parent
    for path in folder.rglob("test_*.py"):
        module = importlib.import_module(".".join((suite.__name__, *path.relative_to(folder).with_suffix("").parts)))
        for name, function in vars(module).items():
            if name.startswith("test_"):
                marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "contract"]
                yield from (argument for mark in marks for argument in mark.args)


def test_every_contract_is_observed_by_exactly_one_test(request: pytest.FixtureRequest) -> None:
    pytest_configure(request.config)  # declares the marker, which the modules use
    observed = Counter(observed_names())
    promised = {contract.name for contract in suite.contracts().values()}
    assert promised - set(observed) == set()
    assert set(observed) - promised == set()
    assert {name for name, count in observed.items() if count > 1} == set()


def test_every_sentence_says_which_case_it_speaks_of() -> None:
    sentences = Counter((one.outer, one.sentence) for one in suite.contracts().values())
    assert [sentence for (_, sentence), count in sentences.items() if count > 1] == []


def test_every_sentence_is_one() -> None:
    assert [contract.id for contract in suite.contracts().values() if not contract.sentence.endswith(".")] == []


WAITS = {
    "returns at once": ("returns at once",),
    "waits once": ("waits once for a grace period",),
    "waits once, expedited": ("waits once for an expedited grace period",),
    "waits 3 times": ("waits each time for a grace period", "waits for a grace period each time"),
    "waits 3 times, expedited": ("waits each time for an expedited grace period",),
}
"""What the sentence of a range says that has this answer."""


def test_a_sentence_on_waiting_says_what_its_range_does() -> None:
    of_time = [one for one in suite.contracts().values() if one.takes == "time"]
    ranges = [(one, each) for one in of_time for each in (*one.ranges, *one.backports)]
    assert ranges
    wrong = [
        f"{one.id}: {each.answer}, but: {each.sentence or one.sentence}"
        for one, each in ranges
        if not any(words in (each.sentence or one.sentence) for words in WAITS[each.answer])
    ]
    assert wrong == []
