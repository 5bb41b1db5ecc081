"""The plugin's command line options and ini settings."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import pytest

DEFAULT_KERNEL = "6.12"
"""The kernel for tests when neither the command line nor the configuration names one."""

_STRESS_ROUNDS = 100
"""Rounds of a stress test without --stress."""

KERNEL_PARAMETER = "kernel_choice"
LOADER_PARAMETER = "bpf_loader"

RAW = "raw"
LIBBPF = "libbpf"
BCC = "bcc"
LOADERS = (RAW, LIBBPF, BCC)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the command line options and ini settings."""
    group = parser.getgroup("kernel-harness", "tests on Linux kernels")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SELECTOR",
        help="kernel to test on: a series (6.1), an exact release (6.1.170), a range (>=5.10,<6.13), a path, ...; "
        f"repeat it for several kernels (default: the ini setting harness_kernels, else {DEFAULT_KERNEL})",
    )
    group.addoption(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="run guests with hardware virtualisation (kvm), in software (tcg), or with kvm if a guest has run under "
        "it before (auto, the default)",
    )
    group.addoption(
        "--isolation",
        choices=("vm", "fork", "boot"),
        default="vm",
        help="each test runs on a clone of a booted machine (vm, the default), in its own process on a shared machine "
        "(fork), or on its own boot (boot)",
    )
    group.addoption(
        "--boot-timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="longest time from start to a guest that answers (default: 120)",
    )
    group.addoption(
        "--pause-on-failure",
        action="store_true",
        help="pause when a test fails, keep its guest, and print how to attach to it; continue at Enter or, without a "
        "terminal, when an attached prompt is closed or nobody attached in time (--pause-timeout)",
    )
    group.addoption(
        "--pause-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long --pause-on-failure waits for somebody to attach, without a terminal (default: 300)",
    )
    group.addoption(
        "--stress",
        type=_rounds,
        default=_STRESS_ROUNDS,
        metavar="ROUNDS",
        help=f"number of rounds of tests with the fixture stress (default: {_STRESS_ROUNDS}, which is fast)",
    )
    group.addoption(
        "--kmemleak",
        action="store_true",
        help="after each test, let the kernel search for memory that it lost: two scans after it has settled, some ten "
        "seconds a test; needs kernels built with kmemleak (flavour debug)",
    )
    group.addoption(
        "--verdicts",
        action="store_true",
        help="print a table of verdicts at the end: one line for each behaviour, one column for each kernel",
    )
    group.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="write the result of every test on every kernel to this file, for `harness report`, `harness compare` and "
        "`harness merge`; an interrupted run leaves its results so far",
    )
    group.addoption(
        "--loader",
        type=_loaders,
        default=[RAW],
        metavar="NAME,...",
        help=f"loader of tests that use the fixture bpf: {', '.join(LOADERS)}; with several, "
        f"each such test runs with each of them (default: {RAW}, the plain system call)",
    )
    parser.addini(
        "harness_known_faults",
        "files with known faults, which do not fail tests; format: kernels/known-faults.toml of kernel-harness",
        type="paths",
        default=[],
    )
    parser.addini("harness_kernels", "kernels to test on without --kernel", type="args", default=[])


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")


def _rounds(text: str) -> int:
    with suppress(ValueError):
        if int(text.replace("_", "")) > 0:
            return int(text.replace("_", ""))
    raise argparse.ArgumentTypeError(f"{text} is not a number of rounds, 1 or more")


def _loaders(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or not set(names) <= set(LOADERS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a loader; the loaders are {', '.join(LOADERS)}")
    return list(dict.fromkeys(names))
