"""A run record as a report for KCIDB, the database of kernel CI systems: the data of `kcidb_io`, version 5.

Pure: a record in, plain data out.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from harness.results.outcomes import Outcome
from harness.results.types import RecordedKernel, RecordedResult, RecordedRun, RunRecord
from harness.util import architecture

VERSION = {"major": 5, "minor": 3}

_STATUS = {
    Outcome.PASSED: "PASS",
    Outcome.FAILED: "FAIL",
    Outcome.FAULTED: "FAIL",
    Outcome.LEAKED: "FAIL",
    Outcome.CRASHED: "FAIL",
    Outcome.HUNG: "FAIL",
    Outcome.PROTOCOL: "FAIL",
    Outcome.UNSUPPORTED: "SKIP",
    Outcome.INFRASTRUCTURE: "MISS",
    Outcome.XFAILED: "DONE",
}
"""An expected failure is not a news about the kernel: status DONE, with the reason as the comment."""

_EXCERPT = 16384
"""Longest log that KCIDB accepts, in characters."""


def as_kcidb(record: RunRecord, origin: str) -> dict[str, Any]:
    """Return the record as a KCIDB report.

    Each kernel becomes a checkout and a build. A test's observations and expectations are in its `misc`.

    Args:
        record: The record.
        origin: Name of the CI system that submits it: small letters, digits and "_".
    """
    runs = {run.id: run for run in record.runs}
    tests = [_test(result, runs.get(result.run), origin) for result in record.results]
    tests += [
        _not_run(one.test, one.kernel, record, origin, "MISS", "the run ended before it") for one in record.not_run
    ]
    tests += [
        _not_run(one.test, one.kernel, record, origin, "SKIP", f"it is for kernels {one.condition}")
        for one in record.left_out
    ]
    builds = {_build_id(kernel.label, record, origin): kernel for kernel in record.kernels}
    return {
        "version": VERSION,
        "checkouts": [_checkout(kernel, origin) for kernel in _once(record.kernels)],
        "builds": [_build(kernel, identity, origin) for identity, kernel in builds.items()],
        "tests": [
            test | {"build_id": _build_id(label, record, origin)}
            for test, label in zip(tests, _labels(record), strict=True)
        ],
    }


def _labels(record: RunRecord) -> list[str]:
    return [
        *(one.kernel for one in record.results),
        *(one.kernel for one in record.not_run),
        *(one.kernel for one in record.left_out),
    ]


def _once(kernels: tuple[RecordedKernel, ...]) -> list[RecordedKernel]:
    return list({(kernel.provider, kernel.version): kernel for kernel in kernels}.values())


def _checkout_id(kernel: RecordedKernel, origin: str) -> str:
    return f"{origin}:{kernel.provider or 'kernel'}-{kernel.version}"


def _build_id(label: str, record: RunRecord, origin: str) -> str:
    kernel = next(one for one in record.kernels if one.label == label)
    return f"{origin}:{kernel.digest[:40] or kernel.key or kernel.label}"


def _checkout(kernel: RecordedKernel, origin: str) -> dict[str, Any]:
    return {
        "id": _checkout_id(kernel, origin),
        "origin": origin,
        "comment": f"Linux {kernel.version} by {kernel.provider}",
        "valid": True,
        "misc": {"version": kernel.version, "provider": kernel.provider},
    }


def _build(kernel: RecordedKernel, identity: str, origin: str) -> dict[str, Any]:
    return {
        "id": identity,
        "checkout_id": _checkout_id(kernel, origin),
        "origin": origin,
        "architecture": _architecture(kernel),
        "config_name": kernel.flavour,
        "comment": kernel.origin or kernel.key,
        "status": "PASS",
        "misc": {
            "label": kernel.label,
            "release": kernel.release,
            "sha256": kernel.digest,
            "config_sha256": kernel.config_digest,
        },
    }


def _architecture(kernel: RecordedKernel) -> str:
    """Return what KCIDB calls a kernel's architecture: the kernel's own word."""
    return architecture.require(kernel.architecture or "amd64").kcidb


def _path(test: str, contract: str) -> str:
    """Return a test's place in the tree of tests: its contract's id, else the words of its name."""
    if contract:
        return f"kernel_harness.{contract}"
    words = [re.sub(r"[^A-Za-z0-9_-]+", "_", word).strip("_") for word in re.split(r"[/.\[\]]|::", test)]
    return ".".join(["kernel_harness", *(word for word in words if word not in ("", "py"))])


def _identity(origin: str, *words: str) -> str:
    return f"{origin}:{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:32]}"


def _test(result: RecordedResult, run: RecordedRun | None, origin: str) -> dict[str, Any]:
    observed = [one.verdict for one in result.observations if one.was_asked]
    status = _STATUS[result.outcome]
    if status == "PASS" and observed and set(observed) == {"observed"}:
        status = "DONE"  # the observation was not judged
    text = "\n".join(part for part in (result.failure, result.output) if part)
    test = {
        "id": _identity(origin, result.run, result.test, result.kernel),
        "origin": origin,
        "path": _path(result.test, result.contract),
        "status": status,
        "duration": round(result.seconds, 3),
        "misc": {
            "test": result.test,
            "outcome": result.outcome.value,
            "trouble": list(result.trouble),
            "observations": [
                {
                    "contract": one.contract,
                    "sentence": one.sentence,
                    "observed": one.observed,
                    "expected": one.expected,
                    "verdict": one.verdict,
                    "source": one.source,
                }
                for one in result.observations
            ],
            "leaks": [one.text for one in result.leaks],
            "faults": [{"kind": one.kind, "title": one.title, "fingerprint": one.fingerprint} for one in result.faults],
        },
    }
    if result.reason:
        test["comment"] = _without_nul(result.reason)
    if text:
        test["log_excerpt"] = _without_nul(text)[-_EXCERPT:]
    if run is not None:
        test["start_time"] = run.started
        test["environment"] = {
            "comment": f"QEMU ({run.accelerator or 'not run'}) on {run.host.name}",
            "misc": {"tools": run.tools, "isolation": run.isolation, "host_kernel": run.host.kernel},
        }
    return test


def _not_run(test: str, kernel: str, record: RunRecord, origin: str, status: str, why: str) -> dict[str, Any]:
    return {
        "id": _identity(origin, record.runs[0].id if record.runs else "", test, kernel),
        "origin": origin,
        "path": _path(test, ""),
        "status": status,
        "comment": why,
        "misc": {"test": test},
    }


def _without_nul(text: str) -> str:
    return text.replace("\0", "")
