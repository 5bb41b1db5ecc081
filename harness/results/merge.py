"""Merges records: the shards of a run, runs on several machines, a run and its repetition.

The rules: A label must mean one exact kernel, else it is an error; with `relabel`, kernels with the same label are
renamed to their exact versions. Of two results of one test on one kernel, a verdict wins over no verdict, and the
later of two equal verdicts wins. Two contradicting verdicts are an error, unless `prefer` says which wins. Every shard
of a run must exist, unless `partial` allows missing shards.

Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import msgspec

from harness.errors import RecordError
from harness.results.file import assemble, kernel_order
from harness.results.outcomes import Outcome, worst
from harness.results.types import Deselected, NotRun, RecordedKernel, RecordedResult, RecordedRun, RunRecord

_SHOWN = 5
"""Longest list of conflicts in an error."""


class Prefer(enum.Enum):
    """Which of two contradicting results counts."""

    NEITHER = "neither"
    """Neither: it is an error."""
    LATEST = "latest"
    WORST = "worst"


def merge(
    records: Sequence[tuple[str, RunRecord]],
    *,
    prefer: Prefer = Prefer.NEITHER,
    relabel: bool = False,
    partial: bool = False,
) -> RunRecord:
    """Return one record from several.

    Args:
        records: Names, for messages, and records.
        prefer: Which of two contradicting results counts.
        relabel: Whether different kernels may share a label; each then gets a new label.
        partial: Whether shards may be missing.

    Raises:
        RecordError: They cannot be merged.
    """
    runs = _runs(records)
    if not partial:
        missing = missing_shards(runs.values())
        if missing:
            raise RecordError(
                f"shards are missing: {', '.join(missing)}",
                expected="the records of all parts of a run",
                hint="add them, or merge the existing ones with --partial",
            )
    renamed = _relabelled(records) if relabel else list(records)
    kernels = _kernels(renamed)
    results = _results(renamed, runs, prefer)
    cells = results.keys()
    left_out: dict[tuple[str, str], Deselected] = {}
    not_run: dict[tuple[str, str], NotRun] = {}
    for _, record in renamed:
        left_out |= {(one.test, one.kernel): one for one in record.left_out if (one.test, one.kernel) not in cells}
        not_run |= {(one.test, one.kernel): one for one in record.not_run if (one.test, one.kernel) not in cells}
    tests: dict[str, None] = {}
    for _, record in renamed:
        tests |= dict.fromkeys(one.test for one in record.results)
    columns = [kernel.label for kernel in sorted(kernels.values(), key=kernel_order)]
    order = [(test, label) for test in tests for label in columns]
    return assemble(runs.values(), kernels.values(), results.values(), left_out.values(), not_run.values(), order=order)


def missing_shards(runs: Iterable[RecordedRun]) -> list[str]:
    """Return the missing parts of a run in parts, such as "3/5"."""
    there: dict[int, set[int]] = {}
    for run in runs:
        number, slash, of = run.shard.partition("/")
        if slash and number.isdigit() and of.isdigit():
            there.setdefault(int(of), set()).add(int(number))
    return [
        f"{number}/{of}" for of, found in sorted(there.items()) for number in range(1, of + 1) if number not in found
    ]


def _runs(records: Sequence[tuple[str, RunRecord]]) -> dict[str, RecordedRun]:
    found: dict[str, RecordedRun] = {}
    for _, record in records:
        for run in record.runs:
            known = found.get(run.id)
            # A journal saved during the run, and the record of its end.
            if known is None or (run.complete, run.seconds) > (known.complete, known.seconds):
                found[run.id] = run
    return found


def _same(one: RecordedKernel, other: RecordedKernel) -> bool:
    """Return whether two are the same exact kernel, as far as known: one may have been unavailable."""
    return one.version == other.version and all(
        not (left and right) or left == right
        for left, right in (
            (one.digest, other.digest),
            (one.config_digest, other.config_digest),
            (one.architecture, other.architecture),
        )
    )


def _description(kernel: RecordedKernel) -> str:
    return f"{kernel.version} ({kernel.origin or kernel.key}, {kernel.digest[:12] or 'unavailable'})"


def _kernels(records: Sequence[tuple[str, RunRecord]]) -> dict[str, RecordedKernel]:
    found: dict[str, tuple[str, RecordedKernel]] = {}
    for name, record in records:
        for kernel in record.kernels:
            where, known = found.get(kernel.label, (name, kernel))
            if not _same(known, kernel):
                raise RecordError(
                    f"two different kernels are called {kernel.label!r}: {_description(known)} in {where}, "
                    f"{_description(kernel)} in {name}",
                    expected="one exact kernel for each label",
                    hint="run with one lock file (harness kernels lock), or merge with --relabel to keep them apart",
                )
            fuller = max(known, kernel, key=lambda one: (bool(one.digest), bool(one.release)))
            found[kernel.label] = (where, fuller)
    return {label: kernel for label, (_, kernel) in found.items()}


def _relabelled(records: Sequence[tuple[str, RunRecord]]) -> list[tuple[str, RunRecord]]:
    by_label: dict[str, list[RecordedKernel]] = {}
    for _, record in records:
        for kernel in record.kernels:
            known = by_label.setdefault(kernel.label, [])
            if not any(_same(one, kernel) for one in known):
                known.append(kernel)
    made = []
    for name, record in records:
        labels = {}
        for kernel in record.kernels:
            rivals = by_label[kernel.label]
            if len(rivals) > 1:
                alike = sum(one.version == kernel.version for one in rivals)
                labels[kernel.label] = kernel.version + (f"-{kernel.digest[:8]}" if alike > 1 else "")
        made.append((name, _renamed(record, labels)))
    return made


def _renamed(record: RunRecord, labels: dict[str, str]) -> RunRecord:
    if not labels:
        return record
    replace = msgspec.structs.replace
    return replace(
        record,
        kernels=tuple(replace(one, label=labels.get(one.label, one.label)) for one in record.kernels),
        results=tuple(replace(one, kernel=labels.get(one.kernel, one.kernel)) for one in record.results),
        left_out=tuple(replace(one, kernel=labels.get(one.kernel, one.kernel)) for one in record.left_out),
        not_run=tuple(replace(one, kernel=labels.get(one.kernel, one.kernel)) for one in record.not_run),
    )


def _results(
    records: Sequence[tuple[str, RunRecord]], runs: dict[str, RecordedRun], prefer: Prefer
) -> dict[tuple[str, str], RecordedResult]:
    found: dict[tuple[str, str], tuple[str, RecordedResult]] = {}
    conflicts = []
    for name, record in records:
        for result in record.results:
            cell = (result.test, result.kernel)
            if cell not in found:
                found[cell] = (name, result)
                continue
            where, known = found[cell]
            kept = _choose(known, result, runs, prefer)
            if kept is None:
                conflicts.append(
                    f"{result.test} on {result.kernel}: {_summary(known)} in {where}, {_summary(result)} in {name}"
                )
            elif kept is result:
                found[cell] = (name, result)
    if conflicts:
        more = f"\nand {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
        raise RecordError(
            f"the records contradict each other on {len(conflicts)} results",
            expected="each test on each kernel once, or with the same outcome",
            hint="find out why they differ; then choose with --prefer latest or --prefer worst",
            detail="\n".join(conflicts[:_SHOWN]) + more,
        )
    return {cell: result for cell, (_, result) in found.items()}


def _choose(
    known: RecordedResult, other: RecordedResult, runs: dict[str, RecordedRun], prefer: Prefer
) -> RecordedResult | None:
    """Return which of two results of one test on one kernel counts; None when undecided."""
    known_is_none, other_is_none = (one.outcome is Outcome.INFRASTRUCTURE for one in (known, other))
    if known_is_none != other_is_none:
        return other if known_is_none else known
    latest = max(known, other, key=lambda one: runs[one.run].started)
    if prefer is Prefer.LATEST or _essence(known) == _essence(other):
        return latest
    if prefer is Prefer.WORST:
        return known if known.outcome is worst([known.outcome, other.outcome]) else other
    return None


def _essence(result: RecordedResult) -> tuple[object, ...]:
    return (result.outcome, [(one.contract, one.sentence, one.observed) for one in result.observations])


def _summary(result: RecordedResult) -> str:
    seen = ", ".join(str(one.observed) for one in result.observations)
    return f"{result.outcome.value}" + (f" ({seen})" if seen else "")
