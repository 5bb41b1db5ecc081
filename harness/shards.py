"""Divides the kernels of a run among machines, and writes the result for CI systems.

Pure: choices and figures in, shards and text out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.kernel.types import Choice


@dataclass(frozen=True)
class Shard:
    """The part of a run for one machine.

    Attributes:
        number: From 1 on.
        count: Number of shards.
        choices: Its kernels, in order of version.
        load: Their cost, in the unit of the costs; default: the number of kernels.
    """

    number: int
    count: int
    choices: tuple[Choice, ...]
    load: float

    @property
    def name(self) -> str:
        """Its number and the number of shards: "2/5"."""
        return f"{self.number}/{self.count}"

    @property
    def kernels(self) -> str:
        """Labels of its kernels, as text for the user."""
        return " ".join(choice.label for choice in self.choices)

    @property
    def lock(self) -> str:
        """Name of its lock file."""
        return f"shard-{self.number}.lock"


def share(choices: Sequence[Choice], count: int, costs: Mapping[str, float] | None = None) -> list[Shard]:
    """Divide kernels so that the longest shard is short: most expensive first, each to the least loaded shard.

    Args:
        choices: The kernels, in order of version.
        count: Shards, at least 1. There are never more shards than kernels: a kernel is not divided, because its boot
            costs most.
        costs: The cost of a kernel by its label; a kernel without a cost gets the average of the others. None: all cost
            the same.

    Returns:
        The shards; the same arguments always give the same shards.
    """
    count = min(count, len(choices))
    known = {label: cost for label, cost in (costs or {}).items() if cost > 0}
    usual = sum(known.values()) / len(known) if known else 1.0
    dear = sorted(
        ((known.get(choice.label, usual), place) for place, choice in enumerate(choices)),
        key=lambda pair: (-pair[0], pair[1]),
    )
    loads = [0.0] * count
    places: list[list[int]] = [[] for _ in range(count)]
    for cost, place in dear:
        least = loads.index(min(loads))
        loads[least] += cost
        places[least].append(place)
    # Shards are numbered by their first kernels, so that they are in order of version.
    order = sorted(range(count), key=lambda one: min(places[one]))
    return [
        Shard(number, count, tuple(choices[place] for place in sorted(places[one])), loads[one])
        for number, one in enumerate(order, 1)
    ]


def _entry(shard: Shard, folder: str) -> dict[str, str]:
    return {"shard": shard.name, "number": str(shard.number), "kernels": shard.kernels, "lock": f"{folder}{shard.lock}"}


def as_github(shards: Sequence[Shard], folder: str) -> str:
    """Return a matrix for `strategy.matrix` of GitHub Actions, in one line: `fromJSON(...)` reads it."""
    return json.dumps({"include": [_entry(shard, folder) for shard in shards]})


def as_gitlab(shards: Sequence[Shard], folder: str) -> str:
    """Return a child pipeline for GitLab whose job `shard` runs once for each shard.

    The job's variables are SHARD, NUMBER, KERNELS and LOCK. The hidden job `.shard` of
    `.gitlab/shard.yml`, which the pipeline includes, has its script. JSON is YAML.
    """
    matrix = [{name.upper(): value for name, value in _entry(shard, folder).items()} for shard in shards]
    return json.dumps(
        {
            "include": [{"local": "/.gitlab/shard.yml"}],
            "shard": {"extends": ".shard", "parallel": {"matrix": matrix}},
        },
        indent=1,
    )


def as_json(shards: Sequence[Shard], folder: str) -> str:
    """Return all facts about the shards."""
    return json.dumps(
        [
            {
                **_entry(shard, folder),
                "load": round(shard.load, 3),
                "choices": [
                    {
                        "label": choice.label,
                        "version": str(choice.version),
                        "provider": choice.provider,
                        "key": choice.key,
                        "flavour": choice.flavour,
                    }
                    for choice in shard.choices
                ],
            }
            for shard in shards
        ],
        indent=1,
    )


FORMATS: dict[str, Callable[[Sequence[Shard], str], str]] = {
    "github": as_github,
    "gitlab": as_gitlab,
    "json": as_json,
}
