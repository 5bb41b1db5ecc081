"""The plugin's options: their names, defaults and values.

Each option has a name that no project uses, `--harness-NAME`. The short form, `--NAME`, is this plugin's too, unless
the project or another plugin has an option of that name. pytest knows them when the command line or the project's
configuration has one of them, or asks for help: every option that pytest knows costs each of its runs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

DEFAULT_KERNEL = "6.12"
"""The kernel for tests when neither the command line nor the configuration names one."""

KERNEL_PARAMETER = "_harness_choice"
LOADER_PARAMETER = "_harness_loader"
KERNEL_FIXTURE = "_harness_kernel"
VM_FIXTURE = "_harness_vm"
SECOND_FIXTURE = "_harness_second_vm"
BCC_FIXTURE = "_harness_bcc"
"""Fixtures that this plugin's own are made of: a project may have others that are called `kernel` or `vm`."""

PREFIX = "--harness-"
PROGRAMS_SETTING = "harness_programs"
_DEST = "harness_"

RAW = "raw"
LIBBPF = "libbpf"
BCC = "bcc"
LOADERS = (RAW, LIBBPF, BCC)

DEFAULTS = {
    "kernel": [],
    "build-missing": False,
    "arch": "",
    "accel": "auto",
    "isolation": "vm",
    "boot-timeout": 120.0,
    "pause-on-failure": False,
    "pause-timeout": 300.0,
    "stress": 100,
    "kmemleak": False,
    "verdicts": False,
    "record": None,
    "loader": [RAW],
}
"""The options, without prefix and dashes, and the value of each where the command line has none."""

TAKEN = pytest.StashKey[list[str]]()
"""Names of the command line that look like this plugin's and are the project's or another plugin's."""


def option(config: pytest.Config, name: str) -> Any:
    """Return the value of an option of this plugin.

    Args:
        config: pytest's.
        name: One of :data:`DEFAULTS`, with underscores.
    """
    return config.getoption(_DEST + name)


def is_asked_for(config: pytest.Config) -> bool:
    """Whether the command line or the configuration asks for something that happens before tests are collected."""
    return bool(named(config) or option(config, "record") or option(config, "pause_on_failure"))


def named(config: pytest.Config) -> list[str]:
    """Return the user's selectors of kernels, from the command line or the configuration."""
    return list(option(config, "kernel") or config.getini("harness_kernels"))


def declare_settings(parser: pytest.Parser) -> None:
    """Declare the ini settings."""
    parser.addini(
        "harness_known_faults",
        "files with known faults, which do not fail tests; format: kernels/known-faults.toml of kernel-harness",
        type="paths",
        default=[],
    )
    parser.addini("harness_arch", "architecture of kernels that are selected without one", default="")
    parser.addini(
        "harness_rootfs",
        "root file system of programs, where the marker vm names none: a folder, tar archive, saved image or host",
        default="",
    )
    parser.addini(
        PROGRAMS_SETTING,
        "test programs whose tests run on kernels; one line for each kind: 'go: build/*.test', 'gtest: ...', "
        "'libtest: ...', 'tap: ...', 'exec: ...'",
        type="linelist",
        default=[],
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


def declare_where_asked(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Declare the options around the loading of conftest files, where `args` has any; understand their short forms."""
    values = vars(early_config.option)
    is_declared = _DEST + "kernel" in values  # a worker of pytest-xdist has the values without
    for name, value in DEFAULTS.items():
        values.setdefault(_DEST + name.replace("-", "_"), value)
    if not any(_is_of_interest(word) for word in args):
        return (yield)
    from harness.pytest_plugin import command_line

    if not is_declared:
        command_line.declare(parser)
    yield from command_line.understand(early_config, parser, args)


def _is_of_interest(word: str) -> bool:
    """Whether a word of the command line is an option of this plugin, or asks for help."""
    if word.startswith("--"):
        return word.startswith(PREFIX) or word.partition("=")[0][2:] in DEFAULTS or word == "--help"
    return word.startswith("-") and "h" in word
