"""Records from before a contract was a test: each result of several contracts becomes a result of each.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from msgspec.structs import replace

from harness.results.ids import contract_in
from harness.results.outcomes import Outcome
from harness.results.types import Deselected, NotRun, RecordedResult, RunRecord

T = TypeVar("T", Deselected, NotRun)


def by_contract(record: RunRecord) -> RunRecord:
    """Return a record in which no result is about several contracts."""
    seen: dict[str, dict[str, None]] = {}
    for result in record.results:
        contracts = seen.setdefault(result.test, {})
        contracts.update(dict.fromkeys(one.contract for one in result.observations if one.contract))
    several = {test: list(contracts) for test, contracts in seen.items() if _was_group(test, contracts)}
    if not several:
        return record
    return replace(
        record,
        results=tuple(one for result in record.results for one in _results(result, several.get(result.test, []))),
        left_out=tuple(one for left_out in record.left_out for one in _named(left_out, several)),
        not_run=tuple(one for not_run in record.not_run for one in _named(not_run, several)),
    )


def _was_group(test: str, contracts: Collection[str]) -> bool:
    """Whether a test was of several contracts, or called after several and of one of them on these kernels."""
    return len(contracts) > 1 or (len(contracts) == 1 and contract_in(test) not in ("", *contracts))


def _named(one: T, several: dict[str, list[str]]) -> Iterator[T]:
    for contract in several.get(one.test, [""]):
        yield replace(one, test=_test_of(one.test, contract)) if contract else one


def _test_of(test: str, contract: str) -> str:
    """Return the id that a contract's own test would have had."""
    group = contract_in(test)
    return test.replace(group, contract, 1) if group else f"{test}[{contract}]"


def _results(result: RecordedResult, contracts: list[str]) -> Iterator[RecordedResult]:
    """Return what a result says of each of its contracts.

    A test that fails because a contract does not hold has failed for that contract alone; whatever else happened to
    the test happened to all that it observes.
    """
    if not contracts:
        yield result
    verdicts = {one.contract: one.verdict for one in result.observations}
    for contract in contracts:
        own = replace(
            result,
            test=_test_of(result.test, contract),
            contract=contract,
            setup=0.0,  # nobody measured what each of them took
            call=0.0,
            teardown=0.0,
            observations=tuple(one for one in result.observations if one.contract == contract),
        )
        held = replace(own, reason="", failure="", output="")
        if verdicts.get(contract) == "not asked":
            yield replace(held, outcome=Outcome.UNSUPPORTED, reason=own.observations[0].note, trouble=())
        elif result.outcome is not Outcome.FAILED or "differs" not in verdicts.values():
            yield own
        elif contract not in verdicts:
            why = "the test ended before it observed this"
            yield replace(held, outcome=Outcome.INFRASTRUCTURE, reason=why)
        else:
            yield own if verdicts[contract] == "differs" else replace(held, outcome=Outcome.PASSED)
