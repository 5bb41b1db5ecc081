"""`harness bench`: what a pristine kernel costs, here and through plain vng, side by side in one run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import one_kernel, say
from harness.util import cache, tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `bench`."""
    parser = subparsers.add_parser("bench", help="time boots, clones, calls and whole runs, side by side")
    parser.add_argument("--kernel", default="6.1", metavar="SELECTOR", help="kernel to run (default: 6.1)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter runs: ends within 60 s warm")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and ratios there")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from harness.bench.figures import HEADER
    from harness.bench.measure import Bench

    choice, generic = (one_kernel(arguments.kernel + flavour, "bench") for flavour in ("", ":generic"))
    bench = Bench(choice, generic, quick=arguments.quick, say=say)
    bench.measure()
    tables.show(bench.figures.rows(), header=HEADER, right=HEADER[1:5])
    print()
    ratios = bench.figures.ratios().items()
    tables.show([(name, f"{value:.1f} times") for name, value in ratios], header=("ratio of medians", ""))
    if arguments.json is not None:
        with cache.new_file(arguments.json.absolute()) as temporary:
            temporary.write_text(json.dumps(bench.record(), indent=1) + "\n")
    return 0
