"""The plugin's command line options and ini settings.

Each option has a name that no project uses, `--harness-NAME`. The short form, `--NAME`, is this plugin's too, unless
the project or another plugin has an option of that name. pytest cannot share a name, and its plugins have options
before a project's conftest has any. So pytest knows the long names alone, and short forms on the command line become
long ones when the project's options are known.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Container, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

DEFAULT_KERNEL = "6.12"
"""The kernel for tests when neither the command line nor the configuration names one."""

_STRESS_ROUNDS = 100
"""Rounds of a stress test without --stress."""

KERNEL_PARAMETER = "_harness_choice"
LOADER_PARAMETER = "_harness_loader"
KERNEL_FIXTURE = "_harness_kernel"
VM_FIXTURE = "_harness_vm"
BCC_FIXTURE = "_harness_bcc"
"""Fixtures that this plugin's own are made of: a project may have others that are called `kernel` or `vm`."""

PREFIX = "--harness-"
_DEST = "harness_"

NAMES = (
    "kernel",
    "build-missing",
    "arch",
    "accel",
    "isolation",
    "boot-timeout",
    "pause-on-failure",
    "pause-timeout",
    "stress",
    "kmemleak",
    "verdicts",
    "record",
    "loader",
)
"""The options, without prefix and dashes."""

TAKEN = pytest.StashKey[list[str]]()
"""Names of the command line that look like this plugin's and are the project's or another plugin's."""


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of an option of this plugin.

    Args:
        config: pytest's.
        name: One of :data:`NAMES`, with underscores.
    """
    return config.getoption(_DEST + name)


def is_asked_for(config: pytest.Config) -> bool:
    """Whether the command line or the configuration asks for something that happens before tests are collected."""
    return bool(named(config) or option(config, "record") or option(config, "pause_on_failure"))


def named(config: pytest.Config) -> list[str]:
    """Return the user's selectors of kernels, from the command line or the configuration."""
    return list(option(config, "kernel") or config.getini("harness_kernels"))


RAW = "raw"
LIBBPF = "libbpf"
BCC = "bcc"
LOADERS = (RAW, LIBBPF, BCC)


def declare(parser: pytest.Parser) -> None:
    """Declare the command line options and ini settings."""
    group = parser.getgroup(
        "kernel-harness", "tests on Linux kernels (--harness-NAME is also --NAME where no other option is called so)"
    )
    group.addoption(
        "--harness-kernel",
        action="append",
        default=[],
        metavar="SELECTOR",
        help="kernel to test on: a series (6.1), an exact release (6.1.170), a range (>=5.10,<6.13), a path, ...; "
        f"repeat it for several kernels (default: the ini setting harness_kernels, else {DEFAULT_KERNEL})",
    )
    group.addoption(
        "--harness-build-missing",
        action="store_true",
        help="build a kernel that --kernel names and no provider has, from kernel.org's sources; this takes minutes",
    )
    group.addoption(
        "--harness-arch",
        default="",
        metavar="NAME",
        help="architecture of kernels that are selected without one: amd64, arm64 (default: the ini setting "
        "harness_arch, else this machine's own)",
    )
    group.addoption(
        "--harness-accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="run guests with hardware virtualisation (kvm), in software (tcg), or with kvm if a guest has run under "
        "it before (auto, the default)",
    )
    group.addoption(
        "--harness-isolation",
        choices=("vm", "fork", "boot"),
        default="vm",
        help="each test runs on a clone of a booted machine (vm, the default), in its own process on a shared machine "
        "(fork), or on its own boot (boot)",
    )
    group.addoption(
        "--harness-boot-timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="longest time from start to a guest that answers (default: 120)",
    )
    group.addoption(
        "--harness-pause-on-failure",
        action="store_true",
        help="pause when a test fails, keep its guest, and print how to attach to it; continue at Enter or, without a "
        "terminal, when an attached prompt is closed or nobody attached in time (--harness-pause-timeout)",
    )
    group.addoption(
        "--harness-pause-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long --harness-pause-on-failure waits for somebody to attach, without a terminal (default: 300)",
    )
    group.addoption(
        "--harness-stress",
        type=_rounds,
        default=_STRESS_ROUNDS,
        metavar="ROUNDS",
        help=f"number of rounds of tests with the fixture stress (default: {_STRESS_ROUNDS}, which is fast)",
    )
    group.addoption(
        "--harness-kmemleak",
        action="store_true",
        help="after each test, let the kernel search for memory that it lost: two scans after it has settled, some ten "
        "seconds a test; needs kernels built with kmemleak (flavour debug)",
    )
    group.addoption(
        "--harness-verdicts",
        action="store_true",
        help="print a table of verdicts at the end: one line for each behaviour, one column for each kernel",
    )
    group.addoption(
        "--harness-record",
        type=Path,
        metavar="FILE",
        help="write the result of every test on every kernel to this file, for `harness report`, `harness compare` and "
        "`harness merge`; an interrupted run leaves its results so far",
    )
    group.addoption(
        "--harness-loader",
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
    parser.addini("harness_arch", "architecture of kernels that are selected without one", default="")
    parser.addini(
        "harness_rootfs",
        "root file system of programs, where the marker vm names none: a folder, tar archive or saved image",
        default="",
    )
    parser.addini("harness_kernels", "kernels to test on without --harness-kernel", type="args", default=[])


def refuse_parallel(config: pytest.Config) -> None:
    """Refuse to run tests of kernels under pytest-parallel.

    Raises:
        pytest.UsageError: It is asked for.
    """
    workers = config.getoption("workers", None) or config.getoption("tests_per_worker", None)
    if workers:
        raise pytest.UsageError(
            "tests of kernels do not run under pytest-parallel: its processes and threads would share one machine\n"
            f"  next step: use pytest-xdist: -n {workers}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Refuse what cannot be, as long as that needs no collected test."""
    if named(config):
        refuse_parallel(config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Make long names of short ones in `args`, which pytest parses after the project's conftests have been loaded."""
    given = {f"--{name}" for name in NAMES} & {word.partition("=")[0] for word in args}
    if not given:
        return (yield)
    # The conftests are looked for beside files that are named: the value of an option is none.
    with suppress(pytest.UsageError):  # a conftest will have an option of that name, which takes other values
        early = parser.parse_known_args(_renamed(args, _free(parser, given)), copy.copy(early_config.option))
        early_config.known_args_namespace.file_or_dir = early.file_or_dir
    yield
    free = _free(parser, given)
    early_config.stash[TAKEN] = sorted(given - free)
    args[:] = _renamed(args, free)


def _free(parser: pytest.Parser, names: set[str]) -> set[str]:
    """Return the names that neither pytest nor another plugin nor the project has an option of."""
    free = set()
    for name in names:
        with suppress(pytest.UsageError):  # it is an option that wants a value
            _, unknown = parser.parse_known_and_unknown_args([name])
            free.update(unknown)
    return free


def _renamed(args: list[str], names: Container[str]) -> list[str]:
    """Return the arguments with the long forms of options of this plugin, up to the argument "--"."""
    end = args.index("--") if "--" in args else len(args)
    return [
        PREFIX + word.removeprefix("--") if word.partition("=")[0] in names else word for word in args[:end]
    ] + args[end:]


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
