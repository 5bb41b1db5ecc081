"""`harness boundary`: between which two releases a behaviour changed; and one step of `git bisect run`.

Runs pytest, one kernel at a time, and reads its run records. Imports kernels, records and the search below it, as they
are needed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import BuildError, HarnessError, InfrastructureError, UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.boundary.bisect import Found
    from harness.boundary.search import Answer, Boundaries, Reading
    from harness.kernel.catalog import Catalog
    from harness.kernel.changelog import Entry
    from harness.kernel.types import Choice

GOOD, BAD, CANNOT_TEST = 0, 1, 125
"""What `git bisect run` understands."""
ABORT = 255
"""What ends a `git bisect run`: without it, a word mistyped would make every commit bad."""

_FOUND, _NONE = 0, 1
_LINES = 8
"""Lines of a changelog that are printed without --all-changes."""


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `boundary`."""
    summary = "find between which two releases a behaviour changed"
    parser = subparsers.add_parser(
        "boundary",
        help=summary,
        description=summary[0].upper() + summary[1:] + ", by bisection over every release that can be had. Runs the "
        "test on the first and the last release of each series, then between those that answer differently. A kernel "
        "that cannot be had, booted or asked is stepped over. The exit status is 0 when a boundary was found, 1 when "
        "there is none, 3 when no kernel answered.",
        epilog="With --git-run, a step of `git bisect run`: the exit status is 0 (good), 1 (bad), 125 (this commit "
        "cannot be tested) or 255 (ends the bisection). git bisect run harness boundary --git-run TEST --kernel . "
        "--build minimal",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("test", metavar="CONTRACT|TEST", help="a contract's id, or a test as pytest is told of it")
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.git_run:
        return _git_run(arguments)
    for name, given in (("--build", arguments.build), ("--good", arguments.good)):
        if given is not None:
            raise UsageError(f"{name} belongs to --git-run", hint="`harness boundary --help` has an example")
    if arguments.exhaustive and arguments.one_flip:
        raise UsageError("--exhaustive and --one-flip contradict each other", expected="one of them, or neither")
    return _releases(arguments)


# releases


def _releases(arguments: argparse.Namespace) -> int:
    from harness.boundary.search import find
    from harness.kernel.catalog import Catalog

    catalog = Catalog(progress=_say)
    choices = catalog.resolve(arguments.kernel, every=True)
    if len(choices) < 2:
        raise UsageError(
            f"{arguments.kernel[0]!r} is one release: {choices[0].version}",
            expected="at least two, to find a boundary between",
            hint="name a series (6.12) or a range ('>=6.12,<7.2'); `harness kernels list SERIES` shows its releases",
        )
    asked = _Pytest(arguments.test, arguments.pytest)
    known = _known(arguments.known, choices, asked)
    _say(f"{len(choices)} releases, from {choices[0].version} to {choices[-1].version}")
    with tempfile.TemporaryDirectory(prefix="harness-boundary-") as folder:

        def oracle(position: int) -> Reading:
            began = time.monotonic()
            reading = asked.on_choice(choices[position], Path(folder))
            _say(f"{choices[position].label}: {_in_a_word(reading)} ({time.monotonic() - began:.0f} s)")
            return reading

        found = find(
            len(choices),
            oracle,
            groups=[choice.version.series for choice in choices],
            known=known,
            exhaustive=arguments.exhaustive,
            one_flip=arguments.one_flip,
        )
    changes = _changes(catalog, choices, found)
    if arguments.format == "json":
        print(json.dumps(_as_data(arguments.test, choices, found, known, changes), indent=1))
    else:
        for line in _as_text(choices, found, known, changes, every=arguments.all_changes):
            print(line)
    if not any(reading.answers for reading in found.readings.values()):
        raise InfrastructureError(
            f"no kernel gave an answer to {arguments.test}",
            expected="one at least that can be had and booted, and that the test is for",
            detail="\n".join(_reasons(choices, found.readings)[:12]),
        )
    return _FOUND if any(one.flips for one in found.found.values()) else _NONE


def _in_a_word(reading: Reading) -> str:
    texts = list(dict.fromkeys(answer.text for answer in reading.answers.values()))
    if len(reading.answers) == 1:
        return texts[0]
    if texts:
        return f"{len(reading.answers)} tests: " + ", ".join(texts)
    reasons = list(dict.fromkeys(reading.silent.values())) or ["no test was run"]
    return "no answer: " + "; ".join(reasons)


def _known(paths: Sequence[Path], choices: Sequence[Choice], asked: _Pytest) -> dict[int, Reading]:
    from harness.boundary.answers import reading_of
    from harness.results.file import read

    known = {}
    for path in paths:
        record = read(path)
        labels = {kernel.key: kernel.label for kernel in record.kernels}
        for position, choice in enumerate(choices):
            if choice.key in labels:
                reading = reading_of(record, labels[choice.key], contract=asked.contract, about=asked.means)
                if reading.answers:
                    known[position] = reading
    return known


class _Pytest:
    """Runs the tests in question on one kernel.

    Args:
        test: A contract's id, or what pytest is to be told.
        words: Further words for pytest.
    """

    def __init__(self, test: str, words: Sequence[str]) -> None:
        from harness.contracts import contracts

        self.contract = test if test in contracts() else ""
        self._test = test
        self._words = ["--pyargs", "harness.contracts", "-k", test] if self.contract else [test]
        self._words += words

    def means(self, test: str) -> bool:
        """Whether a test of a record is one of those in question."""
        if self.contract:
            return True
        # Ids in a record are as pytest prints them: relative to the root of the tests.
        name = self._test.rpartition("/")[2]
        rest = r"(\[|$)" if "::" in name else "::"
        return re.match(re.escape(name) + rest, test.rpartition("/")[2]) is not None

    def on_choice(self, choice: Choice, folder: Path) -> Reading:
        """Run them on a release."""
        from harness.kernel import lockfile

        lock = folder / "kernel.lock"
        lockfile.write(lock, [choice], {})
        return self.run(f"@{lock}", choice.label, folder)

    def run(self, selector: str, label: str, folder: Path) -> Reading:
        """Run them on what a selector names.

        Args:
            selector: Names one kernel.
            label: What it is called in the record; "" for whatever the one kernel in it is called.
            folder: Where the record may be written.

        Raises:
            UsageError: pytest finds no such test, or cannot read it.
        """
        from harness.boundary.answers import reading_of
        from harness.boundary.search import Reading
        from harness.errors import RecordError
        from harness.results.file import read

        path = folder / "record.json"
        path.unlink(missing_ok=True)
        argv = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--kernel={selector}", f"--record={path}"),
            *self._words,
        ]
        status, output = _pytest(argv)
        if status in _NOT_ABOUT_A_KERNEL or "error during collection" in output or "errors during collection" in output:
            raise UsageError(
                f"pytest cannot run {self._test}",
                expected="a contract's id, or a test as pytest is told of it: tests/test_x.py::test_y",
                detail=_tail(output),
            )
        try:
            record = read(path)
        except RecordError as error:
            return Reading(silent={"": _trouble(output) or error.what})
        labels = [kernel.label for kernel in record.kernels]
        reading = reading_of(record, label or (labels[0] if labels else ""), contract=self.contract)
        if not reading.answers and not reading.silent:
            if status == _NO_TESTS:
                raise UsageError(
                    f"no test that runs on a kernel is called {self._test}",
                    expected="a contract's id, or a test that uses one of the fixtures kernel, vm, guest, bpf",
                    detail=_tail(output),
                )
            return Reading(silent={"": _trouble(output) or f"pytest ended with status {status}"})
        return reading


