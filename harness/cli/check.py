"""`harness check`: a user's object on many kernels, as a matrix of kernels and programs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import say
from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


_LOST = 3


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    from harness.kernel.selector import GRAMMAR

    summary = "load a compiled BPF object on each kernel and say which programs each takes"
    parser = subparsers.add_parser(
        "check",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". Each program is loaded by itself through libbpf. The exit "
        "status is 0 when every kernel takes every program, 1 when one does not, 3 when a kernel could not be run.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("object", type=Path, metavar="OBJECT.bpf.o", help="the object; a C source is compiled")
    parser.add_argument(
        "--kernel", action="append", metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several (default: 6.12)"
    )
    parser.add_argument(
        "--inner",
        action="append",
        default=[],
        metavar="OUTER=TYPE:KEY:VALUE:MAX[:FLAGS]",
        help="inner map for an outer map that the object leaves without one: traced=hash:4:4:8",
    )
    parser.add_argument("--program", action="append", default=[], metavar="NAME", help="try this program only; repeats")
    parser.add_argument("--attach", action="store_true", help="attach what was loaded, as its section says")
    parser.add_argument(
        "--run-loader",
        default="",
        metavar="'PROGRAM ARGUMENTS'",
        help="also run this loader in the guest, a compiled program or a Python script of this machine; {object} "
        "stands for the object's path there, which is its one argument by default",
    )
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text", help="how to print it (default: text)"
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="as for pytest (default: auto)")


def _run(arguments: argparse.Namespace) -> int:
    from harness.check.kernels import check_on_kernels, compiled
    from harness.check.objects import Plan, parse_template, read_object
    from harness.check.table import Verdict, as_markdown, as_records, as_text

    plan = Plan(
        compiled(arguments.object),
        tuple(parse_template(text) for text in arguments.inner),
        tuple(arguments.program),
        attach=arguments.attach,
        command=tuple(shlex.split(arguments.run_loader)),
    )
    read_object(plan.path)  # before a kernel is booted for nothing
    results = check_on_kernels(plan, arguments.kernel or ["6.12"], accel=arguments.accel, say=say)
    if arguments.format == "json":
        print(json.dumps(as_records(results), indent=1))
    elif arguments.format == "markdown":
        print(as_markdown(results))
    else:
        print(as_text(results, width=tables.columns(terminal=sys.stdout.isatty()), colour=None))
    if any(result.verdict is Verdict.LOST for result in results):
        return _LOST
    return int(any(result.verdict is not Verdict.OK for result in results))
