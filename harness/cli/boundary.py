"""`harness boundary`: between which two releases a behaviour changed; and one step of `git bisect run`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import say
from harness.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.boundary.releases import Question
    from harness.boundary.search import Reading
    from harness.check.kernels import Try
    from harness.kernel.types import Choice

_FOUND, _NONE = 0, 1
_VERDICT = "verdict"


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `boundary`."""
    from harness.results.cost import FIGURES

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
    parser.add_argument(
        "test",
        metavar="CONTRACT|TEST|OBJECT",
        help="a contract's id, a test's id as pytest takes it, or with --on an object",
    )
    parser.add_argument(
        "--kernel",
        action="append",
        required=True,
        metavar="SELECTOR",
        help="every release of it is a candidate: 6.12, '>=6.12,<7.2', all; with --git-run: a kernel tree",
    )
    parser.add_argument(
        "--on",
        choices=[_VERDICT, *FIGURES],
        help="TEST is a BPF object or its C source: find where the verdict on its programs changed, or what their "
        "verification costs (insns: instructions that the verifier processed)",
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
        _question(arguments),
        arguments.kernel,
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


def _question(arguments: argparse.Namespace) -> Question:
    from harness.boundary.runs import TestsInQuestion

    if not arguments.on:
        return TestsInQuestion(arguments.test, arguments.pytest)
    if arguments.known or arguments.pytest:
        raise UsageError("--known and --pytest are for tests, not for an object", expected="neither of them with --on")
    return ObjectInQuestion(Path(arguments.test), arguments.on, arguments.kernel, say=say)


class ObjectInQuestion:
    """Asks each release what it answers to a BPF object: the verdicts, or what verification costs.

    Args:
        path: The object, or its source.
        on: "verdict", or one of the figures of :data:`harness.results.cost.FIGURES`.
        selectors: The kernels.
        say: Prints a line of progress.
    """

    contract = ""

    def __init__(self, path: Path, on: str, selectors: Sequence[str], *, say: Callable[[str], None]) -> None:
        from harness import kernel
        from harness.check.plan import Plan
        from harness.machines.pool import Pool, Settings

        self._on = on
        self._plan = Plan(path, stats=on != _VERDICT)
        self._tries: dict[str, Try] = {}
        self._pool = Pool(Settings(), say)
        for name in kernel.named_architectures(selectors):
            self._try(name)

    def means(self, test: str) -> bool:
        """Whether a test of a record is meant: none is."""
        return not test

    def run_on(self, choice: Choice, folder: Path) -> Reading:
        """Try the object on a release; no file is written.

        Raises:
            UsageError: The object cannot be tried.
        """
        from harness.boundary.search import Reading, ReleaseAnswer
        from harness.check.kernels import check
        from harness.check.results import Kind, Verdict

        del folder
        answers, silent = {}, {}
        for one in check(self._pool, choice, self._try(choice.architecture)):
            if one.verdict is Verdict.LOST:
                silent[""] = one.line
            elif one.kind is not Kind.OBJECT:
                measured = (one.cost or {}).get(self._on)
                text = one.cell if measured is None else f"{measured} {self._on}"
                if one.is_good and measured is None and self._on != _VERDICT:
                    silent[one.program] = f"this kernel does not report {self._on}"
                else:
                    answers[one.program] = ReleaseAnswer("answered", (text,), text, one.is_good, one.reason)
        return Reading(answers, silent)

    def _try(self, name: str) -> Try:
        """Return what is tried on kernels of an architecture."""
        from harness.check.kernels import prepare
        from harness.util import architecture

        if name not in self._tries:
            made = prepare(self._plan, architecture.require(name))
            if made.mismatch:
                raise UsageError(f"{made.plan.path} cannot be tried: {made.mismatch}", hint=made.hint)
            self._tries[name] = made
        return self._tries[name]
