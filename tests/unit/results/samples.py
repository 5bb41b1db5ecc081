"""Run records made up for tests: any number of behaviours on any number of kernels, different by a seed."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from harness.results.file import assemble
from harness.results.outcomes import Outcome
from harness.results.types import (
    Deselected,
    Fault,
    Host,
    Leak,
    NotRun,
    Observation,
    RecordedKernel,
    RecordedResult,
    RecordedRun,
    RunRecord,
)

SERIES = tuple("5.10.262 6.1.192 6.12.117 6.16.12 6.17.13 6.18.44 6.19.14 7.0.9 7.1.7 7.2.2 7.3".split())
AREAS = ("create", "update", "lookup", "delete", "batch", "iterate", "prog", "pin", "freeze", "btf")
ERRNOS = ("EINVAL", "E2BIG", "ENOENT", "EPERM", "ok")

LOG = "[    1.5] BUG: KASAN: use-after-free in <htab_of_map_free+0x1f/0x40> & more\n"


def label_of(version: str) -> str:
    return ".".join(version.split(".")[:2])


def run(number: int = 1, **fields: Any) -> RecordedRun:
    facts: dict[str, Any] = {
        "id": f"run{number}",
        "started": f"2026-11-22T00:0{number}:00Z",
        "host": Host("laptop", system="Debian GNU/Linux 12 (bookworm)", cpus=2, memory=24000),
        "seconds": 61.5,
        "complete": True,
        "exit_status": 0,
        "arguments": ("--kernel=6.1", "--record=run.json"),
        "isolation": "vm",
        "loaders": ("raw",),
        "workers": 2,
        "accelerator": "tcg",
        "accelerator_reason": "there is no /dev/kvm",
        "tools": {"python": "3.11.7", "qemu": "7.2.22"},
    }
    return RecordedRun(**{**facts, **fields})


def kernel(version: str, **fields: str) -> RecordedKernel:
    digest = f"{version.replace('.', ''):0>8}" * 8
    facts = {
        "label": label_of(version),
        "version": version,
        "release": f"{version}-cloud-amd64",
        "provider": "debian",
        "key": f"{version}-cloud-amd64={version}-1",
        "flavour": "cloud",
        "origin": f"debian {version}-cloud-amd64={version}-1",
        "digest": digest,
        "config_digest": digest[::-1],
    }
    return RecordedKernel(**{**facts, **fields})


def result(test: str, on: str, outcome: str = "passed", **fields: Any) -> RecordedResult:
    head, _, tail = test.partition("[")
    nodeid = f"{head}[{tail.removesuffix(']')}-{on}]" if tail else f"{head}[{on}]"
    facts: dict[str, Any] = {"nodeid": nodeid, "run": "run1", "setup": 0.12, "call": 0.05, "teardown": 0.02}
    return RecordedResult(**{"test": test, "kernel": on, "outcome": Outcome(outcome), **facts, **fields})


def observation(contract: str, observed: object, expected: object = None, **fields: Any) -> Observation:
    facts: dict[str, Any] = {
        "sentence": f"What {contract} promises of <inner> maps & outer maps.",
        "takes": "errno",
        "source": 'Linux kernel commit 134fede4eecf ("bpf: Relax max_entries check") (in v5.10)',
        "verdict": "observed" if expected is None else "as expected" if observed == expected else "differs",
    }
    return Observation(**{"contract": contract, "observed": observed, "expected": expected, **facts, **fields})


def record(*results: RecordedResult, **fields: Any) -> RunRecord:
    """Return a record of these results, on the kernels that they name."""
    versions = {label_of(version): version for version in SERIES}
    facts: dict[str, Any] = {
        "runs": [run()],
        "kernels": [kernel(versions[label]) for label in dict.fromkeys(one.kernel for one in results)],
        "results": results,
        "left_out": [],
        "not_run": [],
    }
    return assemble(**{**facts, **fields})


def many(behaviours: int = 200, versions: tuple[str, ...] = SERIES, seed: int = 1) -> RunRecord:
    """Return a record as large suites make them, with some of everything that can become of a test."""
    dice = random.Random(seed)
    results, left_out, not_run = [], [], []
    for number in range(behaviours):
        area = AREAS[number * len(AREAS) // behaviours]
        contract = f"{'hom' if number % 2 else 'aom'}.{area}.case_{number}"
        test = f"harness/contracts/test_{area}.py::test_{area}_of_case_{number}[{contract}]"
        flips = dice.randrange(len(versions) * 2)
        before, after = dice.sample(ERRNOS, 2)
        for place, version in enumerate(versions):
            label = label_of(version)
            seen = after if place >= flips else before
            common: dict[str, Any] = {
                "contract": contract,
                "setup": round(dice.uniform(0.08, 0.3), 4),
                "call": round(dice.expovariate(12), 4),
                "start": round(dice.uniform(0.03, 0.2), 4),
                "boot": round(3 + place / 4 + dice.uniform(0, 0.1), 3),
                "observations": (observation(contract, seen, seen if number % 5 else None),),
            }
            lot = dice.random()
            if number % 17 == 3 and place < 3:
                left_out.append(Deselected(test, label, ">=6.16"))
            elif number % 23 == 5 and place < 2:
                results.append(result(test, label, "unsupported", reason=f"{label} has no <btf>", contract=contract))
            elif lot < 0.01:
                common["observations"] = (observation(contract, before, "ENOTSUPP"),)
                failure = f"{contract} does not hold on {label}\n" + LOG * 12
                results.append(result(test, label, "failed", failure=failure, reason="it does not hold", **common))
            elif lot < 0.014:
                fault = Fault("KASAN", "KASAN: use-after-free in <htab>", "kasan:htab", LOG * 8)
                results.append(
                    result(test, label, "faulted", trouble=("fault",), faults=(fault,), reason="KASAN", **common)
                )
            elif lot < 0.017:
                leak = Leak("map", "map 7 of type hash is left", 7, "hash", "inner", "bpf.map()", "nobody")
                results.append(result(test, label, "leaked", trouble=("leak",), leaks=(leak,), reason="leak", **common))
            elif lot < 0.019:
                results.append(
                    result(test, label, "crashed", trouble=("crashed",), reason="panic", failure=LOG * 20, **common)
                )
            elif lot < 0.021:
                results.append(result(test, label, "infrastructure", trouble=("infrastructure",), reason="QEMU ended"))
            elif lot < 0.022:
                not_run.append(NotRun(test, label))
            else:
                results.append(result(test, label, **common))
    kernels = [kernel(version) for version in versions]
    whole = run(complete=not not_run, id=f"run{seed}")
    results = [msgspec.structs.replace(one, run=whole.id) for one in results]
    return assemble([whole], kernels, results, left_out, not_run)
