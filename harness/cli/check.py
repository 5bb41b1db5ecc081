"""`harness check`: a user's object on many kernels, as a matrix of kernels and programs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import positive, say
from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.check.plan import Plan


_LOST = 3


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    from harness.check.plan import LOAD_TIMEOUT, LOADER_TIMEOUT
    from harness.kernel.selector import GRAMMAR

    summary = "load a compiled BPF object on each kernel and say what a loader meets there, and why"
    parser = subparsers.add_parser(
        "check",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". The object is loaded whole through libbpf; when that is "
        "refused, further loads find the map or program to blame. The exit status is 0 when every kernel takes "
        "everything, 1 when one does not, 2 when no kernel need be asked, 3 when a kernel could not be run.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("object", type=Path, metavar="OBJECT.bpf.o", help="the object; a C source is compiled")
    parser.add_argument(
        "--kernel", action="append", metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several (default: 6.12)"
    )
    parser.add_argument("--program", action="append", default=[], metavar="NAME", help="try this program only; repeats")
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text", help="how to print it (default: text)"
    )
    parser.add_argument(
        "--differences", action="store_true", help="print only the rows that are not equal on all kernels"
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="as for pytest (default: auto)")
    parser.add_argument(
        "--memory", type=positive, default=256, metavar="MIB", help="the guest's memory (default: %(default)s)"
    )

    before = parser.add_argument_group("what a loader does before it loads")
    before.add_argument(
        "--inner",
        action="append",
        default=[],
        metavar="OUTER=TYPE:KEY:VALUE:MAX[:FLAGS]",
        help="inner map for an outer map that the object leaves without one: traced=hash:4:4:8",
    )
    before.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="NAME:SETTING=N[,...]",
        help="set a map's max_entries, flags, key_size, value_size, type or numa_node: rings:max_entries=8",
    )
    before.add_argument(
        "--set-rodata",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the initial value of a global variable (.rodata, .data, .bss): a number, true, false or a text",
    )
    before.add_argument(
        "--btf", type=Path, metavar="FILE", help="the kernel's types for CO-RE, in place of the kernel's own"
    )
    before.add_argument(
        "--load-timeout",
        type=_seconds,
        default=LOAD_TIMEOUT,
        metavar="S",
        help="seconds that one load of the object may take (default: %(default)g)",
    )

    after = parser.add_argument_group("what happens after loading")
    after.add_argument("--attach", action="store_true", help="attach what was loaded, as its section says")

    own = parser.add_argument_group("a loader of your own")
    own.add_argument(
        "--run-loader",
        default="",
        metavar="'PROGRAM ARGUMENTS'",
        help="also run this loader in the guest: a compiled program or a script of this machine, by path or by name on "
        "PATH; {object} stands for the object's path there, which is its one argument by default",
    )
    own.add_argument(
        "--loader-timeout",
        type=_seconds,
        default=LOADER_TIMEOUT,
        metavar="S",
        help="seconds after which a loader that still runs has failed (default: %(default)g)",
    )
    own.add_argument(
        "--loader-until",
        default="",
        metavar="TEXT",
        help="a loader that prints this is good; it is then interrupted (SIGINT) and must end",
    )
    own.add_argument(
        "--loader-alive",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="a loader that still runs after S seconds is good; it is then interrupted (SIGINT) and must end",
    )

    source = parser.add_argument_group("a C source")
    source.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME[=VALUE]", help="a macro")
    source.add_argument("-I", dest="includes", action="append", default=[], metavar="FOLDER", help="where headers are")
    source.add_argument("--mcpu", default="", metavar="V", help="BPF's instruction set: v1 (default), v2, v3, v4")
    source.add_argument("--cflags", default="", metavar="'FLAGS'", help="more flags for clang")


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("more than 0 seconds")
    return number


def _plan(arguments: argparse.Namespace) -> Plan:
    from harness.check.kernels import compiled
    from harness.check.plan import Loader, Plan, parse_map, parse_template, parse_variable

    flags = [
        *(f"-D{word}" for word in arguments.defines),
        *(f"-I{folder}" for folder in arguments.includes),
        *([f"-mcpu={arguments.mcpu.removeprefix('-mcpu=')}"] if arguments.mcpu else []),
        *shlex.split(arguments.cflags),
    ]
    return Plan(
        compiled(arguments.object, flags),
        tuple(parse_template(text) for text in arguments.inner),
        tuple(arguments.program),
        tuple(setting for text in arguments.map for setting in parse_map(text)),
        tuple(parse_variable(text) for text in arguments.set_rodata),
        attach=arguments.attach,
        loader=Loader(
            tuple(shlex.split(arguments.run_loader)),
            arguments.loader_timeout,
            arguments.loader_until,
            arguments.loader_alive,
        ),
        btf=arguments.btf,
        memory=arguments.memory,
        load_timeout=arguments.load_timeout,
    )


def _run(arguments: argparse.Namespace) -> int:
    from harness.check.kernels import check_on_kernels
    from harness.check.results import Verdict
    from harness.check.table import as_markdown, as_records, as_text

    results = check_on_kernels(_plan(arguments), arguments.kernel or ["6.12"], accel=arguments.accel, say=say)
    if arguments.format == "json":
        print(json.dumps(as_records(results), indent=1))
    elif arguments.format == "markdown":
        print(as_markdown(results, differences=arguments.differences))
    else:
        width = tables.columns(terminal=sys.stdout.isatty())
        print(as_text(results, width=width, colour=None, differences=arguments.differences))
    if any(result.verdict is Verdict.LOST for result in results):
        return _LOST
    return int(not all(result.is_good for result in results))
