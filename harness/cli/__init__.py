"""The `harness` command.

Each command is a sibling module with `add_parser(subparsers)`, which sets `run` on its parser: a function from the
parsed arguments to an exit status. Imports everything below as the chosen command needs it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from harness import __version__
from harness.errors import HarnessError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print a :class:`HarnessError` as one message and return its exit status."""
    from harness.cli import attach, kernels, shell

    parser = argparse.ArgumentParser(
        prog="harness", description="Kernels and guests of kernel-harness; tests are run by pytest --kernel=SELECTOR."
    )
    parser.add_argument("--version", action="version", version=f"kernel-harness {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every command that is run")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (kernels, shell, attach):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(message)s")
    try:
        status: int = arguments.run(arguments)
    except HarnessError as error:
        print(f"harness: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has seen enough.
        sys.stderr.close()
        return 141
    return status
