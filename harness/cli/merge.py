"""`harness merge`: one run record of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `merge`."""
    summary = "make one run record of several: shards, machines, a run and what it had to do again"
    parser = subparsers.add_parser(
        "merge",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". A label must mean one exact kernel in all of them. Of two "
        "results of one test on one kernel, a verdict stands against none, and the later of two that agree.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("record", type=Path, nargs="+", metavar="RECORD", help="what pytest --record=FILE wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the new record")
    parser.add_argument(
        "--prefer",
        choices=("latest", "worst"),
        default="neither",
        help="which of two results counts that contradict each other (default: that is an error)",
    )
    parser.add_argument(
        "--relabel", action="store_true", help="call kernels that share a label by their exact versions instead"
    )
    parser.add_argument("--partial", action="store_true", help="shards may be missing")


def _run(arguments: argparse.Namespace) -> int:
    from harness.results.file import read, write
    from harness.results.merge import Prefer, merge, missing_shards

    records = [(str(path), read(path)) for path in arguments.record]
    merged = merge(records, prefer=Prefer(arguments.prefer), relabel=arguments.relabel, partial=arguments.partial)
    write(arguments.output, merged)
    tests = len({result.test for result in merged.results})
    print(f"{arguments.output}: {len(merged.runs)} runs, {len(merged.kernels)} kernels, {tests} tests")
    for run in merged.runs:
        if not run.complete:
            print(f"  not complete: the run {run.id} of {run.started} on {run.host.name}")
    if merged.not_run:
        print(f"  not run: {len(merged.not_run)} tests")
    if missing := missing_shards(merged.runs):
        print(f"  missing shards: {', '.join(missing)}")
    return 0
