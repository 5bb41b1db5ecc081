"""The golden set: what every kernel that was ever run answered to the contracts, one small file for each kernel.

A change of a table is checked against all of them at once, and a range of versions that none of them is in, or that
none of them agrees with, rests on its source alone.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.contracts.contract import Contract, ContractVerdict, Range, judge
from harness.errors import RecordError
from harness.kernel.vendor import vendor_of
from harness.kernel.version import KernelVersion
from harness.results.types import RecordedKernel, RunRecord

SUFFIX = ".json.gz"

_PROBED = re.compile(r"the probe (\w+): (yes|no)\b")
"""In the source of an expectation that a probe decided."""


class Golden(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one kernel answered.

    Attributes:
        version: Its upstream version.
        release: Its `uname -r`.
        flavour: "cloud", "minimal", ...
        config_digest: sha256 of its configuration; "" when it is unknown.
        answers: Observations by contract.
        probed: Answers of the probes that decide contracts, "yes" or "no".
        not_asked: Number of contracts by the reason that they were not asked for.
        architecture: "amd64", "arm64", ...
    """

    version: str
    release: str
    flavour: str = ""
    config_digest: str = ""
    answers: dict[str, Any] = {}
    probed: dict[str, str] = {}
    not_asked: dict[str, int] = {}
    architecture: str = "amd64"

    @property
    def name(self) -> str:
        """The name of its file, without the suffix.

        Release, architecture (of others than x86-64), flavour, and the start of the configuration's digest.
        """
        other = "" if self.architecture == "amd64" else self.architecture
        parts = (self.release or self.version, other, self.flavour, self.config_digest[:8])
        return re.sub(r"[^\w.+~=-]", "_", "=".join(part for part in parts if part))


def of_record(record: RunRecord) -> list[Golden]:
    """Return what the kernels of a run record answered, oldest first; those that answered nothing are left out."""
    return [one for kernel in record.kernels if (one := _of_kernel(record, kernel)).answers]


def _of_kernel(record: RunRecord, kernel: RecordedKernel) -> Golden:
    answers: dict[str, Any] = {}
    probed: dict[str, str] = {}
    not_asked: dict[str, int] = {}
    for result in record.results:
        for seen in result.observations:
            if result.kernel != kernel.label or not seen.contract:
                continue
            if not seen.was_asked:
                not_asked[seen.note] = not_asked.get(seen.note, 0) + 1
                continue
            answers[seen.contract] = seen.observed
            if found := _PROBED.match(seen.source):
                probed[found[1]] = found[2]
    return Golden(
        kernel.version,
        kernel.release,
        kernel.flavour,
        kernel.config_digest,
        dict(sorted(answers.items())),
        dict(sorted(probed.items())),
        dict(sorted(not_asked.items())),
        kernel.architecture or "amd64",
    )


