"""`harness boundary` on made-up releases: what it runs, what it prints, and what `git bisect run` gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.boundary import git_run, runs
from harness.cli import main
from harness.kernel import catalog, lockfile
from harness.kernel.build import kbuild
from harness.kernel.providers.debian import DebianProvider
from harness.kernel.types import Choice
from harness.kernel.version import KernelVersion
from harness.results.types import FORMAT, VERSION
from harness.util import architecture, clang
from tests.needs import needs_program

CHANGELOG = """\
linux (6.12.{patch}-1) trixie; urgency=medium

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.12.{patch}
    - bpf: Something about inner maps
    - net: Something else

 -- Somebody <s@example.org>  Sat, 07 Nov 2026 09:40:59 +0100
"""


def choice(patch: int, series: int = 12) -> Choice:
    version = KernelVersion(6, series, patch)
    return Choice(str(version), version, "debian", f"{version}-cloud={version}-1", "cloud")


class Releases:
    """Stands in for pytest: a kernel answers with its place in a text, "?" for a machine that does not boot."""

    def __init__(self, choices: list[Choice], answers: str) -> None:
        self.choices = choices
        self.answers = dict(zip((one.label for one in choices), answers, strict=True))
        self.run: list[str] = []

    def __call__(self, argv: list[str]) -> tuple[int, str]:
        words = dict(word.split("=", 1) for word in argv if word.startswith("--") and "=" in word)
        [kernel] = lockfile.read(Path(words["--harness-kernel"].removeprefix("@")))
        self.run.append(kernel.label)
        answer = self.answers[kernel.label]
        if answer == "!":
            return 3, f"ERROR: {kernel.label}: it is not served\nno test was run"
        result = {"test": "t.py::test_inner_maps", "kernel": kernel.label, "run": "r", "outcome": "passed"}
        if answer == "?":
            result["outcome"], result["reason"] = "infrastructure", "BootError: no answer"
        record = {
            "format": FORMAT,
            "version": VERSION,
            "runs": [{"id": "r", "started": "now", "host": {"name": "h"}, "complete": True}],
            "kernels": [{"label": kernel.label, "version": str(kernel.version), "key": kernel.key}],
            "results": [result | {"observations": [{"sentence": "s", "observed": answer}], "setup": 4.0, "boot": 3.5}],
        }
        Path(words["--harness-record"]).write_text(json.dumps(record))
        return 0, "1 passed"


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Releases]:
    """Makes a series of releases that answer with the letters of a text."""

    def make(answers: str) -> Releases:
        made = Releases([choice(patch) for patch in range(10, 10 + len(answers))], answers)

        def resolve(self: object, selections: list[str], *, every: bool = False) -> list[Choice]:
            assert every
            return made.choices

        def changelog(self: DebianProvider, of: Choice, **_: object) -> str:
            assert self.architecture.name == of.architecture
            return "".join(CHANGELOG.format(patch=patch) for patch in range(of.version.patch, 9, -1))

        monkeypatch.setattr(catalog.Catalog, "resolve", resolve)
        monkeypatch.setattr("harness.kernel.providers.debian.DebianProvider.changelog", changelog)
        monkeypatch.setattr(runs, "_pytest", made)
        return made

    return make


Capture = pytest.CaptureFixture[str]


def test_releases_of_another_architecture_have_their_own_changelogs(
    releases: Callable[[str], Releases], capsys: Capture
) -> None:
    made = releases("AABB")
    made.choices = [replace(one, architecture="arm64") for one in made.choices]
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12:arm64"]) == 0
    assert "bpf: Something about inner maps" in capsys.readouterr().out


def test_releases_of_two_architectures_have_no_boundary(releases: Callable[[str], Releases], capsys: Capture) -> None:
    made = releases("AABB")
    made.choices[2:] = [replace(one, architecture="arm64") for one in made.choices[2:]]
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12", "--kernel=6.12:arm64"]) == 2
    assert "the releases are of several architectures: amd64, arm64" in capsys.readouterr().err
    assert made.run == []


def test_an_object_of_the_other_byte_order_has_no_boundary(
    releases: Callable[[str], Releases], capsys: Capture, tmp_path: Path
) -> None:
    needs_program("clang")
    releases("AABB")
    source = tmp_path / "x.bpf.c"
    source.write_text('#include "harness.h"\nSEC("socket") int p(void *ctx) { return 0; }\n')
    big = clang.build(source, wanted=architecture.require("s390x"))
    assert main(["boundary", str(big), "--on", "insns", "--kernel=6.12:arm64"]) == 2
    assert "cannot be tried: the object is big-endian, and arm64 little" in capsys.readouterr().err


def test_the_answer_names_both_releases_the_changes_between_and_the_boots(
    releases: Callable[[str], Releases], capsys: Capture
) -> None:
    made = releases("A" * 12 + "B" * 9)
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "t.py::test_inner_maps",
        "  6.12.10 to 6.12.21  A",
        "  6.12.22 to 6.12.30  B",
        "  15 of 21 releases were not run: those on either side answer alike, and a change there",
        "  and back again would not have been seen (--exhaustive runs them)",
        "",
        "  changed between 6.12.21 (debian 6.12.21-cloud=6.12.21-1)",
        "              and 6.12.22 (debian 6.12.22-cloud=6.12.22-1)",
        "    A -> B",
        "    of 2 changes in the package's changelog 1 concern BPF:",
        "      6.12.22-1  bpf: Something about inner maps",
        "    upstream: https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.12.22",
        "",
        "21 releases: 6 were run",
    ]
    assert len(made.run) == 6
    assert [line.split(" (")[0] for line in err.splitlines()[1:3]] == ["6.12.10: A", "6.12.30: B"]


def test_kernels_without_an_answer_are_stepped_over_and_named(
    releases: Callable[[str], Releases], capsys: Capture
) -> None:
    releases("AAA?!BBB")
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12"]) == 0
    out = capsys.readouterr().out
    assert "changed between 6.12.12 (debian" in out
    assert "and 6.12.15 (debian" in out
    assert "      6.12.13: BootError: no answer\n      6.12.14: 6.12.14: it is not served\n" in out


def test_where_nothing_changes_the_status_says_so(releases: Callable[[str], Releases], capsys: Capture) -> None:
    made = releases("A" * 9)
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12"]) == 1
    assert "  no boundary was found\n" in capsys.readouterr().out
    assert len(made.run) == 2
    made = releases("AAABBAAAA")
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12", "--exhaustive"]) == 0
    assert len(made.run) == 9


def test_where_no_kernel_answers_it_is_trouble(releases: Callable[[str], Releases], capsys: Capture) -> None:
    releases("?!?")
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12"]) == 3
    assert "6.12.11: 6.12.11: it is not served" in capsys.readouterr().err


def test_what_a_record_knows_is_not_run_again(
    releases: Callable[[str], Releases], capsys: Capture, tmp_path: Path
) -> None:
    made = releases("A" * 12 + "B" * 9)
    lock, record = tmp_path / "k.lock", tmp_path / "r.json"
    lockfile.write(lock, [made.choices[-1]], {})
    made([f"--harness-kernel=@{lock}", f"--harness-record={record}"])
    made.run.clear()
    assert main(["boundary", "t.py::test_inner_maps", "--kernel=6.12", f"--known={record}", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert made.choices[-1].label not in made.run
    assert found["known"] == ["6.12.30"]
    assert found["run"] == made.run
    [test] = found["tests"]
    [flip] = test["boundaries"]
    assert (flip["last"]["label"], flip["first"]["label"]) == ("6.12.21", "6.12.22")
    assert flip["changes"] == [{"revision": "6.12.22-1", "text": "bpf: Something about inner maps"}]
    # A record of other tests says nothing of this one.
    made.run.clear()
    main(["boundary", "other.py::test_x", "--kernel=6.12", f"--known={record}"])
    assert made.choices[-1].label in made.run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exhaustive", "--one-flip"], "contradict"),
        (["--good=ok"], "--good belongs to --git-run"),
        (["--build=minimal"], "--build belongs to --git-run"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["boundary", "t.py::test_x", "--kernel=6.12", *words]) == 2
    assert message in capsys.readouterr().err


def test_one_release_has_no_boundary(releases: Callable[[str], Releases], capsys: Capture) -> None:
    releases("A")
    assert main(["boundary", "t.py::test_x", "--kernel=6.12.10"]) == 2
    assert "is one release: 6.12.10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "output"),
    [
        (4, "ERROR: file or directory not found: t.py"),
        (2, "Interrupted: 1 error during collection"),
        (5, "no tests ran"),
    ],
)
def test_a_test_that_is_not_there_is_said_at_once(
    releases: Callable[[str], Releases], monkeypatch: pytest.MonkeyPatch, capsys: Capture, status: int, output: str
) -> None:
    releases("AAB")

    def fail(argv: list[str]) -> tuple[int, str]:
        words = dict(word.split("=", 1) for word in argv if word.startswith("--") and "=" in word)
        Path(words["--harness-record"]).write_text(json.dumps({"format": FORMAT, "version": VERSION}))
        return status, output

    monkeypatch.setattr(runs, "_pytest", fail)
    assert main(["boundary", "t.py::test_x", "--kernel=6.12"]) == 2
    assert output in capsys.readouterr().err


# git bisect


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Judges a made-up tree whose kernel answers with a letter."""

    def judge(answer: str, *words: str) -> int:
        one = choice(10)
        monkeypatch.setattr(git_run, "_of_tree", lambda *_: one)
        monkeypatch.setattr(runs, "_pytest", Releases([one], answer))
        return main(["boundary", "--git-run", "t.py::test_x", "--kernel=.", *words])

    return judge


