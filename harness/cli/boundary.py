"""`harness boundary`: between which two releases a behaviour changed; and one step of `git bisect run`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import say
from harness.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

_FOUND, _NONE = 0, 1


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `boundary`."""
    summary = "find between which two releases a behaviour changed"
    parser = subparsers.add_parser(
        "boundary",
        help=summary,
        description=summary[0].upper() + summary[1:] + ", by bisection over every available release. Runs the "
        "test on the first and the last release of each series, then between those that answer differently. A kernel "
        "that is unavailable, does not boot or gives no answer is skipped. The exit status is 0 when a boundary was "
        "found, 1 when there is none, 3 when no kernel answered.",
        epilog="With --git-run, a step of `git bisect run`: the exit status is 0 (good), 1 (bad), 125 (this commit "
        "cannot be tested) or 255 (ends the bisection). git bisect run harness boundary --git-run TEST --kernel . "
        "--build minimal",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("test", metavar="CONTRACT|TEST", help="a contract's id, or a test's id as pytest takes it")
    parser.add_argument(
        "--kernel",
        action="append",
        required=True,
        metavar="SELECTOR",
        help="every release of it is a candidate: 6.12, '>=6.12,<7.2', all; with --git-run: a kernel tree",
    )
    parser.add_argument("--exhaustive", action="store_true", help="run every release: nothing can be missed")
    parser.add_argument(
        "--one-flip",
        action="store_true",
        help="take it that there is one change in the whole selection: fewer kernels are run",
    )
    parser.add_argument(
        "--known",
        action="append",
        type=Path,
        default=[],
        metavar="RECORD",
        help="a run record whose answers on these exact kernels need not be asked for again; repeats",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")
    parser.add_argument("--all-changes", action="store_true", help="print every BPF change between the two releases")
    parser.add_argument("--git-run", action="store_true", help="one step of `git bisect run` on the tree in --kernel")
    parser.add_argument("--build", metavar="FLAVOUR", help="with --git-run: build the tree first, in this flavour")
    parser.add_argument(
        "--good",
        metavar="ANSWER",
        help="with --git-run: what is observed in a good kernel, any other answer is bad (default: the test passes)",
    )
    parser.add_argument(
        "--pytest",
        action="append",
        default=[],
        metavar="WORD",
        help="a further word for pytest, such as --pytest=--accel=tcg; repeats",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.git_run:
        from harness.boundary.git_run import step

        kernels, words = arguments.kernel, arguments.pytest
        return step(arguments.test, kernels, words=words, build=arguments.build, good=arguments.good, say=say)
    for name, given in (("--build", arguments.build), ("--good", arguments.good)):
        if given is not None:
            raise UsageError(f"{name} belongs to --git-run", hint="`harness boundary --help` has an example")
    if arguments.exhaustive and arguments.one_flip:
        raise UsageError("--exhaustive and --one-flip contradict each other", expected="one of them, or neither")
    from harness.boundary.releases import search_releases
    from harness.boundary.show import as_data, as_text

    searched = search_releases(
        arguments.test,
        arguments.kernel,
        words=arguments.pytest,
        records=arguments.known,
        exhaustive=arguments.exhaustive,
        one_flip=arguments.one_flip,
        say=say,
    )
    if arguments.format == "json":
        print(json.dumps(as_data(arguments.test, searched), indent=1))
    else:
        print("\n".join(as_text(searched, every=arguments.all_changes)))
    searched.require_an_answer(arguments.test)
    return _FOUND if searched.any_found else _NONE
