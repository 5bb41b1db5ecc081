"""`harness shell`: an interactive guest, on the user's own root file system or on the test image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.cli import one_kernel, say
from harness.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

ROOT, TEST = "root", "test"


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `shell`."""
    from harness.kernel.selector import GRAMMAR

    summary = "boot a kernel and open a shell on it"
    parser = subparsers.add_parser(
        "shell",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". On the root image the guest sees this machine's own files, "
        "read-only below an overlay that is forgotten at the end. On the test image it is the very machine that tests "
        "run on, with a Python prompt; nothing of this machine is in it.",
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--kernel", default="6.12", metavar="SELECTOR", help=f"one kernel: {GRAMMAR} (default: 6.12)")
    parser.add_argument("--image", choices=(ROOT, TEST), default=ROOT, help="what the guest runs on (default: root)")
    parser.add_argument("--attach", metavar="FOLDER", help="the same as `harness attach FOLDER`")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="as for pytest (default: auto)")
    parser.add_argument("--memory", type=int, metavar="MIB", help="guest memory (default: 1024; test image: 256)")
    parser.add_argument("--cpus", type=int, default=1, help="virtual CPUs (default: 1)")
    parser.add_argument(
        "--modules", default="", metavar="NAME,...", help="kernel modules to load beforehand (test image only)"
    )
    parser.add_argument(
        "words", nargs="*", metavar="COMMAND", help="after --, a command to run instead of a shell (root image only)"
    )


def _run(arguments: argparse.Namespace) -> int:
    from harness.machines.pool import Pool, Settings
    from harness.shell.prompt import open_prompt
    from harness.shell.root import open_shell
    from harness.vm.spec import Needs

    if arguments.attach is not None:
        from harness.cli.attach import attach

        return attach(arguments.attach)
    _check(arguments)
    memory, cpus = arguments.memory, arguments.cpus
    pool = Pool(Settings(accel=arguments.accel), say)
    try:
        choice = one_kernel(arguments.kernel, "shell")
        if arguments.image == TEST:
            modules = tuple(word for word in arguments.modules.split(",") if word)
            return open_prompt(pool, choice, Needs(memory=memory or Needs.memory, cpus=cpus, modules=modules))
        return open_shell(pool, choice, arguments.words, memory=memory or 1024, cpus=cpus, say=say)
    finally:
        pool.close()


def _check(arguments: argparse.Namespace) -> None:
    if arguments.image == TEST and arguments.words:
        raise UsageError(
            "a shell on the test image takes no command",
            expected="--image root for a command on this machine's files",
            hint="on the test image: harness exec --kernel 6.12 -- COMMAND",
        )
    if arguments.image == ROOT and arguments.modules:
        raise UsageError(
            "--modules belongs to --image test",
            hint="on the root image, load modules in the guest: modprobe veth",
        )
    from harness.vm.spec import LEAST_MEMORY

    for name, least in (("memory", LEAST_MEMORY), ("cpus", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} {value} is too little", expected=f"{least} or more")