def test_the_exit_status_for_git_bisect_is_good_bad_or_skip(tree: Callable[..., int]) -> None:
    assert tree("A") == 0
    assert tree("A", "--good=A") == 0
    assert tree("B", "--good=A") == 1
    assert tree("?") == 125
    assert tree("!") == 125


def test_a_mistake_ends_the_bisection(
    tree: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    assert tree("A", "--kernel=./two") == 255
    monkeypatch.undo()
    assert main(["boundary", "--git-run", "t.py::test_x", f"--kernel={tmp_path}"]) == 255
    assert "contains no kernel" in capsys.readouterr().err
    assert main(["boundary", "--git-run", "t.py::test_x", "--kernel=.", "--no-such-option"]) == 255

    def fail(argv: list[str]) -> tuple[int, str]:
        raise ValueError(argv)

    monkeypatch.setattr(git_run, "_of_tree", lambda *_: choice(10))
    monkeypatch.setattr(runs, "_pytest", fail)
    assert main(["boundary", "--git-run", "t.py::test_x", "--kernel=."]) == 255
    assert "ValueError" in capsys.readouterr().err


def test_a_commit_that_does_not_build_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    from harness.errors import BuildError

    def build(*_: Any, **__: Any) -> None:
        raise BuildError("make bzImage failed")

    monkeypatch.setattr(kbuild, "build", build)
    needs_program("git")
    words = ["boundary", "--git-run", "t.py::test_x", f"--kernel={tmp_path}", "--build=minimal"]
    assert main(words) == 255
    assert "is not a git repository with a commit checked out" in capsys.readouterr().err
    import subprocess

    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert main(words) == 125
    assert "this commit cannot be built: make bzImage failed" in capsys.readouterr().err


def test_an_objects_cost_is_what_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_program("clang")
    from harness.check import kernels
    from harness.check.results import Kind, Result, Verdict

    choices = [choice(patch) for patch in range(1, 9)]
    asked = []

    def check(_pool: object, one: Choice, asked_of: kernels.Try) -> list[Result]:
        assert asked_of.plan.stats
        asked.append(one.label)
        if one.version.patch == 4:
            return [Result(one.label, "x", "x", Kind.OBJECT, Verdict.LOST, "start", line="no answer")]
        cost = {"insns": 100 if one.version.patch < 6 else 900, "usec": one.version.patch}
        return [
            Result(one.label, "x", "x", Kind.OBJECT, Verdict.OK, "load"),
            Result(one.label, "x", "p", Kind.PROGRAM, Verdict.OK, "load", cost=cost),
        ]

    monkeypatch.setattr(kernels, "check", check)
    monkeypatch.setattr(catalog.Catalog, "resolve", lambda *_, **__: choices)
    source = tmp_path / "x.bpf.c"
    source.write_text('#include "harness.h"\nSEC("socket") int p(void *ctx) { return 0; }\n')
    assert main(["boundary", str(source), "--on", "insns", "--kernel", "6.12"]) == 0
    out = capsys.readouterr().out
    assert "changed between 6.12.5 " in out
    assert "100 insns -> 900 insns" in out
    assert len(asked) < len(choices)
    assert main(["boundary", str(source), "--on", "insns", "--kernel", "6.12", "--known", "x.json"]) == 2
    assert "not for an object" in capsys.readouterr().err
