"""`harness matrix`: the kernels of a run, shared out among the jobs of a CI system."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import positive, say

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `matrix`."""
    from harness.kernel.selector import GRAMMAR
    from harness.shards import FORMATS

    summary = "share kernels out among the jobs of a CI system"
    parser = subparsers.add_parser(
        "matrix",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". Writes a lock file of exact kernels for each shard, for "
        "pytest --kernel=@FILE, and prints a matrix of them. No kernel is fetched.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--kernel", action="append", required=True, metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several"
    )
    parser.add_argument(
        "--shards", type=positive, required=True, metavar="N", help="jobs, at most; a kernel is never split"
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="json",
        help="github: one line for fromJSON(); gitlab: a child pipeline; json: everything (default)",
    )
    parser.add_argument(
        "--locks", type=Path, default=Path(), metavar="DIR", help="where to write shard-1.lock and so on (default: .)"
    )
    parser.add_argument(
        "--costs", type=Path, metavar="RECORD", help="an earlier run's record: share out by the seconds it took"
    )


def _run(arguments: argparse.Namespace) -> int:
    from harness import kernel
    from harness.kernel import lockfile
    from harness.shards import FORMATS, share

    choices = kernel.resolve(arguments.kernel, progress=say)
    shards = share(choices, arguments.shards, _costs(arguments.costs) if arguments.costs else None)
    if len(shards) < arguments.shards:
        say(f"{len(choices)} kernels make {len(shards)} shards, not {arguments.shards}: a kernel is never split")
    for shard in shards:
        lockfile.write(arguments.locks / shard.lock, shard.choices, {})
        say(f"shard {shard.name}: " + ", ".join(f"{one.label} ({one.version})" for one in shard.choices))
    folder = "" if arguments.locks == Path() else f"{arguments.locks.as_posix()}/"
    print(FORMATS[arguments.format](shards, folder))
    return 0


def _costs(path: Path) -> dict[str, float]:
    """Return the seconds that each kernel's tests took in an earlier run, by its label."""
    from harness.results.file import read

    costs: dict[str, float] = {}
    for result in read(path).results:
        costs[result.kernel] = costs.get(result.kernel, 0.0) + result.seconds
    return costs
