"""`harness attach`: a prompt in the guest of a test that failed and was paused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `attach`."""
    summary = "open a Python prompt in the guest of a test that pytest --pause-on-failure holds"
    parser = subparsers.add_parser("attach", help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(run=lambda arguments: attach(arguments.folder))
    parser.add_argument("folder", metavar="FOLDER", help="the machine's folder, as the paused pytest prints it")


def attach(folder: str) -> int:
    """Open the prompt; return the exit status."""
    from harness.remote.attach import AttachedPrompt
    from harness.shell.console import interact

    with AttachedPrompt(Path(folder)) as prompt:
        return interact(prompt)
