"""What it says when one test comes to different ends through different loaders.

Pure. Imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

RAW = "raw"


def loader_differences(outcomes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each test that failed through some of its loaders and passed through others.

    The raw loader hands every command to the kernel as it is: what fails through it too is the kernel's doing, what
    passes through it and fails through a library is the library's.

    Args:
        outcomes: By test and loader: "passed", "failed" or "skipped".
    """
    lines = []
    for test, by_loader in outcomes.items():
        failed = sorted(loader for loader, outcome in by_loader.items() if outcome == "failed")
        passed = sorted(loader for loader, outcome in by_loader.items() if outcome == "passed")
        if not failed or not passed:
            continue
        if RAW in passed:
            blame = f"the kernel answers the plain system call as expected, so look at {' and '.join(failed)}"
        elif RAW in failed:
            blame = f"the plain system call fails; {' and '.join(passed)} hides what the kernel does"
        else:
            blame = "the loaders disagree; run it with --loader=raw to hear the kernel itself"
        lines.append(f"{test}: {', '.join(failed)} failed, {', '.join(passed)} passed: {blame}")
    return lines
