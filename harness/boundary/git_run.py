"""One step of `git bisect run`: is the kernel of the commit that is checked out good or bad."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import needs
from harness.boundary.runs import TestsInQuestion
from harness.errors import BuildError, HarnessError, UsageError
from harness.kernel.build import kbuild
from harness.kernel.catalog import Catalog
from harness.kernel.types import Choice
from harness.util import proc

GOOD, BAD, CANNOT_TEST = 0, 1, 125
"""What `git bisect run` understands."""
ABORT = 255
"""What ends a `git bisect run`: without it, a mistyped word would make every commit bad."""

Say = Callable[[str], None]


def step(
    test: str, kernels: Sequence[str], *, words: Sequence[str], build: str | None, good: str | None, say: Say
) -> int:
    """Judge a kernel tree and return the exit status for `git bisect run`.

    Whatever says nothing about the commit ends the bisection, or skips the commit.

    Args:
        test: A contract's id, or a test as pytest takes it.
        kernels: The tree, alone.
        words: Further words for pytest.
        build: The flavour to build the tree in; None for a tree that is built.
        good: What is observed on a good kernel; None where the test passes on one.
        say: Prints a line for people.
    """
    try:
        if len(kernels) != 1:
            raise UsageError("--git-run takes one kernel", expected="the tree that git bisect checks out: --kernel .")
        asked = TestsInQuestion(test, words)
        tree = Path(kernels[0]).expanduser().absolute()
        try:
            choice = _built(tree, build, say) if build is not None else _of_tree(tree, say)
        except BuildError as error:
            say(f"harness: this commit cannot be built: {error}")
            return CANNOT_TEST
        with tempfile.TemporaryDirectory(prefix="harness-boundary-") as folder:
            reading = asked.run_on(choice, Path(folder))
    except HarnessError as error:
        say(f"harness: error: {error}")
        return ABORT
    except Exception:  # noqa: BLE001 - Python would end with status 1, and the commit be taken for bad
        traceback.print_exc()
        return ABORT
    say(reading.text)
    if not reading.answers:
        return CANNOT_TEST
    return GOOD if all(one.good if good is None else one.text == good for one in reading.answers.values()) else BAD


def _of_tree(tree: Path, say: Say) -> Choice:
    """Return the kernel that was built in a tree."""
    return Catalog(progress=say).local.choose(tree)


def _built(tree: Path, flavour: str, say: Say) -> Choice:
    """Build the commit that is checked out in a tree.

    Raises:
        BuildError: It does not build: another commit may.
        UsageError: The tree is not a git repository with a commit checked out.
    """
    git = needs.program("git")
    asked = proc.run([git, "-C", tree, "rev-parse", "--verify", "HEAD"], timeout=60)
    if asked.status != 0:
        raise UsageError(
            f"{tree} is not a git repository with a commit checked out",
            expected="the tree that git bisect checks out",
            detail=asked.tail(),
        )
    commit = asked.stdout.strip()
    built = kbuild.build(tree, flavour, origin=f"commit {commit} of {tree}", revision=commit, progress=say)
    return kbuild.choice_of(built.kernel.version, flavour, commit)
