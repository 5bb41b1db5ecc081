"""The text for a test with different outcomes with different loaders.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

RAW = "raw"


def loader_differences(outcomes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each test that failed with some loaders and passed with others.

    The raw loader passes every command to the kernel unchanged: a failure with it comes from the kernel; a test that
    passes with it and fails with a library shows a problem of the library.

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
            blame = f"the plain system call fails; {' and '.join(passed)} hides the kernel's answer"
        else:
            blame = "the loaders disagree; run it with --loader=raw to see the kernel's own answer"
        lines.append(f"{test}: {', '.join(failed)} failed, {', '.join(passed)} passed: {blame}")
    return lines
