"""The `harness` command.

Each command is a sibling module with `add_parser(subparsers)`, which sets `run` on its parser: a function from the
parsed arguments to an exit status. Imports everything below as the chosen command needs it.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.util import interrupts, streams

if TYPE_CHECKING:
    from harness.kernel.types import Choice
    from harness.machines.pool import Settings

_MISUSE = 2
"""The exit status of argparse when it does not understand the command line."""


COMMANDS = (
    "doctor kernels exec selftests shell attach check bench merge compare report matrix boundary contracts mutants "
    "export"
).split()
"""The commands, each a module of that name, in the order in which --help lists them."""


def say(line: str) -> None:
    """Print a line of progress, apart from what a command prints as its result."""
    print(line, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Read a number for an option; one that is below 1 is bad usage."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def seconds(text: str) -> float:
    """Read a duration for an option; 0, and what has no end, is bad usage."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("more than 0 seconds")
    return number


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add how machines are run: what `machine_settings` reads."""
    from harness.vm.spec import BOOT_TIMEOUT

    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="as for pytest (default: auto)")
    parser.add_argument(
        "--boot-timeout",
        type=seconds,
        default=BOOT_TIMEOUT,
        metavar="S",
        help="longest time from start to a guest that answers (default: %(default)g)",
    )


def add_verdict_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add where results go and what fails `what`, a program of the user's or of a suite, besides itself."""
    parser.add_argument("--record", type=Path, metavar="FILE", help="write a run record, for report, compare and merge")
    parser.add_argument("--leaks", action="store_true", help=f"{what} fails when it leaves kernel objects behind")
    parser.add_argument(
        "--known-faults",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help=f"faults of the kernel that do not fail {what}, besides the package's own list; repeats",
    )


def add_rootfs_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the root file system of `what`."""
    parser.add_argument(
        "--rootfs",
        type=Path,
        metavar="WHAT",
        help=f"the root file system of {what}: a folder, a tar archive, a saved container image, or this machine's "
        "own files: host, host:FOLDER:FOLDER",
    )


def rootfs_option(arguments: argparse.Namespace) -> str:
    """Return the root file system that was asked for, as :attr:`harness.vm.spec.Needs.rootfs`; "" for none."""
    from harness.image.rootfs import named

    return str(named(arguments.rootfs, Path.cwd())) if arguments.rootfs is not None else ""


def require_memory(mib: int) -> None:
    """Check the guest's memory, --memory.

    Raises:
        UsageError: No guest boots with so little.
    """
    from harness.vm.spec import LEAST_MEMORY

    if mib < LEAST_MEMORY:
        raise UsageError(f"--memory {mib} is too little", expected=f"{LEAST_MEMORY} or more")


def machine_settings(arguments: argparse.Namespace) -> Settings:
    """Return how machines are run, as the command line says it."""
    from harness.machines.pool import Settings

    return Settings(accel=arguments.accel, boot_timeout=arguments.boot_timeout)


def one_kernel(selector: str, command: str) -> Choice:
    """Return the kernel that a selector names.

    Args:
        selector: Names one kernel.
        command: Which command wants it, for the message.

    Raises:
        UsageError: It names several.
        SelectorError: It names none.
    """
    from harness import kernel

    choices = kernel.resolve([selector], progress=say)
    if len(choices) != 1:
        raise UsageError(
            f"{selector!r} names {len(choices)} kernels: {', '.join(choice.label for choice in choices)}",
            expected="one kernel",
            hint=f"harness {command} --kernel {choices[-1].label}",
        )
    return choices[0]


def _wanted(words: Sequence[str]) -> list[str]:
    """Return the commands that this command line is about: one, none, or all where help or an error lists them.

    Together their modules take longer to import than some commands to run.
    """
    if list(words) == ["--version"]:
        return []
    first = next((word for word in words if not word.startswith("-")), "")
    return [first] if first in COMMANDS else COMMANDS


class _Terminated(BaseException):
    """The process was asked to end."""


_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print a :class:`HarnessError` as one message and return its exit status."""
    # At the end Python would look for cycles among all objects of all modules: 50 ms after a check.
    atexit.register(gc.freeze)
    streams.open_closed()
    streams.allow_every_letter()
    try:
        try:
            return _main(argv)
        finally:
            # Here, because Python's own flush, at its end, would complain of a reader that has left (`| head`).
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return _BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        _drop_output()
        print(f"harness: error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return InfrastructureError.exit_status


def _drop_output() -> None:
    """Let what is left to write go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _main(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="harness", description="Kernels and guests of kernel-harness; tests are run by pytest --kernel=SELECTOR."
    )
    parser.add_argument("--version", action="version", version=f"kernel-harness {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every command that is run")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _wanted(words):
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:
        if error.code == _MISUSE and "--git-run" in words:
            from harness.boundary.git_run import ABORT

            return ABORT  # `git bisect run` would take any other status for a bad commit
        raise
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(message)s")
    # Like an interrupt, so that what was started (make, downloads) is ended and temporaries are removed.
    restore = interrupts.heed(_Terminated())
    try:
        status: int = arguments.run(arguments)
    except HarnessError as error:
        from harness.util.printable import printable

        print(printable(f"harness: error: {error}"), file=sys.stderr)
        return error.exit_status
    except _Terminated:
        print("harness: terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return 130
    finally:
        restore()
    return status
