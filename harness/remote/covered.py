"""Lines of a test's functions that ran in the guest, for coverage.py where it measures the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any


def measuring() -> Any:
    """Return the coverage.Coverage that measures this process; None for none."""
    coverage = sys.modules.get("coverage")
    return coverage.Coverage.current() if coverage is not None and hasattr(coverage, "Coverage") else None


def add(coverage: Any, steps: Iterable[tuple[str, int, int]]) -> None:
    """Add steps from line to line to what was measured, in files that are measured anyhow.

    Args:
        coverage: What :func:`measuring` returned.
        steps: Files, and two lines each, as :class:`harness.guest.process.Steps` has them.
    """
    data = coverage.get_data()
    measured = {os.path.realpath(name): name for name in data.measured_files()}
    arcs: dict[str, set[tuple[int, int]]] = {}
    for file, last, line in steps:
        name = measured.get(os.path.realpath(file))
        if name is not None:
            arcs.setdefault(name, set()).add((last, line))
    if coverage.get_option("run:branch"):
        data.add_arcs(arcs)
    else:
        data.add_lines({name: {line for _, line in found if line > 0} for name, found in arcs.items()})
