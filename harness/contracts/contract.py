"""What kernels promise, version by version, and what an answer means against it.

A contract is a sentence with a table: half-open ranges of versions, the answer in each, and the commit or function of
the kernel that it rests on. A kernel in no range has no expectation: its answer is recorded and not judged. Where
versions mislead, a probe of the kernel decides, and a version that says otherwise is reported.

Pure: tables and answers in, verdicts out. Imports kernel versions, the names of capabilities, :mod:`harness.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from harness.errors import UsageError
from harness.features.capabilities import CAPABILITIES
from harness.kernel.version import KernelVersion
from harness.results.types import VerdictWord

ON_A_VENDOR_KERNEL: Final = "observed on a vendor kernel"
"""Start of the note of an answer that is not judged because of whose kernel gave it."""

NOT_ASKED: Final = "not asked"
"""The verdict on a contract that could not be asked."""


class NotAsked(Exception):
    """A contract that cannot be asked of this kernel; its text says why."""


TAKES = ("errno", "value", "count", "time")
"""Sorts of answers: an errno's name or "ok"; any plain value; a number of things; "waits" or "returns at once"."""

OUTERS = {"hom": "hash_of_maps", "aom": "array_of_maps", "mim": ""}
"""First word of a contract's id, and the outer map it speaks of; "mim" speaks of map-in-map as such."""

_BOTH = ("hom", "aom")


def _between(since: KernelVersion | None, version: KernelVersion, until: KernelVersion | None) -> bool:
    return (since is None or _reached(version, since)) and (until is None or not _reached(version, until))


def _reached(version: KernelVersion, bound: KernelVersion) -> bool:
    """Whether a version is a bound or later; candidates of a release have what came with it, in its merge window."""
    return version >= bound or (bound == KernelVersion(*bound.series) and version.series == bound.series)


@dataclass(frozen=True)
class Range:
    """The answer of a run of versions.

    Attributes:
        answer: What these kernels answer.
        since: The first version; None for the oldest there is.
        until: The first version that is no longer meant; None for no end.
        source: Kernel commit or function that says so.
        sentence: What these kernels promise, where it is not the contract's sentence; "" where it is.
    """

    answer: Any
    since: KernelVersion | None
    until: KernelVersion | None
    source: str
    sentence: str = ""

    def holds(self, version: KernelVersion) -> bool:
        """Whether a version is in the range."""
        return _between(self.since, version, self.until)


@dataclass(frozen=True)
class Contract:
    """One promise.

    Attributes:
        id: "hom.update.bad_fd": the outer map, the area, the behaviour.
        sentence: What is promised, for a reader.
        takes: One of :data:`TAKES`.
        case: Which of several like it; "" where it stands alone.
        ranges: Answers by version; ranges do not overlap.
        backports: Answers of stable releases that differ from what their series says; they come first.
        since: The first version that it can be asked of; None for all.
        until: The first version that it can no longer be asked of; None for all.
        requires: Capabilities that asking needs.
        decided_by: The capability whose probe decides; "" where versions do.
        when: Answers by the probe's word, "yes" or "no".
    """

    id: str
    sentence: str
    takes: str
    case: str
    ranges: tuple[Range, ...]
    backports: tuple[Range, ...]
    since: KernelVersion | None
    until: KernelVersion | None
    requires: tuple[str, ...]
    decided_by: str
    when: Mapping[str, Any]

    @property
    def outer(self) -> str:
        """Type of the outer map it speaks of: "hash_of_maps", "array_of_maps", or "" for map-in-map as such."""
        return OUTERS[self.id.split(".")[0]]

    @property
    def name(self) -> str:
        """The id without the outer map and the case."""
        rest = self.id.partition(".")[2]
        return rest.removesuffix(f".{self.case}") if self.case else rest

    @property
    def condition(self) -> str:
        """The versions that it can be asked of, as a selector's condition; "" for all."""
        bounds = [f">={self.since}"] if self.since else []
        return ",".join([*bounds, f"<{self.until}"] if self.until else bounds)

    def range_of(self, version: KernelVersion) -> Range | None:
        """Return the range that a version is in; None for one that nobody has looked at."""
        return next((one for one in (*self.backports, *self.ranges) if one.holds(version)), None)

    def can_be_asked_of(self, version: KernelVersion) -> bool:
        """Whether there is anything to ask of a version."""
        return _between(self.since, version, self.until)


