"""Changes from a kernel of one record to a kernel of another, or of the same record.

A contract is compared with itself, a test that has none with the test of the same id without the kernel. Times of
single tests are noisy and depend on the machine: a test counts as slower or faster only when it is so by a factor and
by an amount beyond what all tests together are, see SLOWER_FACTOR and SLOWER_SECONDS.

Pure.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import RecordError
from harness.report.matrix import Absent, Cell, cells_of, exact_text_of, text_of, words_of
from harness.results.cost import falls, rises
from harness.results.file import kernel_order
from harness.results.ids import contract_in
from harness.results.outcomes import Outcome
from harness.results.types import RecordedKernel, RunRecord

SLOWER_FACTOR = 3.0
"""A test is slower when it takes this many times as long, after correction for the speed of the machines."""

SLOWER_SECONDS = 0.3
"""Seconds by which it must also differ; less is noise on a shared machine."""

_ENOUGH = 5
"""Number of tests needed to compare the speed of two machines."""


class Change(enum.Enum):
    """The kind of a change, in the order of reports; the value is its name on the command line."""

    BROKEN = "broken"
    """It passed or was not a failure before, and fails now."""
    FAILURE = "failure"
    """It failed before, and fails now in another way."""
    OBSERVATION = "observation"
    """Not a failure, but the observation changed."""
    UNSUPPORTED = "unsupported"
    """It ran before, and is now skipped or not for this kernel."""
    COSTLIER = "costlier"
    """The verification of a program costs more."""
    SLOWER = "slower"
    """It takes clearly longer."""
    LOST = "lost"
    """It had a verdict and has none now: the machine failed, or the run ended too early."""
    GONE = "gone"
    """The test no longer exists."""
    FIXED = "fixed"
    """It failed before, and does not now."""
    SUPPORTED = "supported"
    """It was skipped or not for this kernel, and passes now."""
    CHEAPER = "cheaper"
    """The verification of a program costs less."""
    FASTER = "faster"
    """It takes clearly less time."""
    REGAINED = "regained"
    """It had no verdict, and passes now."""
    NEW = "new"
    """The test is new."""


@dataclass(frozen=True)
class Difference:
    """One change of one test.

    Attributes:
        change: The kind of change.
        test: pytest's id of the test without its kernel.
        contract: Id of its contract, "" for none.
        old: The old cell; None for none.
        new: The new cell; None for none.
        detail: What changed, in a few words.
    """

    change: Change
    test: str
    contract: str
    old: Cell | None
    new: Cell | None
    detail: str

    @property
    def title(self) -> str:
        """The title of the test."""
        return self.contract or words_of(self.test)


@dataclass(frozen=True)
class Pair:
    """The comparison of two kernels.

    Attributes:
        old: The kernel of the old record.
        new: The kernel of the new one.
        differences: The changes, in the order of :class:`Change`.
        same: The number of tests without a change.
        still_bad: The number of these that are failures.
        speed: Median factor of the tests' times; None when there are too few tests.
    """

    old: RecordedKernel
    new: RecordedKernel
    differences: tuple[Difference, ...]
    same: int
    still_bad: int
    speed: float | None

    @property
    def title(self) -> str:
        """The two kernels, in a few words."""
        if self.old.label != self.new.label:
            return f"{self.old.label} → {self.new.label}"
        if (self.old.version, self.old.digest) == (self.new.version, self.new.digest):
            return self.old.label
        if self.old.version != self.new.version:
            return f"{self.old.label} ({self.old.version} → {self.new.version})"
        return f"{self.old.label} (another build of {self.old.version})"


@dataclass(frozen=True)
class Comparison:
    """A comparison of two records.

    Attributes:
        pairs: The compared pairs of kernels, oldest first.
        only_old: Kernels that the new record lacks.
        only_new: Kernels that the old record lacks.
    """

    pairs: tuple[Pair, ...]
    only_old: tuple[RecordedKernel, ...] = ()
    only_new: tuple[RecordedKernel, ...] = ()

    def of(self, change: Change) -> list[tuple[Pair, Difference]]:
        """Return all changes of a kind."""
        return [(pair, one) for pair in self.pairs for one in pair.differences if one.change is change]

    def count(self, changes: Iterable[Change]) -> int:
        """Return the number of changes of these kinds."""
        wanted = set(changes)
        return sum(one.change in wanted for pair in self.pairs for one in pair.differences)


def compare(
    old: RunRecord, new: RunRecord, kernels: tuple[str, str] | None = None, *, threshold: float = 0.0
) -> Comparison:
    """Compare two records, kernel by kernel.

    Args:
        old: The old record.
        new: The new record; may be the same record.
        kernels: Labels or exact versions of one kernel in each record, to compare only these two; default: kernels
            are paired by their labels or, when none is in both records, one release on two architectures.
        threshold: Percent by which the verification of a program may cost more or less without being a change.

    Raises:
        RecordError: A record has no such kernel, or they have none in common.
    """
    if kernels is not None:
        pairs = [(find_kernel(old, kernels[0]), find_kernel(new, kernels[1]))]
        only_old: list[RecordedKernel] = []
        only_new: list[RecordedKernel] = []
    else:
        name_of = _names(old, new)
        theirs = {name_of(kernel): kernel for kernel in new.kernels}
        ours = {name_of(kernel) for kernel in old.kernels}
        pairs = [(kernel, theirs[name_of(kernel)]) for kernel in old.kernels if name_of(kernel) in theirs]
        only_old = [kernel for kernel in old.kernels if name_of(kernel) not in theirs]
        only_new = [kernel for kernel in new.kernels if name_of(kernel) not in ours]
        if not pairs:
            raise RecordError(
                f"the records have no kernel in common: {_labels(old)} and {_labels(new)}",
                expected="kernels of the same label in both",
                hint="name one of each with --kernels OLD NEW",
            )
    old_cells, new_cells = _by_kernel(old), _by_kernel(new)
    return Comparison(
        tuple(
            _pair(before, after, old_cells.get(before.label, {}), new_cells.get(after.label, {}), threshold)
            for before, after in sorted(pairs, key=lambda pair: kernel_order(pair[0]))
        ),
        tuple(only_old),
        tuple(only_new),
    )


def _names(old: RunRecord, new: RunRecord) -> Callable[[RecordedKernel], str]:
    """Return what gives the name by which kernels are paired."""

    def without_architecture(kernel: RecordedKernel) -> str:
        return kernel.label.replace(f"-{kernel.architecture}", "", 1)

    def label(kernel: RecordedKernel) -> str:
        return kernel.label

    in_common = {one.label for one in old.kernels} & {one.label for one in new.kernels}
    of_one_each = all(len({one.architecture for one in record.kernels}) == 1 for record in (old, new))
    return without_architecture if of_one_each and not in_common else label


def _labels(record: RunRecord) -> str:
    return ", ".join(kernel.label for kernel in sorted(record.kernels, key=kernel_order)) or "none"


def find_kernel(record: RunRecord, name: str) -> RecordedKernel:
    """Return a record's kernel by its label or exact version.

    Raises:
        RecordError: It has no kernel of that name, or several.
    """
    found = [one for one in record.kernels if one.label == name] or [
        one for one in record.kernels if name in (one.version, one.release)
    ]
    if len(found) != 1:
        raise RecordError(
            f"the record has {'no kernel' if not found else 'several kernels'} {name!r}",
            expected=f"one of: {_labels(record)}",
        )
    return found[0]


def _by_kernel(record: RunRecord) -> dict[str, dict[str, Cell]]:
    found: dict[str, dict[str, Cell]] = {}
    for (behaviour, kernel), cell in cells_of(record).items():
        found.setdefault(kernel, {})[behaviour] = cell
    return found


_MISSING = frozenset({Outcome.INFRASTRUCTURE, Absent.NOT_RUN})
_NOT_ASKED = frozenset({Outcome.UNSUPPORTED, Absent.LEFT_OUT})
_ORDER = list(Change)


def _pair(
    old: RecordedKernel,
    new: RecordedKernel,
    before: Mapping[str, Cell],
    after: Mapping[str, Cell],
    threshold: float,
) -> Pair:
    speed = _speed(before, after)
    differences = []
    same = still_bad = 0
    for behaviour in dict.fromkeys([*before, *after]):
        was, now = before.get(behaviour), after.get(behaviour)
        found = _differ(was, now, speed, threshold)
        if found is None:
            same += 1
            still_bad += now is not None and now.ending.is_bad
            continue
        change, detail = found
        known = [cell.result for cell in (now, was) if cell is not None and cell.result is not None]
        contract = next((one.contract or contract_in(one.test) for one in known), "")
        test = known[0].test if known else behaviour
        differences.append(Difference(change, test, contract, was, now, detail))
    differences.sort(key=lambda one: _ORDER.index(one.change))
    return Pair(old, new, tuple(differences), same, still_bad, speed)


def _speed(before: Mapping[str, Cell], after: Mapping[str, Cell]) -> float | None:
    """Return the median factor of the times of tests that passed on both; None when there are too few."""
    ratios = []
    for test, was in before.items():
        now = after.get(test)
        if now is not None and was.ending is now.ending is Outcome.PASSED and _call(was) and _call(now):
            ratios.append(max(_call(now), 0.001) / max(_call(was), 0.001))
    return round(statistics.median(ratios), 3) if len(ratios) >= _ENOUGH else None


def _call(cell: Cell) -> float:
    """Return the seconds that a test took; 0.0 where they are not known."""
    return cell.result.call if cell.result is not None else 0.0


def _differ(was: Cell | None, now: Cell | None, speed: float | None, threshold: float) -> tuple[Change, str] | None:
    """Return the kind of change and a description; None for no change."""
    if was is None or now is None:
        known = was or now
        assert known is not None, "one of the two has the test"
        # A test that is not for this kernel is not gone.
        if known.ending is Absent.LEFT_OUT:
            return None
        return (Change.NEW if was is None else Change.GONE), _phrase_of(known)
    phrase = f"{_phrase_of(was)} → {_phrase_of(now)}"
    if was.ending in _MISSING or now.ending in _MISSING:
        return _without_verdict(was, now, phrase)
    if now.ending.is_bad:
        if not was.ending.is_bad:
            return Change.BROKEN, phrase
        return (Change.FAILURE, phrase) if was.ending is not now.ending or _changed_answers(was, now) else None
    if now.ending in _NOT_ASKED:
        return (Change.UNSUPPORTED, phrase) if was.ending not in _NOT_ASKED else None
    if was.ending.is_bad:
        return Change.FIXED, phrase
    if was.ending in _NOT_ASKED:
        return Change.SUPPORTED, phrase
    changed = _changed_answers(was, now)
    if changed:
        return Change.OBSERVATION, "; ".join(changed)
    return _costlier(was, now, threshold) or _slower(was, now, speed)


def _without_verdict(was: Cell, now: Cell, phrase: str) -> tuple[Change, str] | None:
    if was.ending in _MISSING and now.ending in _MISSING:
        return None
    if now.ending in _MISSING:
        return (Change.LOST, phrase) if was.ending not in _NOT_ASKED else None
    # A failure is a failure, also when there was no verdict before.
    return (Change.BROKEN if now.ending.is_bad else Change.REGAINED), phrase


def _phrase_of(cell: Cell) -> str:
    word = cell.ending.shown
    if cell.seen and len(cell.observations) == 1:
        return f"{word} ({cell.seen})"
    if cell.ending is Absent.LEFT_OUT and cell.reason:
        return f"{word}: {cell.reason}"
    return f"{word}: {cell.reason}" if cell.reason and cell.ending is not Outcome.PASSED else word


def _changed_answers(was: Cell, now: Cell) -> list[str]:
    before, after = was.answers, now.answers
    single = len(before) <= 1 and len(after) <= 1
    phrase = []
    for name in dict.fromkeys([*before, *after]):
        # As JSON: to Python, true is 1.
        if name in before and name in after and exact_text_of(before[name]) == exact_text_of(after[name]):
            continue
        left, right = (text_of(one[name]) if name in one else "nothing" for one in (before, after))
        phrase.append(f"{left} → {right}" if single else f"{name}: {left} → {right}")
    return phrase


def _costlier(was: Cell, now: Cell, threshold: float) -> tuple[Change, str] | None:
    if was.result is None or now.result is None:
        return None
    if more := rises(was.result.cost, now.result.cost, threshold):
        return Change.COSTLIER, ", ".join(more)
    less = falls(was.result.cost, now.result.cost, threshold)
    return (Change.CHEAPER, ", ".join(less)) if less else None


def _slower(was: Cell, now: Cell, speed: float | None) -> tuple[Change, str] | None:
    if not _call(was) or not _call(now) or speed is None:
        return None
    expected, took = _call(was) * speed, _call(now)
    phrase = f"{_call(was):.2f} s → {took:.2f} s"
    if speed > 1.25 or speed < 0.8:
        phrase += f" (all tests take {speed:.2g} times as long)"
    if took > expected * SLOWER_FACTOR and took - expected > SLOWER_SECONDS:
        return Change.SLOWER, phrase
    if expected > took * SLOWER_FACTOR and expected - took > SLOWER_SECONDS:
        return Change.FASTER, phrase
    return None


def by_change(comparison: Comparison) -> list[tuple[Change, list[tuple[Difference, list[Pair]]]]]:
    """Return the changes by kind, each test once with the kernels on which it changed in the same way."""
    found = []
    for change in Change:
        alike: dict[tuple[str, str], tuple[Difference, list[Pair]]] = {}
        for pair, one in comparison.of(change):
            alike.setdefault((one.test, one.detail), (one, []))[1].append(pair)
        if alike:
            found.append((change, list(alike.values())))
    return found


def is_regression(comparison: Comparison, fail_on: Sequence[Change]) -> bool:
    """Return whether there is a change of one of these kinds."""
    return comparison.count(fail_on) > 0
