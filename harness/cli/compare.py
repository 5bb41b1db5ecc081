"""`harness compare`: what changed between two run records, or between two kernels of one.

Imports records and reports below it as they are needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.report.compare.changes import Change, Comparison
    from harness.results.types import RunRecord

_CHANGES = (
    "broken failure observation unsupported costlier slower lost gone fixed supported cheaper faster regained new"
).split()


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `compare`."""
    summary = "say what changed between two run records, or two kernels of one"
    parser = subparsers.add_parser(
        "compare",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". The exit status is 0, or 1 when there is a change that "
        "--fail-on names.",
        epilog="Changes: broken; failure (fails in another way); observation (another answer, no failure); "
        "unsupported (newly skipped); costlier and cheaper (verification of a program, beyond --threshold); "
        "slower and faster (by a factor of 3 and 0.3 s beyond the machines' own "
        "difference); lost (no verdict any more); gone; fixed; supported; regained (a verdict again); new.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("old", type=Path, metavar="OLD", help="what pytest --record=FILE or harness merge wrote")
    parser.add_argument("new", type=Path, nargs="?", metavar="NEW", help="the other record (default: the same)")
    parser.add_argument(
        "--kernels",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="compare these two kernels, by label or exact version (default: those of one label); nearest for OLD: the "
        "one that answers the contracts most like NEW, as for a vendor's kernel, of which its version says little",
    )
    parser.add_argument(
        "--fail-on",
        type=_changes,
        default=["broken", "unsupported"],
        metavar="CHANGE,...",
        help="changes that make the exit status 1; also any, none (default: broken,unsupported)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="how much more or less verification may cost without being a change (default: %(default)g)",
    )
    parser.add_argument(
        "--format", choices=("terminal", "markdown", "json"), default="terminal", help="how to print it"
    )


def _changes(text: str) -> list[str]:
    words = [word for word in text.split(",") if word]
    if words in (["any"], ["none"]):
        return _CHANGES if words == ["any"] else []
    if not words or not set(words) <= set(_CHANGES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of: {', '.join(_CHANGES)}, or any, or none")
    return words


def _run(arguments: argparse.Namespace) -> int:
    from harness.report.compare.changes import Change, compare, is_regression
    from harness.results.file import read

    if arguments.new is None and arguments.kernels is None:
        raise UsageError(
            "there is one record, and nothing to compare it with",
            expected="harness compare OLD NEW, or harness compare RECORD --kernels OLD NEW",
        )
    old = read(arguments.old)
    new = read(arguments.new) if arguments.new is not None else old
    kernels = tuple(arguments.kernels) if arguments.kernels else None
    if kernels is not None and kernels[0] == "nearest":
        kernels = (_nearest(old, new, kernels[1]), kernels[1])
    comparison = compare(old, new, kernels, threshold=arguments.threshold)
    fail_on = [Change(word) for word in arguments.fail_on]
    _print(arguments.format, comparison, old, new, fail_on)
    return int(is_regression(comparison, fail_on))


def _nearest(old: RunRecord, new: RunRecord, name: str) -> str:
    """Return the label of the kernel of `old` that answers most like one of `new`, vendors' kernels aside."""
    from harness.contracts import golden
    from harness.report.compare.changes import find_kernel

    found = golden.nearest_of(new, find_kernel(new, name), old)
    if found is None:
        raise UsageError(
            f"no kernel of the first record is near to {name}: none of them answered a contract",
            expected="kernels of mainline releases in a run of harness.contracts",
        )
    return found.label


def _print(wanted: str, comparison: Comparison, old: RunRecord, new: RunRecord, fail_on: list[Change]) -> None:
    from harness.report.compare.text import as_markdown, as_record, lines

    if wanted == "json":
        import json

        print(json.dumps(as_record(comparison, old, new, fail_on), indent=1, ensure_ascii=False))
        return
    if wanted == "markdown":
        print(as_markdown(comparison, old, new, fail_on), end="")
        return
    console = tables.console()
    for line, change in lines(comparison, old, new):
        console.print(line, style="" if change is None else "bold red" if change in fail_on else "bold")