@dataclass(frozen=True)
class ContractVerdict:
    """An answer, compared with a contract.

    Attributes:
        word: "as expected", "differs", "observed", or :data:`NOT_ASKED`.
        expected: The answer that the contract names; None when it names none.
        source: What that rests on.
        note: What else is to be said: that version and probe disagree; "" for nothing.
        sentence: What a kernel of this version promises.
    """

    word: VerdictWord
    expected: Any
    source: str
    note: str = ""
    sentence: str = ""


def judge(
    contract: Contract, version: KernelVersion, observed: object, probed: str = "", vendor: str = ""
) -> ContractVerdict:
    """Compare what a kernel answered with what is promised.

    Args:
        contract: The promise.
        version: The kernel's upstream version.
        observed: What it answered.
        probed: What the probe of `decided_by` said: "yes", "no", or "" when it was not asked.
        vendor: Whose kernel it is, where its version says little (:mod:`harness.kernel.vendor`): then only a probe
            decides; "" for any other kernel.
    """
    found = contract.range_of(version)
    expected, source, note = (found.answer, found.source, "") if found else (None, "", "")
    known = found is not None
    sentence = (found and found.sentence) or contract.sentence
    if vendor and not (probed and probed in contract.when):
        note = f"{ON_A_VENDOR_KERNEL} ({vendor})"
        if known and observed != expected:
            note += f"; {version} would answer {expected!r}"
        return ContractVerdict("observed", expected, source, note, sentence)
    if vendor:
        known = False
    if probed and probed in contract.when:
        decided = contract.when[probed]
        if known and decided != expected:
            note = f"the table says {expected!r} for {version}, the probe {contract.decided_by} says {probed}"
        expected, source, known = decided, f"the probe {contract.decided_by}: {probed}; {source}".rstrip("; "), True
    if not known:
        return ContractVerdict("observed", None, "", sentence=sentence)
    return ContractVerdict("as expected" if observed == expected else "differs", expected, source, note, sentence)


def read(tables: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Contract]:
    """Return the contracts of some tables, by id, in order.

    Args:
        tables: Name and content of each.

    Raises:
        UsageError: A table is malformed; the message says where and how.
    """
    found: dict[str, Contract] = {}
    for file, table in tables:
        unknown = set(table) - {"contract"}
        if unknown:
            raise _malformed(file, f"there is a table {min(unknown)!r}", "tables [[contract]] alone")
        for entry in table.get("contract", []):
            for contract in _expanded(file, entry):
                if contract.id in found:
                    raise _malformed(file, f"two contracts are called {contract.id}", "ids of one contract each")
                found[contract.id] = contract
    return found


_FIELDS = {
    *("id", "outer", "each", "sentence", "takes", "expect", "backports", "since", "until", "requires"),
    *("requires_by_outer", "requires_by_case", "decided_by", "when"),
}


