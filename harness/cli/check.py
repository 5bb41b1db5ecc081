"""`harness check`: a user's object on many kernels, as a matrix of kernels and programs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import add_machine_options, machine_settings, positive, require_memory, say, seconds
from harness.errors import InfrastructureError, UsageError
from harness.util import tables

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.check.plan import Plan
    from harness.check.results import Result


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    summary = "load a compiled BPF object on each kernel and say what a loader meets there, and why"
    parser = subparsers.add_parser(
        "check",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". The object is loaded whole through libbpf; when that is "
        "refused, further loads find the map or program to blame. The exit status is 0 when every kernel takes "
        "everything, 1 when one does not, 2 when no kernel need be asked, 3 when a kernel could not be run.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "object", type=Path, nargs="?", metavar="OBJECT.bpf.o", help="the object; a C source is compiled"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="several objects in one table; the keys of the file are these options: see harness.check.config",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a file of objects can say too."""
    from harness.check.plan import LOAD_TIMEOUT, LOADER_TIMEOUT
    from harness.kernel.selector import GRAMMAR

    parser.add_argument(
        "--kernel", action="append", metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several (default: 6.12)"
    )
    parser.add_argument("--program", action="append", default=[], metavar="NAME", help="try this program only; repeats")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown", "veristat"),
        default="text",
        help="how to print it (default: text)",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="also write a run record, for report, compare and merge"
    )
    parser.add_argument(
        "--differences", action="store_true", help="print only the rows that are not equal on all kernels"
    )
    add_machine_options(parser)
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
        type=seconds,
        default=LOAD_TIMEOUT,
        metavar="S",
        help="seconds that one load of the object may take (default: %(default)g)",
    )

    after = parser.add_argument_group("what happens after loading")
    after.add_argument("--attach", action="store_true", help="attach what was loaded, as its section says")
    after.add_argument(
        "--attach-to",
        action="append",
        default=[],
        metavar="HOOK=TARGET",
        help="where to attach programs whose section does not say it: xdp=lo, tc=lo, cgroup=/, netns, socket; veth0 "
        "and veth1 are a pair of interfaces; repeats, and means --attach",
    )

    cost = parser.add_argument_group("what verification costs")
    cost.add_argument("--stats", action="store_true", help="print instructions, states, stack, sizes of each program")
    cost.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="FIGURE=N",
        help="the most that a program may cost, more is status 1: insns=900000; repeats",
    )
    cost.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE.csv",
        help="a CSV of veristat's, or of --format veristat, to compare with",
    )
    cost.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="with --baseline: how much more is still good (default: %(default)g)",
    )

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
        type=seconds,
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
        type=seconds,
        default=0.0,
        metavar="S",
        help="a loader that still runs after S seconds is good; it is then interrupted (SIGINT) and must end",
    )

    source = parser.add_argument_group("a C source")
    source.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME[=VALUE]", help="a macro")
    source.add_argument("-I", dest="includes", action="append", default=[], metavar="FOLDER", help="where headers are")
    source.add_argument("--mcpu", default="", metavar="V", help="BPF's instruction set: v1 (default), v2, v3, v4")
    source.add_argument("--cflags", default="", metavar="'FLAGS'", help="more flags for clang")


def _plan(arguments: argparse.Namespace) -> Plan:
    from harness.check.cost import parse_budget
    from harness.check.plan import Loader, Plan, parse_map, parse_place, parse_template, parse_variable

    flags = [
        *(f"-D{word}" for word in arguments.defines),
        *(f"-I{folder}" for folder in arguments.includes),
        *([f"-mcpu={arguments.mcpu.removeprefix('-mcpu=')}"] if arguments.mcpu else []),
        *shlex.split(arguments.cflags),
    ]
    require_memory(arguments.memory)
    budgets = tuple(parse_budget(text) for text in arguments.budget)
    measures = arguments.baseline is not None or arguments.format == "veristat"
    return Plan(
        arguments.object,
        tuple(parse_template(text) for text in arguments.inner),
        tuple(arguments.program),
        tuple(setting for text in arguments.map for setting in parse_map(text)),
        tuple(parse_variable(text) for text in arguments.set_rodata),
        attach=arguments.attach or bool(arguments.attach_to),
        places=tuple(parse_place(text) for text in arguments.attach_to),
        loader=Loader(
            tuple(shlex.split(arguments.run_loader)),
            arguments.loader_timeout,
            arguments.loader_until,
            arguments.loader_alive,
        ),
        btf=arguments.btf,
        memory=arguments.memory,
        load_timeout=arguments.load_timeout,
        stats=arguments.stats or bool(budgets) or measures,
        budgets=budgets,
        flags=tuple(flags),
    )


