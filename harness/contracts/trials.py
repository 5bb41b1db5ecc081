"""Configuration trials: the contracts on one kernel from which something was taken away, alone and in random sets.

Whatever is missing, no contract fails: it is asked, or it is not asked with the reason. Each trial is a run of pytest
with a record; records are kept until the harness changes, so that trials go on where they were ended.

    scripts/config-trials --run-time 60 --kernel 6.1
    scripts/config-trials --build 20 --source ~/linux-6.1
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.contracts import built, taken
from harness.errors import HarnessError, RecordError
from harness.kernel.build import kbuild
from harness.results.file import read
from harness.results.outcomes import Outcome
from harness.results.types import RunRecord
from harness.util import cache, tables
from harness.util.proc import die_with_parent

_NET_ADMIN, _SYS_PTRACE, _SYS_ADMIN_LIKE, _SYS_RESOURCE, _SYSLOG, _PERFMON, _BPF = 12, 19, (16, 23, 27), 24, 34, 38, 39

THINGS: Mapping[str, str] = {
    # File systems that are not mounted.
    "tracefs": "harness.without=tracefs",
    "debugfs": "harness.without=debugfs",
    "bpffs": "harness.without=bpf",
    "cgroups": "harness.without=cgroup2",
    # Files and folders that are not there.
    "proc_sys": "harness.hide=/proc/sys",
    "vmallocinfo": "harness.hide=/proc/vmallocinfo",
    "meminfo": "harness.hide=/proc/meminfo",
    "kallsyms": "harness.hide=/proc/kallsyms",
    "btf": "harness.hide=/sys/kernel/btf",
    "perf_devices": "harness.hide=/sys/bus/event_source",
    "rcu_settings": "harness.hide=/sys/kernel/rcu_expedited",
    # Settings.
    "user_namespaces": "harness.set=/proc/sys/user/max_user_namespaces:0",
    "mount_namespaces": "harness.set=/proc/sys/user/max_mnt_namespaces:0",
    "cgroup_namespaces": "harness.set=/proc/sys/user/max_cgroup_namespaces:0",
    "compiler": "harness.set=/proc/sys/net/core/bpf_jit_enable:0",
    "compiler_hardened": "harness.set=/proc/sys/net/core/bpf_jit_harden:2",
    "kernel_addresses": "harness.set=/proc/sys/kernel/kptr_restrict:2",
    "perf_for_users": "harness.set=/proc/sys/kernel/perf_event_paranoid:3",
    "unprivileged_for_good": "harness.set=/proc/sys/kernel/unprivileged_bpf_disabled:1",
    "tracing_on": "harness.set=/sys/kernel/tracing/tracing_on:0",
    "all_expedited": "rcupdate.rcu_expedited=1",
    "none_expedited": "rcupdate.rcu_normal=1",
    "function_tracing": "harness.set=/proc/sys/kernel/ftrace_enabled:0",
    "kprobe_optimization": "harness.set=/proc/sys/debug/kprobes-optimization:0",
    # Parameters of the kernel.
    "second_cpu": "maxcpus=1",
    "smp": "nosmp",
    "memory_cgroups": "cgroup_disable=memory",
    "address_randomisation": "nokaslr",
    "mitigations": "mitigations=off",
    "clean_memory": "init_on_alloc=1 init_on_free=1",
    "lockdown_integrity": "lockdown=integrity",
    "lockdown_confidentiality": "lockdown=confidentiality",
    "audit": "audit=0",
    "ipv6": "ipv6.disable=1",
    # Capabilities of every process.
    "cap_net_admin": f"harness.drop={_NET_ADMIN}",
    "cap_sys_ptrace": f"harness.drop={_SYS_PTRACE}",
    "cap_sys_resource": f"harness.drop={_SYS_RESOURCE}",
    "cap_syslog": f"harness.drop={_SYSLOG}",
    "cap_perfmon": f"harness.drop={_PERFMON}",
    "cap_bpf": f"harness.drop={_BPF}",
    "cap_others": f"harness.drop={','.join(map(str, _SYS_ADMIN_LIKE))}",
}
"""What can be taken away: a name, and the words for the kernel's command line."""

_LISTS = ("harness.without=", "harness.hide=", "harness.set=", "harness.drop=")

