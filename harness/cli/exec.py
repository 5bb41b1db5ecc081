"""`harness exec`: a program of this machine on a fresh guest of each kernel."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import (
    add_machine_options,
    add_rootfs_option,
    add_verdict_options,
    machine_settings,
    positive,
    require_memory,
    rootfs_option,
    say,
)
from harness.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

_EPILOG = """\
As a test runner:
  go test -exec 'harness exec --kernel 6.6' ./...
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='harness exec --kernel 6.6' cargo test
  cmake -DCMAKE_CROSSCOMPILING_EMULATOR='harness;exec;--kernel;6.6'
"""


def add_parser(subparsers: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `exec`."""
    from harness.kernel.selector import GRAMMAR
    from harness.vm.network import Network

    summary = "run a program of this machine on a fresh guest of each kernel"
    parser = subparsers.add_parser(
        "exec",
        help=summary,
        description=summary[0].upper() + summary[1:] + ". The program, its shared libraries, its interpreter and the "
        "working folder go along, to the same paths. Its streams pass through, an interrupt reaches it first. The exit "
        "status is the program's (128 and the number of a signal that ended it, 124 after a time-out, 1 when the "
        "kernel crashed or complained); with several kernels 0 or 1; 3 when a kernel could not be run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--kernel", action="append", metavar="SELECTOR", help=f"{GRAMMAR}; repeat it for several (default: 6.12)"
    )
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="guest memory (default: 256)")
    add_rootfs_option(parser, "the program")
    parser.add_argument(
        "--network",
        choices=[one.value for one in Network],
        default=Network.LOOPBACK.value,
        help="what the program reaches: nothing, the guest itself, or what this machine reaches, which is then "
        "10.0.2.2 (default: %(default)s)",
    )
    parser.add_argument("--cpus", type=positive, default=1, help="virtual CPUs (default: 1)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds for the program; then it is ended (default: none)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the program; without a value this machine's, and then NAME may be a pattern: 'RUST_*'",
    )
    parser.add_argument("--user", type=int, metavar="UID", help="the program's user and group id (default: root)")
    parser.add_argument(
        "--push", action="append", default=[], metavar="PATH[:TARGET]", help="a file or folder that goes along; repeats"
    )
    parser.add_argument(
        "--folder-limit",
        type=int,
        default=32,
        metavar="MIB",
        help="how large a working folder may be to go along; 0 for none of it (default: 32)",
    )
    parser.add_argument(
        "--results",
        default="",
        metavar="FORMAT[=PATH]",
        help="how the program reports its tests: go, libtest, gtest, tap (KTAP too), bpf or junit; on its output, or "
        "in a file of the guest",
    )
    add_verdict_options(parser, "the program")
    add_machine_options(parser)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="PROGRAM ARGUMENTS", help="after --, or at the end")


def _run(arguments: argparse.Namespace) -> int:
    from harness.exec.kernels import exec_on_kernels
    from harness.exec.parcel import Parcel, pack, parse_push
    from harness.exec.run import Wishes, parse_env, parse_results
    from harness.image.rootfs import Rootfs
    from harness.util.architecture import Architecture
    from harness.vm.network import Network
    from harness.vm.spec import Needs

    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise UsageError("no program is given", hint="harness exec --kernel 6.6 -- ./my.test -v")
    require_memory(arguments.memory)
    if arguments.folder_limit < 0 or arguments.timeout < 0:
        raise UsageError("--folder-limit and --timeout are not negative")
    pushes = [parse_push(text) for text in arguments.push]

    def pack_for(wanted: Architecture, userland: Path | None, files: Rootfs | None) -> Parcel:
        return pack(
            words,
            pushes,
            cwd=Path.cwd(),
            folder_limit=arguments.folder_limit << 20,
            memory=arguments.memory,
            wanted=wanted,
            userland=userland,
            rootfs=files,
        )

    wishes = Wishes(
        parse_env(arguments.env, os.environ),
        arguments.user,
        arguments.timeout,
        arguments.leaks,
        parse_results(arguments.results) if arguments.results else None,
    )
    network = Network(arguments.network)
    needs = Needs(memory=arguments.memory, cpus=arguments.cpus, rootfs=rootfs_option(arguments), network=network)
    selectors = arguments.kernel or ["6.12"]
    record = None
    if arguments.record is not None:
        from harness.exec.record import ExecRecord  # few runs write one

        record = ExecRecord(arguments.record, sys.argv)
    return exec_on_kernels(
        pack_for,
        wishes,
        selectors,
        needs,
        settings=machine_settings(arguments),
        say=say,
        record=record,
        known_faults=arguments.known_faults,
    )
