"""`harness check`: a user's object on many kernels, as a matrix of kernels and programs.

Imports kernels, machines and the matrix below it, as they are needed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import GuestError, InfrastructureError
from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.check.objects import Plan
    from harness.check.table import Result

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


def _compiled(path: Path) -> Path:
    """Return the object itself; what a C source compiles to."""
    if path.suffix != ".c":
        return path
    from harness.util import clang

    return clang.build(clang.find_source(path))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    from harness.check.objects import Plan, parse_template, read_object
    from harness.check.table import Verdict, as_markdown, as_records, as_text

    plan = Plan(
        _compiled(arguments.object),
        tuple(parse_template(text) for text in arguments.inner),
        tuple(arguments.program),
        attach=arguments.attach,
        command=tuple(shlex.split(arguments.run_loader)),
    )
    read_object(plan.path)  # before a kernel is booted for nothing
    results = _collect(plan, arguments.kernel or ["6.12"], arguments.accel)
    if arguments.format == "json":
        print(json.dumps(as_records(results), indent=1))
    elif arguments.format == "markdown":
        print(as_markdown(results))
    else:
        print(as_text(results, width=tables.columns(terminal=sys.stdout.isatty()), colour=None))
    if any(result.verdict is Verdict.LOST for result in results):
        return _LOST
    return int(any(result.verdict is not Verdict.OK for result in results))


def _collect(plan: Plan, selectors: list[str], accel: str) -> list[Result]:
    from harness import kernel
    from harness.check.objects import check, lost
    from harness.machines.pool import Pool, Settings

    pool = Pool(Settings(accel=accel), _say)
    results: list[Result] = []
    try:
        for choice in kernel.resolve(selectors, progress=_say):
            try:
                spec = pool.prepare(choice)
                machine = pool.take(spec)
                try:
                    results += check(machine, plan, choice.label)
                finally:
                    pool.give_back(spec, machine)
            except (InfrastructureError, GuestError) as error:
                # The other kernels have something to say all the same.
                _say(f"harness: {choice.label}: {error}")
                results.append(lost(choice.label, plan, error))
    finally:
        pool.close()
    return results