def read(folder: Path) -> list[Golden]:
    """Return the golden set in a folder, oldest kernel first.

    Raises:
        RecordError: A file is not of this kind, or there is none.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found.append(msgspec.json.decode(gzip.decompress(path.read_bytes()), type=Golden))
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            raise RecordError(
                f"{path} is not a file of the golden set: {error}",
                expected="what `harness contracts --add` wrote",
                hint=f"remove it, and run harness contracts --add RECORD --to {folder}",
            ) from error
    if not found:
        raise RecordError(
            f"there is no golden set in {folder}",
            expected=f"files *{SUFFIX}, as in tests/unit/data/golden of a checkout",
            hint="name the folder with --golden",
        )
    return sorted(found, key=lambda one: (KernelVersion.parse(one.version), one.name))


def add(folder: Path, new: Golden) -> Path:
    """Write what a kernel answered; answers that it gave before and not now are kept. Return the file.

    A run that asked less than an earlier one says nothing of what is not asked: that is kept too.
    """
    path = folder / f"{new.name}{SUFFIX}"
    if path.exists():
        old = msgspec.json.decode(gzip.decompress(path.read_bytes()), type=Golden)
        answers, probed = {**old.answers, **new.answers}, {**old.probed, **new.probed}
        not_asked = old.not_asked if len(new.answers) < len(old.answers) else new.not_asked
        new = msgspec.structs.replace(
            new, answers=dict(sorted(answers.items())), probed=dict(sorted(probed.items())), not_asked=not_asked
        )
    folder.mkdir(parents=True, exist_ok=True)
    # No time in the header: the same answers are the same file.
    path.write_bytes(gzip.compress(msgspec.json.encode(new), mtime=0))
    return path


@dataclass(frozen=True)
class Judged:
    """An answer of the golden set, compared with a table.

    Attributes:
        kernel: The kernel.
        contract: The contract's id.
        observed: The kernel's answer.
        verdict: What it means.
    """

    kernel: Golden
    contract: str
    observed: Any
    verdict: ContractVerdict


def judged(golden: Iterable[Golden], contracts: Mapping[str, Contract]) -> Iterator[Judged]:
    """Judge all answers to contracts that still exist."""
    for kernel in golden:
        version, vendor = KernelVersion.parse(kernel.version), vendor_of(kernel.release)
        for name, observed in kernel.answers.items():
            contract = contracts.get(name)
            if contract is None or not contract.can_be_asked_of(version):
                continue
            probed = kernel.probed.get(contract.decided_by, "")
            yield Judged(kernel, name, observed, judge(contract, version, observed, probed, vendor))


@dataclass(frozen=True)
class Nearest:
    """The kernel of a set that answers most like another.

    Attributes:
        kernel: That kernel.
        alike: Number of contracts that both answer alike.
        otherwise: Contracts that they answer otherwise: the other kernel's answer and this one's.
    """

    kernel: Golden
    alike: int
    otherwise: Mapping[str, tuple[Any, Any]]


def nearest(one: Golden, golden: Iterable[Golden]) -> Nearest | None:
    """Return the kernel of the golden set that answers most like `one`, vendors' kernels aside; None for none.

    A version says little of a vendor's kernel; its answers say which release it is like.
    """
    found = []
    for other in golden:
        if other.name == one.name or vendor_of(other.release):
            continue
        both = [name for name in one.answers if name in other.answers]
        otherwise = {
            name: (one.answers[name], other.answers[name]) for name in both if one.answers[name] != other.answers[name]
        }
        found.append(Nearest(other, len(both) - len(otherwise), otherwise))
    # What one of them was not asked counts for neither. The share of contradictions, with one more than there is: so a
    # kernel that was asked little does not win.
    return min(found, key=lambda each: (len(each.otherwise) + 1) / (each.alike + len(each.otherwise) + 1), default=None)


def nearest_of(record: RunRecord, kernel: RecordedKernel, others: RunRecord) -> RecordedKernel | None:
    """Return the kernel of other records that answers most like one of a record, as :func:`nearest` does."""
    answers = [(each, _of_kernel(others, each)) for each in others.kernels]
    found = nearest(_of_kernel(record, kernel), [one for _, one in answers if one.answers])
    return next((each for each, one in answers if found is not None and one is found.kernel), None)


def unconfirmed(golden: Iterable[Golden], contracts: Mapping[str, Contract]) -> list[tuple[Contract, Range]]:
    """Return the ranges of versions that no kernel has confirmed, with their contracts.

    A range of which no version can be asked is not among them.
    """
    confirmed: set[tuple[str, Range]] = set()
    for kernel in golden:
        version = KernelVersion.parse(kernel.version)
        if vendor_of(kernel.release):
            continue
        for name, observed in kernel.answers.items():
            contract = contracts.get(name)
            found = contract.range_of(version) if contract is not None else None
            if found is not None and found.answer == observed:
                confirmed.add((name, _key(found)))
    return [
        (contract, each)
        for contract in contracts.values()
        for each in (*contract.ranges, *contract.backports)
        if (contract.id, _key(each)) not in confirmed and _can_be_asked(contract, each)
    ]


def _key(one: Range) -> Range:
    """Return a range that can be put into a set: answers may be lists."""
    return Range(None, one.since, one.until, one.source)


def _can_be_asked(contract: Contract, each: Range) -> bool:
    starts = contract.until is None or each.since is None or each.since < contract.until
    ends = contract.since is None or each.until is None or contract.since < each.until
    return starts and ends