ORDINARY = (Outcome.PASSED, Outcome.UNSUPPORTED)
"""How the test of a contract may end whatever is missing."""


def trials(number: int, seed: int = 1) -> list[tuple[str, ...]]:
    """Return what to take away in each of a number of trials: each thing alone, then random sets of two to six."""
    dice = random.Random(seed)  # noqa: S311 - the same sets each time
    alone: list[tuple[str, ...]] = [(name,) for name in THINGS]
    found = alone[:number]
    while len(found) < number:
        names = tuple(sorted(dice.sample(sorted(THINGS), dice.randint(2, 6))))
        if names not in found:
            found.append(names)
    return found


def words(names: Sequence[str]) -> str:
    """Return the words for the kernel's command line that take all of these away."""
    lists: dict[str, list[str]] = collections.defaultdict(list)
    plain = []
    for name in names:
        start = next((one for one in _LISTS if THINGS[name].startswith(one)), None)
        if start is None:
            plain.append(THINGS[name])
        else:
            lists[start].append(THINGS[name].removeprefix(start))
    return " ".join([*(f"{start}{','.join(values)}" for start, values in lists.items()), *plain])


@dataclass(frozen=True)
class ConfigTrial:
    """What a trial has shown.

    Attributes:
        names: What was taken away.
        asked: Number of contracts that were asked.
        not_asked: Number of contracts that were not asked, by reason.
        failures: Tests that ended otherwise, with how and why.
    """

    names: tuple[str, ...]
    asked: int
    not_asked: Mapping[str, int]
    failures: tuple[str, ...]


def judged(names: tuple[str, ...], record: RunRecord) -> ConfigTrial:
    """Return what the record of a trial shows."""
    seen = [one for result in record.results for one in result.observations]
    reasons = collections.Counter(one.note for one in seen if not one.was_asked)
    failures = [
        f"{result.test}: {result.outcome.value}: {result.reason}"
        for result in record.results
        if result.outcome not in ORDINARY
    ]
    return ConfigTrial(names, sum(one.was_asked for one in seen), reasons, tuple(failures))


def run(kernel: str, names: tuple[str, ...], record: Path, share: int, select: Sequence[str]) -> None:
    """Ask the contracts of a kernel from which these are taken away, and write the record."""
    environment = {**os.environ, taken.VARIABLE: words(names), taken.SHARE: str(share)}
    _pytest(names, record, ["-p", "harness.contracts.taken", f"--kernel={kernel}"], select, environment)


