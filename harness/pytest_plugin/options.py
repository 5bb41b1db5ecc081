"""The plugin's command line options and ini settings."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import pytest

DEFAULT_KERNEL = "6.12"
"""The kernel that tests run on when neither the command line nor the configuration names one."""

_STRESS_ROUNDS = 100
"""Rounds of a stress test in a run that does not ask for stress."""

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
        help="run guests with hardware virtualisation (kvm), in software (tcg), or with kvm where a guest has been "
        "seen to run under it (auto, the default)",
    )
    group.addoption(
        "--isolation",
        choices=("vm", "fork", "boot"),
        default="vm",
        help="what tests share: nothing, each runs on a clone of a booted machine (vm, the default); the machine, each "
        "runs in a guest process of its own (fork); nothing, each boots (boot)",
    )
    group.addoption(
        "--boot-timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long a kernel may take from start to a guest that answers (default: 120)",
    )
    group.addoption(
        "--pause-on-failure",
        action="store_true",
        help="pause when a test fails, with its guest as the failure left it, and print how to attach to it; go on at "
        "Enter or, without a terminal, when an attached prompt was left or nobody attached in time (--pause-timeout)",
    )
    group.addoption(
        "--pause-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long --pause-on-failure waits for somebody to attach where there is no terminal (default: 300)",
    )
    group.addoption(
        "--stress",
        type=_rounds,
        default=_STRESS_ROUNDS,
        metavar="ROUNDS",
        help=f"how many rounds tests with the fixture stress make (default: {_STRESS_ROUNDS}, which takes no time)",
    )
    group.addoption(
        "--kmemleak",
        action="store_true",
        help="after each test have the kernel look for memory of its own that was forgotten: two scans once it has "
        "settled, some ten seconds a test; takes kernels built with it (flavour debug)",
    )
    group.addoption(
        "--verdicts",
        action="store_true",
        help="end with a table of verdicts: a line for each behaviour, a column a kernel",
    )
    group.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what every test came to and saw on every kernel to this file, for `harness report`, `harness "
        "compare` and `harness merge`; a run that is cut short leaves what it has",
    )
    group.addoption(
        "--loader",
        type=_loaders,
        default=[RAW],
        metavar="NAME,...",
        help=f"who makes the system calls of tests that use the fixture bpf: {', '.join(LOADERS)}; with several, "
        f"each such test runs through each of them (default: {RAW}, the plain system call)",
    )
    parser.addini(
        "harness_known_faults",
        "files of known faults of kernels, which do not fail tests; as kernels/known-faults.toml of kernel-harness",
        type="paths",
        default=[],
    )
    parser.addini("harness_kernels", "kernels to test on when --kernel is not given", type="args", default=[])


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
        raise argparse.ArgumentTypeError(f"{text!r} names no loader; there are {', '.join(LOADERS)}")
    return list(dict.fromkeys(names))