def _expanded(file: str, entry: Mapping[str, Any]) -> Iterable[Contract]:
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise _malformed(file, f"a contract has the id {name!r}", "a name such as update.bad_fd")
    where = f"{file}, {name}"
    unknown = set(entry) - _FIELDS
    if unknown:
        raise _malformed(where, f"there is no field {min(unknown)!r}", ", ".join(sorted(_FIELDS)))
    if not entry.get("sentence") or not isinstance(entry["sentence"], str):
        raise _malformed(where, "it has no sentence", "what is promised, in words")
    if entry.get("takes") not in TAKES:
        raise _malformed(where, f"it takes {entry.get('takes')!r}", " or ".join(TAKES))
    outers = entry.get("outer", _BOTH)
    if not outers or not set(outers) <= set(OUTERS):
        raise _malformed(where, f"its outer maps are {outers!r}", f"some of {', '.join(OUTERS)}")
    if entry.get("decided_by"):
        _check_capability(where, entry["decided_by"])
    when = entry.get("when", {})
    if bool(when) != bool(entry.get("decided_by")) or not set(when) <= {"yes", "no"}:
        raise _malformed(where, f"it has when = {when!r}", "answers for yes and no, beside decided_by")
    ranges = tuple(_range(where, one) for one in entry.get("expect", ()))
    backports = tuple(_backport(where, one) for one in entry.get("backports", ()))
    for one, other in ((a, b) for number, a in enumerate(ranges) for b in ranges[number + 1 :]):
        if _overlap(one, other):
            raise _malformed(where, "two of its ranges of versions overlap", "ranges beside each other")
    for outer in outers:
        for case in entry.get("each", [""]):
            yield Contract(
                id=f"{outer}.{name}.{case}" if case else f"{outer}.{name}",
                sentence=_filled(entry["sentence"], outer, case),
                takes=entry["takes"],
                case=case,
                ranges=tuple(_for_case(one, outer, case) for one in ranges),
                backports=tuple(_for_case(one, outer, case) for one in backports),
                since=_version(where, entry.get("since")),
                until=_version(where, entry.get("until")),
                requires=_required(where, entry, outer, case),
                decided_by=entry.get("decided_by", ""),
                when=when,
            )


def _required(where: str, entry: Mapping[str, Any], outer: str, case: str) -> tuple[str, ...]:
    """Return the capabilities that asking needs: of every contract of the entry, of its outer map, and of its case."""
    names = list(entry.get("requires", ()))
    for field, one, known in (("outer", outer, entry.get("outer", _BOTH)), ("case", case, entry.get("each", ()))):
        only: Mapping[str, list[str]] = entry.get(f"requires_by_{field}", {})
        unknown = set(only) - set(known)
        if unknown:
            raise _malformed(where, f"requires_by_{field} has {min(unknown)!r}", "one of " + ", ".join(known))
        names += only.get(one, ())
    found = tuple(name.replace("{each}", case) for name in names)
    for name in found:
        _check_capability(where, name)
    return found


def _check_capability(where: str, name: str) -> None:
    if name not in CAPABILITIES:
        raise _malformed(where, f"no capability is called {name!r}", "a name of harness.features.capabilities")


def _filled(sentence: str, outer: str, case: str) -> str:
    return sentence.replace("{each}", case).replace("{outer}", OUTERS[outer])


def _for_case(one: Range, outer: str, case: str) -> Range:
    return replace(one, sentence=_filled(one.sentence, outer, case))


def _range(where: str, given: Mapping[str, Any]) -> Range:
    if "answer" not in given or not set(given) <= {"answer", "since", "until", "source", "sentence"}:
        expected = "answer, and since, until, source, sentence where they apply"
        raise _malformed(where, f"a range is {dict(given)!r}", expected)
    if not given.get("source"):
        raise _malformed(where, "a range has no source", "the kernel commit or function that says so")
    since, until = _version(where, given.get("since")), _version(where, given.get("until"))
    if since is not None and until is not None and not since < until:
        raise _malformed(where, f"a range goes from {since} until {until}", "an older version first")
    return Range(given["answer"], since, until, given["source"], given.get("sentence", ""))


def _backport(where: str, given: Mapping[str, Any]) -> Range:
    """Return the range of a stable release: it ends with its series unless it says otherwise."""
    found = _range(where, given)
    if found.since is None:
        raise _malformed(where, "a backport has no first release", "since = a point release")
    end = KernelVersion(found.since.major, found.since.minor + 1, 0, 0)
    until = found.until or end
    if until > end:
        raise _malformed(where, f"a backport goes from {found.since} until {until}", "an end within its series")
    return replace(found, until=until)


def _overlap(one: Range, other: Range) -> bool:
    starts_before = one.since is None or other.until is None or one.since < other.until
    ends_after = one.until is None or other.since is None or other.since < one.until
    return starts_before and ends_after


def _version(where: str, text: str | None) -> KernelVersion | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise _malformed(where, f"a version is {text!r}", 'a version in quotes, such as "5.10"')
    return KernelVersion.parse(text)


def _malformed(where: str, what: str, expected: str) -> UsageError:
    return UsageError(f"the table of contracts {where}: {what}", expected=expected)
