"""Shares the kernels of a run out among machines, and says so in the words of CI systems.

Pure: choices and figures in, shards and text out. Imports :mod:`harness.kernel.types`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.kernel.types import Choice


@dataclass(frozen=True)
class Shard:
    """The part of a run that one machine takes.

    Attributes:
        number: From 1 on.
        count: How many shards there are.
        choices: Its kernels, in order of version.
        load: What they cost, in the unit of the costs; by default the number of kernels.
    """

    number: int
    count: int
    choices: tuple[Choice, ...]
    load: float

    @property
    def name(self) -> str:
        """Its number among all: "2/5"."""
        return f"{self.number}/{self.count}"

    @property
    def kernels(self) -> str:
        """Labels of its kernels, for people."""
        return " ".join(choice.label for choice in self.choices)

    @property
    def lock(self) -> str:
        """Name of its lock file."""
        return f"shard-{self.number}.lock"


def share(choices: Sequence[Choice], count: int, costs: Mapping[str, float] | None = None) -> list[Shard]:
    """Share kernels out so that the longest shard is short: the dearest first, each to whoever has least.

    Args:
        choices: The kernels, in order of version.
        count: Shards, at least 1. There are never more of them than kernels: a kernel stays whole, since its boot is
            what costs most.
        costs: What a kernel costs, by its label; one that is not named costs what the others do on average. None: all
            cost the same.

    Returns:
        The shards; the same for the same arguments, wherever they are made.
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
    # Shards are numbered as their first kernels stand, so that they read in order of version.
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

    The job's variables are SHARD, NUMBER, KERNELS and LOCK. What it does is in the hidden job `.shard` of the file
    `.gitlab/shard.yml`, which the pipeline includes. JSON is YAML.
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
    """Return all there is to say of the shards."""
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
