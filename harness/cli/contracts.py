"""`harness contracts`: the tables of contracts, compared with what every kernel answered that was ever run."""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.contracts.golden import Golden

GOLDEN: Final = Path(__file__).parent.parent.parent / "tests" / "unit" / "data" / "golden"
"""The golden set of a checkout."""


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `contracts`."""
    parser = subparsers.add_parser(
        "contracts",
        help="compare the tables of contracts with what every kernel answered that was ever run",
        description="Compare the tables of contracts with the golden set: what every kernel answered that was ever "
        "run. Without an option, print a line for each kernel. Exit status: 1 when an answer differs.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--golden", "--to", type=Path, default=GOLDEN, metavar="FOLDER", help="the golden set")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--unknown", action="store_true", help="list the ranges that no kernel has confirmed")
    group.add_argument(
        "--nearest", type=Path, metavar="RECORD", help="which kernel of the set answers most like those of a run record"
    )
    group.add_argument(
        "--add", type=Path, nargs="+", metavar="RECORD", help="add the kernels of run records (pytest --record=FILE)"
    )


def _run(arguments: argparse.Namespace) -> int:
    from harness.contracts import golden

    if arguments.add:
        return _add(arguments.golden, arguments.add)
    kernels = golden.read(arguments.golden)
    if arguments.nearest:
        return _nearest(kernels, arguments.nearest)
    return _unknown(kernels) if arguments.unknown else _show(kernels)


def _add(folder: Path, records: list[Path]) -> int:
    from harness.contracts import golden

    for path in records:
        for one in _of_record(path):
            file = golden.add(folder, one)
            print(f"{file}: {len(one.answers)} answers of {one.version} ({file.stat().st_size} bytes)")
    return 0


def _of_record(path: Path) -> list[Golden]:
    from harness.contracts import golden
    from harness.errors import RecordError
    from harness.results.file import read

    found = golden.of_record(read(path))
    if not found:
        raise RecordError(
            f"{path} has no answer to a contract",
            expected="the record of a run of harness.contracts",
            hint=f"pytest --pyargs harness.contracts --kernel=SELECTOR --record={path}",
        )
    return found


def _show(kernels: list[Golden]) -> int:
    from harness.contracts import contracts, golden
    from harness.util import tables

    words = ("as expected", "differs", "observed")
    counts: dict[str, collections.Counter[str]] = {one.name: collections.Counter() for one in kernels}
    wrong = []
    for one in golden.judged(kernels, contracts()):
        counts[one.kernel.name][one.verdict.word] += 1
        if one.verdict.word == "differs":
            expected = json.dumps(one.verdict.expected)
            wrong.append(f"  {one.kernel.name}: {one.contract}: {json.dumps(one.observed)}, expected {expected}")
    rows = [
        [one.version, one.release, one.architecture, one.flavour, *(str(counts[one.name][word]) for word in words),
         str(sum(one.not_asked.values()))]
        for one in kernels
    ]  # fmt: skip
    header = ("version", "release", "architecture", "flavour", *words, "not asked")
    print("\n".join(tables.lines(rows, header=header, right=header[4:])))
    if wrong:
        print("\ndiffers:", *wrong, sep="\n")
    return int(bool(wrong))


def _nearest(kernels: list[Golden], path: Path) -> int:
    from harness.contracts import golden

    for one in _of_record(path):
        found = golden.nearest(one, kernels)
        if found is None:
            print(f"{one.release or one.version}: no other kernel is in the golden set")
            continue
        other = found.kernel
        print(
            f"{one.release or one.version} is most like {other.version} ({other.release}): "
            f"{found.alike} answers alike, {len(found.otherwise)} otherwise"
        )
        for name, (here, there) in sorted(found.otherwise.items()):
            print(f"  {name}: {json.dumps(here)}, there {json.dumps(there)}")
    return 0


def _unknown(kernels: list[Golden]) -> int:
    from harness.contracts import contracts, golden

    found: dict[tuple[str, str, str, str], list[str]] = collections.defaultdict(list)
    for contract, each in golden.unconfirmed(kernels, contracts()):
        since, until = (str(one) if one is not None else "" for one in (each.since, each.until))
        found[since, until, json.dumps(each.answer), each.source].append(contract.id)
    for (since, until, answer, source), names in found.items():
        shown = (
            " ".join(filter(None, (f"from {since}" if since else "", f"until {until}" if until else ""))) or "always"
        )
        print(f"{', '.join(names)}\n  {shown}: {answer}, by {source}")
    total = sum(map(len, found.values()))
    print(f"{total} ranges are confirmed by none of {len(kernels)} kernels")
    return 0
