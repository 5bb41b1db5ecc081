"""The plugin's options on the command line: how pytest knows them, and their short forms.

pytest cannot share a name, and its plugins have options before a project's conftest has any. So pytest knows the long
names alone, and short forms on the command line become long ones when the project's options are known.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Container, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.pytest_plugin.options import DEFAULT_KERNEL, DEFAULTS, LOADERS, PREFIX, RAW, TAKEN


def declare(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup(
        "kernel-harness", "tests on Linux kernels (--harness-NAME is also --NAME where no other option is called so)"
    )

    def add(name: str, **how: Any) -> None:
        group.addoption(PREFIX + name, default=DEFAULTS[name], **how)

    add(
        "kernel",
        action="append",
        metavar="SELECTOR",
        help="kernel to test on: a series (6.1), an exact release (6.1.170), a range (>=5.10,<6.13), a path, ...; "
        f"repeat it for several kernels (default: the ini setting harness_kernels, else {DEFAULT_KERNEL})",
    )
    add(
        "build-missing",
        action="store_true",
        help="build a kernel that --kernel names and no provider has, from kernel.org's sources; this takes minutes",
    )
    add(
        "arch",
        metavar="NAME",
        help="architecture of kernels that are selected without one: amd64, arm64 (default: the ini setting "
        "harness_arch, else this machine's own)",
    )
    add(
        "accel",
        choices=("auto", "kvm", "tcg"),
        help="run guests with hardware virtualisation (kvm), in software (tcg), or with kvm if a guest has run under "
        "it before (auto, the default)",
    )
    add(
        "isolation",
        choices=("vm", "fork", "boot"),
        help="each test runs on a clone of a booted machine (vm, the default), in its own process on a shared machine "
        "(fork), or on its own boot (boot)",
    )
    add(
        "boot-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="longest time from start to a guest that answers (default: 120)",
    )
    add(
        "pause-on-failure",
        action="store_true",
        help="pause when a test fails, keep its guest, and print how to attach to it; continue at Enter or, without a "
        "terminal, when an attached prompt is closed or nobody attached in time (--harness-pause-timeout)",
    )
    add(
        "pause-timeout",
        type=float,
        metavar="SECONDS",
        help="how long --harness-pause-on-failure waits for somebody to attach, without a terminal (default: 300)",
    )
    add(
        "stress",
        type=_rounds,
        metavar="ROUNDS",
        help=f"number of rounds of tests with the fixture stress (default: {DEFAULTS['stress']}, which is fast)",
    )
    add(
        "kmemleak",
        action="store_true",
        help="after each test, let the kernel search for memory that it lost: two scans after it has settled, some ten "
        "seconds a test; needs kernels built with kmemleak (flavour debug)",
    )
    add(
        "verdicts",
        action="store_true",
        help="print a table of verdicts at the end: one line for each behaviour, one column for each kernel",
    )
    add(
        "record",
        type=Path,
        metavar="FILE",
        help="write the result of every test on every kernel to this file, for `harness report`, `harness compare` and "
        "`harness merge`; an interrupted run leaves its results so far",
    )
    add(
        "loader",
        type=_loaders,
        metavar="NAME,...",
        help=f"loader of tests that use the fixture bpf: {', '.join(LOADERS)}; with several, "
        f"each such test runs with each of them (default: {RAW}, the plain system call)",
    )


def understand(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> Generator[None, None, None]:
    """Make long names of short ones in `args`, which pytest parses after the project's conftests have been loaded.

    Args:
        early_config: pytest's, before it has read the options.
        parser: pytest's.
        args: The command line, which is changed.
    """
    words = {word.partition("=")[0] for word in args}
    given = {f"--{name}" for name in DEFAULTS} & words
    if not given and not any(word.startswith(PREFIX) for word in words):
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
