"""`harness doctor`: what is missing on this machine, and what mends it.

Imports :mod:`harness.needs`, and the checks below it as they are needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from harness import needs

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

A_RUN = ("run", "debian")
"""What is asked for when nothing is named: a run on Debian's kernels."""

_NOT_READY = 3


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    summary = "say what this machine lacks, and what mends it"
    features = needs.table().features
    parser = subparsers.add_parser(
        "doctor",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Exit status: 0 when everything is there that a run on "
        "Debian's kernels needs, or that --for names; else 3.",
        epilog="features: " + "; ".join(f"{name}: {text}" for name, text in features.items()),
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--for",
        dest="features",
        action="append",
        choices=tuple(features),
        metavar="FEATURE",
        help=f"ask for this feature; repeat it for several (default: {' and '.join(A_RUN)})",
    )
    parser.add_argument("--online", action="store_true", help="also ask the package sources whether they answer")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    from harness.doctor.checks import examine
    from harness.doctor.findings import as_data, as_text

    # Nothing but `run` can be used without what a run needs.
    asked = {"run", *(arguments.features or A_RUN)}
    findings = examine(online=arguments.online)
    if arguments.json:
        print(json.dumps(as_data(findings, asked), indent=1))
    else:
        plain = not can_print("✓✗", sys.stdout.encoding)
        print("\n".join(as_text(findings, asked, **({"marks": "+!-"} if plain else {}))))
    return _NOT_READY if any(finding.stops(asked) for finding in findings) else 0


def can_print(text: str, encoding: str | None) -> bool:
    """Return whether an encoding has these letters."""
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