def _plans(arguments: argparse.Namespace) -> list[Plan]:
    """Return the plan of each object; with a file, take from it what is for the whole run and not given here."""
    if (arguments.object is None) == (arguments.config is None):
        raise UsageError(
            "harness check takes an object or a file of objects",
            expected="harness check OBJECT.bpf.o, or harness check --config check.toml",
        )
    if arguments.config is None:
        if not arguments.run_loader and (arguments.loader_until or arguments.loader_alive):
            raise UsageError("no loader is given", expected="--run-loader with --loader-until and --loader-alive")
        return [_plan(arguments)]
    from harness.check.config import OF_RUN, read_config

    parser = argparse.ArgumentParser(prog=str(arguments.config), usage="see `harness check --help`", add_help=False)
    parser.add_argument("object", type=Path)
    _add_options(parser)
    defaults = parser.parse_args(["-"])
    given = [name for name, value in vars(defaults).items() if getattr(arguments, name) != value and name != "object"]
    of_run = [name.replace("-", "_") for name in OF_RUN]
    if wrong := sorted(name.replace("_", "-") for name in set(given).difference(of_run)):
        raise UsageError(
            f"with --config, {', '.join(wrong)} of the command line would be for every object",
            expected="it in the file",
        )
    run, objects = read_config(arguments.config)
    for name, value in vars(parser.parse_args(["-", *run])).items():
        if name in of_run and name not in given:
            setattr(arguments, name, value)
    return [_plan(parser.parse_args([*words, f"--format={arguments.format}"])) for words in objects]


def _run(arguments: argparse.Namespace) -> int:
    from harness.check.object_file import read_object

    if arguments.object is not None and arguments.object.suffix != ".c":
        read_object(arguments.object)  # before anything that takes longer
    from harness.check.kernels import check_on_kernels
    from harness.check.results import Verdict

    plans = _plans(arguments)
    before = _baseline(arguments.baseline)
    selectors = arguments.kernel or ["6.12"]
    if arguments.format == "veristat":
        from harness import kernel
        from harness.check.cost import require_one_kernel

        require_one_kernel([choice.label for choice in kernel.resolve(selectors, progress=say)])
    record = None
    if arguments.record is not None:
        from harness.check.record import CheckRecord

        record = CheckRecord(arguments.record, sys.argv)
    settings = machine_settings(arguments)
    results = check_on_kernels(plans, selectors, settings, say=say, record=record)
    if before is not None:
        from harness.check.cost import compared

        results = compared(results, before, arguments.threshold)
    print(_printed(results, arguments))
    status = int(not all(result.is_good for result in results))
    if any(result.verdict is Verdict.LOST for result in results):
        status = InfrastructureError.exit_status
    if record is not None:
        record.finish(status)
    return status


def _baseline(path: Path | None) -> dict[tuple[str, str], dict[str, int]] | None:
    from harness.check.cost import read_veristat

    if path is None:
        return None
    try:
        return read_veristat(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", expected="a CSV of veristat's") from error


def _printed(results: Sequence[Result], arguments: argparse.Namespace) -> str:
    from harness.check.cost import as_veristat
    from harness.check.table import as_markdown, as_records, as_text

    if arguments.format == "json":
        return json.dumps(as_records(results), indent=1)
    if arguments.format == "veristat":
        return as_veristat(results)
    if arguments.format == "markdown":
        return as_markdown(results, differences=arguments.differences)
    width = tables.columns(terminal=sys.stdout.isatty())
    return as_text(results, width=width, colour=None, differences=arguments.differences)
