"""The figures of a benchmark: what was measured, its bars, and the ratios that matter. Pure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

BARS = {
    "clone_ready": 0.080,
    "isolated_test": 0.250,
    "forked_call": 0.025,
    "clone_rss": 90.0,
    "cold_boot": 3.5,
    "warm_pytest": 1.2,
    "exec_true": 0.6,
    "ledger": 0.030,
    "idle_plugin": 0.010,
    "check_input": 0.5,
    "check_one": 1.2,
    "check_many": 8.0,
}
"""What the project wants to stay below, in the figure's unit."""

RATIOS = (
    ("vng_pristine", "clone_ready"),
    ("vng_pristine", "isolated_test"),
    ("vng_pristine", "cold_boot"),
    ("vng_pristine", "exec_true"),
    ("cold_boot", "clone_ready"),
    ("clone_without_files", "clone_with_files"),
    ("plain_without", "plain_with"),
)
"""Figures whose medians are compared; larger is better."""

HEADER = ("figure", "median", "min", "max", "n", "bar", "what")
"""Names of the columns of :meth:`Figures.rows`."""


@dataclass
class Figure:
    """One thing that is measured.

    Attributes:
        name: Its name, stable.
        unit: "s" or "MiB".
        what: What it is, for the table.
        values: One a round.
    """

    name: str
    unit: str
    what: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of its values."""
        return statistics.median(self.values)

    def record(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 6),
            "min": round(min(self.values), 6),
            "max": round(max(self.values), 6),
            "n": len(self.values),
        }


class Figures:
    """All that was measured, in the order of its first time."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    def add(self, name: str, unit: str, what: str, value: float) -> None:
        """Keep one value.

        Args:
            name: The figure's name.
            unit: "s" or "MiB".
            what: What it is, for the table.
            value: What was measured, in this unit.
        """
        self._figures.setdefault(name, Figure(name, unit, what)).values.append(value)

    def timed(self, name: str, what: str, action: Callable[[], T]) -> T:
        """Keep how long something takes, and return what it returns.

        Args:
            name: The figure's name.
            what: What it is, for the table.
            action: What is timed.
        """
        started = time.perf_counter()
        result = action()
        self.add(name, "s", what, time.perf_counter() - started)
        return result

    def ratios(self) -> dict[str, float]:
        """Return the comparisons of :data:`RATIOS` whose figures were measured."""
        pairs = [pair for pair in RATIOS if self._figures.keys() >= set(pair)]
        return {f"{one} / {other}": self[one].median / self[other].median for one, other in pairs}

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table."""
        rows = []
        for figure in self._figures.values():
            cells = [shown(value, figure.unit) for value in (figure.median, min(figure.values), max(figure.values))]
            bar = BARS.get(figure.name)
            met = "" if bar is None else f"{'met' if figure.median <= bar else 'NOT MET'} (≤ {shown(bar, figure.unit)})"
            rows.append((figure.name, *cells, str(len(figure.values)), met, figure.what))
        return rows

    def record(self) -> dict[str, Any]:
        """Return the figures and ratios as one JSON object."""
        return {
            "figures": [figure.record() for figure in self._figures.values()],
            "ratios": [{"name": name, "value": round(value, 2)} for name, value in self.ratios().items()],
        }


def shown(value: float, unit: str) -> str:
    """Return a value for people.

    Args:
        value: The value.
        unit: Its unit: "s" or "MiB".
    """
    if unit == "s" and value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if unit == "s" else f"{value:.1f} {unit}"
