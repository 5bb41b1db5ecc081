"""`harness export`: a run record in the forms that kernel CI systems take.

Imports records and the reports below it, as they are needed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `export`."""
    summary = "print a run record in a form that kernel CI systems take"
    parser = subparsers.add_parser("export", help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=_run)
    parser.add_argument("record", type=Path, metavar="RECORD", help="what pytest --record=FILE or harness merge wrote")
    parser.add_argument(
        "--format",
        choices=("ktap", "kcidb"),
        required=True,
        help="ktap: the kernel's Test Anything Protocol; kcidb: JSON for `kcidb-submit`",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the new file (default: standard output)")
    parser.add_argument(
        "--origin",
        default="kernel_harness",
        metavar="NAME",
        help="for kcidb: the CI system that submits it (default: kernel_harness)",
    )


def _run(arguments: argparse.Namespace) -> int:
    import json

    from harness.report.export.kcidb import as_kcidb
    from harness.report.export.ktap import as_ktap
    from harness.results.file import read
    from harness.util import cache

    if not re.fullmatch(r"[a-z0-9_]+", arguments.origin):
        raise UsageError(f"{arguments.origin!r} is not an origin for KCIDB", expected="small letters, digits and _")
    record = read(arguments.record)
    if arguments.format == "ktap":
        text = as_ktap(record)
    else:
        text = json.dumps(as_kcidb(record, arguments.origin), indent=1, ensure_ascii=False) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        with cache.new_file(arguments.output.absolute()) as temporary:
            temporary.write_text(text)
    return 0
