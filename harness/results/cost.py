"""What the verification of a program costs: the figures, and which of them rose.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

FIGURES = {
    "insns": "instructions that the verifier processed",
    "states": "states that it explored",
    "peak": "states that it kept at once at the most",
    "stack": "bytes of stack",
    "maps": "maps that the program uses",
    "xlated": "bytes of instructions after verification",
    "jited": "bytes of machine code",
    "usec": "microseconds of verification, on this machine",
}
"""The figures, and what they count; budgets, boundaries and comparisons name them."""

OF_MACHINE = "usec"
"""The figure that depends on the machine, so that it is not compared."""


def rises(before: Mapping[str, int], after: Mapping[str, int], percent: float) -> list[str]:
    """Return what costs more than before: "insns rose from 10 to 12".

    Args:
        before: The figures before.
        after: The figures now.
        percent: How much more still counts as equal.
    """
    return [f"{figure} rose from {old} to {new}" for figure, old, new in _more(before, after, percent)]


def falls(before: Mapping[str, int], after: Mapping[str, int], percent: float) -> list[str]:
    """Return what costs less than before; arguments as for :func:`rises`."""
    return [f"{figure} fell from {old} to {new}" for figure, new, old in _more(after, before, percent)]


def _more(low: Mapping[str, int], high: Mapping[str, int], percent: float) -> list[tuple[str, int, int]]:
    return [
        (figure, low[figure], value)
        for figure, value in high.items()
        if figure != OF_MACHINE and figure in low and value > low[figure] * (1 + percent / 100)
    ]