def _pytest(
    names: Sequence[str], record: Path, arguments: list[str], select: Sequence[str], environment: Mapping[str, str]
) -> None:
    log = record.with_suffix(".log")
    record.unlink(missing_ok=True)  # that of an earlier trial must not speak for this one
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    command += ["--pyargs", *(select or ["harness.contracts"]), f"--record={record}"]
    with log.open("w") as output:
        subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
            preexec_fn=die_with_parent,
        )
    if not record.exists():
        raise RecordError(
            f"the trial without {', '.join(names)} wrote no record",
            expected="a run of pytest",
            hint=f"read {log}",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials and print, for each thing, what was not asked without it. The exit status is 1 when one failed."""
    parser = argparse.ArgumentParser(prog="scripts/config-trials", description=__doc__.partition("\n")[0])
    parser.add_argument("--run-time", type=int, default=60, metavar="N", help="number of trials (default: 60)")
    parser.add_argument("--kernel", default="6.1", help="a selector of one kernel (default: 6.1)")
    parser.add_argument("--seed", type=int, default=1, help="draws other random sets")
    parser.add_argument("--share", type=int, default=20, help="of contracts that need no part, ask one of so many")
    parser.add_argument("--only", nargs="+", choices=THINGS, metavar="THING", help="one trial, without all of these")
    parser.add_argument("--again", action="store_true", help="do not go on from trials that were done")
    parser.add_argument("--build", type=int, metavar="N", help="build so many kernels without options in place of that")
    parser.add_argument("--source", type=Path, metavar="TREE", help="with --build: the source tree")
    parser.add_argument("--first", type=int, default=1, metavar="K", help="with --build: begin with the K-th of them")
    parser.add_argument("select", nargs="*", help="modules in place of harness.contracts")
    arguments = parser.parse_args(argv)
    if (arguments.build is None) != (arguments.source is None):
        parser.error("--build and --source belong together: --build 20 --source TREE")
    if arguments.first != 1 and not 1 <= arguments.first <= (arguments.build or 0):
        parser.error(f"--first {arguments.first} is none of the kernels that --build N builds")
    try:
        return _with_builds(arguments) if arguments.build is not None else _at_run_time(arguments)
    except HarnessError as error:
        print(f"config-trials: {error}", file=sys.stderr)
        return 3


def _with_builds(arguments: argparse.Namespace) -> int:
    tree = arguments.source.expanduser().absolute()
    folder = _folder(f"built-{kbuild.tree_version(tree)}")
    digest, done = _digest(), []
    sets = built.option_sets(arguments.build, arguments.seed)[arguments.first - 1 :]
    for number, names in enumerate(sets, arguments.first):
        kernel = built.kernel(tree, names, folder, lambda line: print(line, file=sys.stderr))
        if kernel.still_on:
            print(f"  on all the same: {', '.join(kernel.still_on)}", file=sys.stderr)
        record = folder / f"{kernel.folder.name}-{_short(repr((arguments.select, digest)))}.json"
        if arguments.again or not _complete(record):
            _pytest(names, record, [f"--kernel={kernel.folder}"], arguments.select, os.environ)
        done.append(judged(names, read(record)))
        _say(done[-1], f"{number}/{arguments.build}")
    _print(done)
    lacking = built.by_option(one.not_asked for one in done)
    rows = []
    for option in sorted({*built.OPTIONS, *lacking}):
        what = ", ".join(f"{name} ({count})" for name, count in sorted(lacking.get(option, {}).items()))
        rows.append([option, str(sum(option in one for one in sets)), what])
    print("\n".join(tables.lines(rows, header=("option", "sets", "not asked without it"), right=("sets",))))
    return int(any(one.failures for one in done))


def _at_run_time(arguments: argparse.Namespace) -> int:
    sets = [tuple(arguments.only)] if arguments.only else trials(arguments.run_time, arguments.seed)
    done = list(_all(sets, arguments))
    _print(done)
    for one in (one for one in done if len(one.names) == 1 or arguments.only):
        for reason, count in sorted(one.not_asked.items()):
            if " lacks " in reason:
                print(f"{', '.join(one.names)}: {count}: {reason}")
    return int(any(one.failures for one in done))


def _print(done: Sequence[ConfigTrial]) -> None:
    rows = [
        [", ".join(one.names), *map(str, (one.asked, sum(one.not_asked.values()), len(one.failures)))] for one in done
    ]
    header = ("without", "asked", "not asked", "failed")
    print("\n".join(tables.lines(rows, header=header, right=header[1:])))


def _say(trial: ConfigTrial, number: str) -> None:
    print(
        f"{number} without {', '.join(trial.names)}: {trial.asked} asked, "
        f"{sum(trial.not_asked.values())} not asked, {len(trial.failures)} failed",
        file=sys.stderr,
    )
    for failure in trial.failures:
        print(f"  {failure}", file=sys.stderr)


def _folder(name: str) -> Path:
    folder = cache.cache_root() / "config-trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _complete(record: Path) -> bool:
    return record.exists() and read(record).complete


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _all(sets: Sequence[tuple[str, ...]], arguments: argparse.Namespace) -> Iterator[ConfigTrial]:
    folder = _folder(arguments.kernel.replace("/", "_"))
    digest = _digest()
    for number, names in enumerate(sets, 1):
        record = folder / f"{_short(repr((words(names), arguments.share, arguments.select, digest)))}.json"
        if arguments.again or not _complete(record):
            run(arguments.kernel, names, record, arguments.share, arguments.select)
        trial = judged(names, read(record))
        _say(trial, f"{number}/{len(sets)}")
        yield trial


def _digest() -> str:
    """Return a digest of the package: a record of earlier code says nothing of this one."""
    package = Path(__file__).parent.parent
    found = hashlib.sha256()
    for path in sorted(one for one in package.rglob("*") if one.suffix in (".py", ".toml")):
        found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
