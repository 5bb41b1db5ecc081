"""Configuration trials by building: kernels without options that contracts could look through, several at a time.

Each kernel is the minimal flavour without a set of options. All are built in one folder, so that a build compiles only
what the set changes; a kernel that was built is kept.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.kernel.build import kbuild, kconfig
from harness.kernel.types import Progress
from harness.util import cache

OPTIONS = tuple(
    """
    BPF_EVENTS BPF_JIT BPF_LSM BPF_STREAM_PARSER
    CGROUPS CGROUP_BPF CGROUP_PERF CGROUP_PIDS CGROUP_SCHED MEMCG
    NAMESPACES NET_NS USER_NS
    KPROBES KPROBE_EVENTS UPROBES FTRACE FTRACE_SYSCALLS FUNCTION_TRACER DYNAMIC_FTRACE PERF_EVENTS STACKTRACE
    KALLSYMS KALLSYMS_ALL DEBUG_INFO_BTF DEBUG_FS IKCONFIG PROC_SYSCTL
    INET IPV6 PACKET NET_SCHED NET_CLS_ACT NET_CLS_BPF NET_SCH_INGRESS LWTUNNEL LWTUNNEL_BPF VETH DUMMY XDP_SOCKETS
    SECCOMP SECURITY COREDUMP EVENTFD FHANDLE MEMBARRIER DETECT_HUNG_TASK
    """.split()
)
"""What is taken away, without "CONFIG_"."""

FIRST = tuple(
    "BPF_EVENTS BPF_JIT CGROUPS FTRACE IKCONFIG IPV6 KALLSYMS_ALL KPROBES NAMESPACES NET_SCHED SECCOMP".split()
)
"""The first set: what a small configuration made by hand lacks."""

_CANDIDATES, _SIZE = 200, len(FIRST)
_LACKS = re.compile(r" lacks (\w+): .*; it was built without (.+)$")


def option_sets(number: int, seed: int = 1) -> list[tuple[str, ...]]:
    """Return sets of options to take away, the same for each seed; a longer list begins like a shorter one.

    Each set is the one of some random ones that has most pairs of options which no earlier set has.
    """
    dice = random.Random(seed)  # noqa: S311 - the same sets each time
    found = [FIRST]
    seen = pairs(found)
    while len(found) < number:
        drawn = [tuple(sorted(dice.sample(OPTIONS, _SIZE))) for _ in range(_CANDIDATES)]
        found.append(max(drawn, key=lambda one: len(pairs([one]) - seen)))
        seen |= pairs([found[-1]])
    return found[:number]


def pairs(sets: Iterable[Sequence[str]]) -> set[tuple[str, str]]:
    """Return all pairs of options that are in one set together."""
    return {pair for one in sets for pair in itertools.combinations(sorted(one), 2)}


def without(settings: Iterable[kconfig.Setting], names: Sequence[str]) -> list[kconfig.Setting]:
    """Return the settings of a flavour with these options turned off."""
    kept = [setting for setting in settings if setting.symbol not in names]
    return [*kept, *(kconfig.Setting(name, "n") for name in names)]


def still_on(config: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return the options of a set that a finished configuration has all the same: something else selects them."""
    return [name for name in names if name in config]


@dataclasses.dataclass(frozen=True)
class BuiltKernel:
    """A kernel that was built without a set of options.

    Attributes:
        folder: Where it is; a selector of it.
        still_on: Options of the set that it has all the same.
    """

    folder: Path
    still_on: Sequence[str]


def kernel(tree: Path, names: Sequence[str], work: Path, progress: Progress) -> BuiltKernel:
    """Return the kernel without these options, built when it is not there.

    Args:
        tree: The source tree; it is not written to.
        names: Options, without "CONFIG_".
        work: Where all kernels of this tree are built and kept.
        progress: Called with a line of text for each step.

    Raises:
        KernelFileError: The tree is not a clean, whole kernel tree.
        BuildError: The build failed, or the harness cannot use the kernel.
        ToolMissing: A program that builds need is missing.
        CacheError: The folder cannot be written.
    """
    place = work / f"without-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"
    if not place.exists():
        version, compiler, asked = kbuild.plan(tree, "minimal", "", progress)
        job = kbuild.Job(tree, work / "build", compiler, os.cpu_count() or 1, progress, keep=True)
        with cache.disk_errors(work):
            job.output.mkdir(parents=True, exist_ok=True)
            job.log.unlink(missing_ok=True)
        job.configure(version, "minimal", without(asked, names))
        job.make(job.image.name, seconds=4 * 3600)
        with cache.disk_errors(work):
            made = work / "made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            job.collect(made, "minimal")
            made.rename(place)
    config = kconfig.parse_config((place / "config").read_text())
    return BuiltKernel(place, still_on(config, names))


def by_option(not_asked: Iterable[Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return, for each option, what was not asked without it: the number of contracts by capability.

    Args:
        not_asked: For each trial, the number of contracts by reason.
    """
    found: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for reasons in not_asked:
        for reason, count in reasons.items():
            if match := _LACKS.search(reason):
                for option in re.findall(r"CONFIG_(\w+)", match[2]):
                    found[option][match[1]] = max(count, found[option].get(match[1], 0))
    return dict(found)