_USAGE, _NO_TESTS = 4, 5
_NOT_ABOUT_A_KERNEL = (_USAGE,)


def _pytest(argv: Sequence[str]) -> tuple[int, str]:
    """Run pytest; return its exit status and what it printed. It is told to end when this process is."""
    from harness.util.proc import log, quote

    log.info("+ %s", quote(argv))
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            # It ends its guests and removes their folders.
            process.terminate()
            process.wait()
            raise
    return process.returncode, output


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-15:])


def _trouble(output: str) -> str:
    """Return the line of pytest's output that says why it ran no test."""
    return next((line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")), "")


# what came between


Changes = dict[tuple[int, int], tuple[int, list["Entry"], str]]
"""For two positions: how many changes the package names, those of BPF, and why there are none."""


def _changes(catalog: Catalog, choices: Sequence[Choice], found: Boundaries) -> Changes:
    from harness.kernel.changelog import between, relevant

    changes: Changes = {}
    for test, one in found.found.items():
        for flip in one.flips:
            pair = (flip.last, flip.first)
            if pair in changes:
                continue
            last, first = choices[flip.last], choices[flip.first]
            if last.version.series != first.version.series:
                series = "{}.{}".format(*first.version.series)
                changes[pair] = (0, [], f"{series} is another series: no changelog lists all that came with it")
                continue
            text = None
            note = ""
            if first.provider == catalog.debian.name:
                try:
                    text = catalog.debian.changelog(first, progress=_say)
                except HarnessError as error:
                    note = f"the changelog cannot be had: {error.what}"
            entries = between(text, last.version, first.version) if text else []
            if not text:
                note = note or f"the packages of {first.version} ship no changelog"
            words = re.findall(r"[A-Za-z0-9]+", test.rpartition("::")[2].replace("_", " "))
            changes[pair] = (len(entries), relevant(entries, words), note)
    return changes


def _upstream(last: Choice, first: Choice) -> str:
    """Return where upstream lists what came between two point releases of a series; "" across series."""
    if last.version.series != first.version.series:
        return ""
    series = "{}.{}".format(*first.version.series)
    numbers = [number for number in (last.version.patch + 1, first.version.patch) if number]
    where = f"https://www.kernel.org/pub/linux/kernel/v{first.version.major}.x/ChangeLog-{series}."
    return " to ".join(dict.fromkeys(f"{where}{number}" for number in numbers))


# printing


def _name(choice: Choice) -> str:
    return f"{choice.version} ({choice.provider} {choice.key})"


def _as_text(
    choices: Sequence[Choice],
    found: Boundaries,
    known: Mapping[int, Reading],
    changes: Changes,
    *,
    every: bool,
) -> list[str]:
    lines: list[str] = []
    for test, one in sorted(found.found.items()):
        lines += [*([""] if lines else []), test, *_stretches(choices, one)]
        lines += _gaps(choices, one)
        for flip in one.flips:
            last, first = choices[flip.last], choices[flip.first]
            lines += ["", f"  changed between {_name(last)}", f"              and {_name(first)}"]
            lines.append(f"    {flip.before.text} -> {flip.after.text}")
            lines += [f"    {line}" for line in _wrapped(flip.after.reason or flip.before.reason)]
            if last.flavour != first.flavour:
                lines.append(f"    Their configurations differ too: {last.flavour} and {first.flavour}.")
            if flip.without_answer:
                between = [
                    f"{choices[position].label}: {found.readings[position].why(test)}"
                    for position in flip.without_answer
                ]
                lines += ["    No answer from those between:", *(f"      {line}" for line in between)]
            lines += [f"    {line}" for line in _changelog(*changes[flip.last, flip.first], every=every)]
            if where := _upstream(last, first):
                lines.append(f"    upstream: {where}")
        if not one.flips:
            lines.append("  no boundary was found")
    return [*lines, *([""] if lines else []), _count(choices, found, known)]


def _stretches(choices: Sequence[Choice], one: Found[Answer]) -> list[str]:
    """Return a line for each run of releases that answer alike."""
    answered = [(position, answer) for position, answer in one.answers.items() if answer is not None]
    rows: list[tuple[int, int, Answer]] = []
    for position, answer in answered:
        if rows and rows[-1][2] == answer:
            rows[-1] = (rows[-1][0], position, answer)
        else:
            rows.append((position, position, answer))
    spans = [" to ".join(dict.fromkeys((choices[a].label, choices[b].label))) for a, b, _ in rows]
    width = max((len(span) for span in spans), default=0)
    return [f"  {span:<{width}}  {row[2].text}" for span, row in zip(spans, rows, strict=True)]


def _gaps(choices: Sequence[Choice], one: Found[Answer]) -> list[str]:
    unseen = sum(1 for position in range(len(choices)) if position not in one.answers)
    if not unseen:
        return []
    return [
        f"  {unseen} of {len(choices)} releases were not run: those on either side answer alike, and a change there",
        "  and back again would not have been seen (--exhaustive runs them)",
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110)


def _changelog(count: int, entries: Sequence[Entry], note: str, *, every: bool) -> list[str]:
    if note:
        return [note]
    if not entries:
        return [f"the package's changelog names {count} changes between them, none of BPF"]
    order = ", the likeliest first" if len(entries) > 1 else ""
    lines = [f"of {count} changes in the package's changelog {len(entries)} concern BPF{order}:"]
    shown = entries if every else entries[:_LINES]
    lines += [f"  {entry.revision}  {textwrap.shorten(entry.text, 150, placeholder=' ...')}" for entry in shown]
    if len(shown) < len(entries):
        lines.append(f"  and {len(entries) - len(shown)} more (--all-changes)")
    return lines


def _count(choices: Sequence[Choice], found: Boundaries, known: Mapping[int, Reading]) -> str:
    run = [reading for position, reading in found.readings.items() if position not in known]
    booted = sum(reading.booted for reading in run)
    parts = [f"{len(choices)} releases: {len(run)} were run, which took {booted} boot{'' if booted == 1 else 's'}"]
    if booted < len(run):
        parts.append("the others have a machine that an earlier run saved, or did not come to a boot")
    if known:
        parts.append(f"{len(known)} were known from records")
    return "; ".join(parts)


def _reasons(choices: Sequence[Choice], readings: Mapping[int, Reading]) -> list[str]:
    return [
        f"{choices[position].label}: " + "; ".join(dict.fromkeys(reading.silent.values()))
        for position, reading in sorted(readings.items())
        if not reading.answers
    ]


def _as_data(
    test: str, choices: Sequence[Choice], found: Boundaries, known: Mapping[int, Reading], changes: Changes
) -> dict[str, Any]:
    def kernel(position: int) -> dict[str, str]:
        one = choices[position]
        return {"label": one.label, "version": str(one.version), "provider": one.provider, "key": one.key}

    def answer(one: Answer) -> dict[str, Any]:
        return {"outcome": one.outcome, "observed": [json.loads(text) for text in one.observed], "reason": one.reason}

    run = [position for position in found.readings if position not in known]
    return {
        "test": test,
        "releases": [kernel(position) for position in range(len(choices))],
        "run": [choices[position].label for position in run],
        "boots": sum(found.readings[position].booted for position in run),
        "known": [choices[position].label for position in sorted(known)],
        "silent": {
            choices[position].label: reading.silent
            for position, reading in sorted(found.readings.items())
            if reading.silent
        },
        "tests": [
            {
                "test": name,
                "answers": {
                    choices[position].label: answer(one) for position, one in result.answers.items() if one is not None
                },
                "boundaries": [
                    {
                        "last": kernel(flip.last),
                        "first": kernel(flip.first),
                        "before": answer(flip.before),
                        "after": answer(flip.after),
                        "without_answer": [choices[position].label for position in flip.without_answer],
                        "changes": [
                            {"revision": entry.revision, "text": entry.text}
                            for entry in changes[flip.last, flip.first][1]
                        ],
                        "upstream": _upstream(choices[flip.last], choices[flip.first]),
                    }
                    for flip in result.flips
                ],
                "assumed_alike": [[choices[one].label for one in pair] for pair in result.assumed],
            }
            for name, result in sorted(found.found.items())
        ],
    }


# git bisect


def _git_run(arguments: argparse.Namespace) -> int:
    """Judge the tree in --kernel; whatever says nothing of it ends the bisection, or skips the commit."""
    try:
        if len(arguments.kernel) != 1:
            raise UsageError("--git-run takes one kernel", expected="the tree that git bisect checks out: --kernel .")
        asked = _Pytest(arguments.test, arguments.pytest)
        tree = Path(arguments.kernel[0]).expanduser().absolute()
        try:
            choice = _built(tree, arguments.build) if arguments.build is not None else _of_tree(tree)
        except BuildError as error:
            _say(f"harness: this commit cannot be built: {error}")
            return CANNOT_TEST
        with tempfile.TemporaryDirectory(prefix="harness-boundary-") as folder:
            reading = asked.on_choice(choice, Path(folder))
    except HarnessError as error:
        _say(f"harness: error: {error}")
        return ABORT
    except Exception:  # noqa: BLE001 - Python would end with status 1, and the commit be taken for bad
        traceback.print_exc()
        return ABORT
    _say(_in_a_word(reading))
    if not reading.answers:
        return CANNOT_TEST
    if arguments.good is not None:
        good = all(answer.text == arguments.good for answer in reading.answers.values())
    else:
        good = all(answer.good for answer in reading.answers.values())
    return GOOD if good else BAD


def _of_tree(tree: Path) -> Choice:
    """Return the kernel that was built in a tree."""
    from harness.kernel.catalog import Catalog

    return Catalog(progress=_say).local.choose(tree)


def _built(tree: Path, flavour: str) -> Choice:
    """Build the commit that is checked out in a tree.

    Raises:
        BuildError: It does not build: another commit may.
        UsageError: It is no git repository with a kernel tree.
    """
    from harness import needs
    from harness.kernel.build import kbuild
    from harness.util import proc

    git = needs.program("git")
    asked = proc.run([git, "-C", tree, "rev-parse", "--verify", "HEAD"], timeout=60)
    if asked.status != 0:
        raise UsageError(
            f"{tree} is no git repository with a commit checked out",
            expected="the tree that git bisect checks out",
            detail=asked.tail(),
        )
    commit = asked.stdout.strip()
    built = kbuild.build(tree, flavour, origin=f"commit {commit} of {tree}", revision=commit, progress=_say)
    return kbuild.choice_of(built.kernel.version, flavour, commit)
