"""`harness shell`: an interactive guest, on the user's own root file system or on the test image.

Imports kernels, machines and the prompt below it, as they are needed.
"""

from __future__ import annotations

import argparse
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness import needs
from harness.errors import SelectorError, UsageError
from harness.util.proc import die_with_parent, quote

if TYPE_CHECKING:
    from argparse import _SubParsersAction as SubParsers

    from harness.kernel.types import Choice
    from harness.machines.pool import Pool
    from harness.vm.spec import MachineSpec

ROOT, TEST = "root", "test"

# Tried in this order for the same release, when a kernel cannot mount the host's root.
_STAND_INS = ("generic", "minimal")

# What names the ports in the guest that a command's output goes through.
_UDEV = "udevd"

# Where vng puts an overlay by itself.
_OVERLAYS = tuple(map(Path, ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")))  # noqa: S108


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


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    from harness.machines.pool import Pool, Settings

    if arguments.attach is not None:
        from harness.cli.attach import attach

        return attach(arguments.attach)
    _check(arguments)
    pool = Pool(Settings(accel=arguments.accel), say)
    try:
        choice = _choose(arguments.kernel)
        if arguments.image == TEST:
            return _prompt(pool, choice, arguments)
        return _shell(pool, choice, arguments)
    finally:
        pool.close()


def _check(arguments: argparse.Namespace) -> None:
    if arguments.image == TEST and arguments.words:
        raise UsageError(
            "the test image has no shell to run a command with",
            expected="--image root for a command",
            hint="pipe Python into it: echo 'print(os.uname())' | harness shell --image test",
        )
    if arguments.image == ROOT and arguments.modules:
        raise UsageError(
            "--modules belongs to --image test",
            hint="on the root image, load modules in the guest: modprobe veth",
        )
    for name, least in (("memory", 128), ("cpus", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} {value} is too little", expected=f"{least} or more")


def _choose(selector: str) -> Choice:
    from harness import kernel

    choices = kernel.resolve([selector], progress=say)
    if len(choices) != 1:
        raise UsageError(
            f"{selector!r} names {len(choices)} kernels: {', '.join(choice.label for choice in choices)}",
            expected="one kernel to open a shell on",
            hint=f"harness shell --kernel {choices[-1].label}",
        )
    return choices[0]


def _prompt(pool: Pool, choice: Choice, arguments: argparse.Namespace) -> int:
    from harness.remote.prompt import GuestPrompt
    from harness.shell.console import interact
    from harness.vm.spec import Needs

    modules = tuple(word for word in arguments.modules.split(",") if word)
    asked = Needs(memory=arguments.memory or Needs.memory, cpus=arguments.cpus, modules=modules)
    spec = pool.prepare(choice, asked)
    machine = pool.take(spec)
    try:
        return interact(GuestPrompt(machine))
    finally:
        pool.give_back(spec, machine)


def require_udev() -> None:
    """Refuse to run a command in a guest on the host's root where it could not hand over how it ended.

    Raises:
        ToolMissing: udev is not installed.
    """
    udev = needs.need(_UDEV)
    if needs.find(udev) is None:
        raise needs.missing(
            _UDEV,
            what=f"{_UDEV} is not installed; without it the guest, which runs on this machine's files, cannot hand "
            "over what a command prints, nor its exit status; a shell without a command works",
            expected=" or ".join(udev.names),
        )


def _shell(pool: Pool, choice: Choice, arguments: argparse.Namespace) -> int:
    from harness.vm.command import shell_argv
    from harness.vm.process import find_vng, vng_environment

    if not arguments.words and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "a shell needs a terminal",
            expected="standard input and output to be one",
            hint="give it a command: harness shell -- uname -r",
        )
    if arguments.words:
        require_udev()
    spec = _on_root(pool, choice)
    vng = find_vng()
    argv = shell_argv(
        spec.kernel.boot_image,
        spec.accel,
        vng=vng,
        memory=arguments.memory or 1024,
        cpus=arguments.cpus,
        writable=_writable(Path.cwd()),
        command=arguments.words,
    )
    say(f"kernel {spec.kernel.release} ({spec.kernel.origin}), {spec.acceleration}")
    say(f"+ {quote(argv)}")
    sys.stderr.flush()
    if not arguments.words or all(map(_can_be_opened_anew, range(3))):
        # In place of this process: the terminal, its signals and the exit status are vng's alone.
        os.execve(argv[0], argv, vng_environment(vng))  # noqa: S606 - an argument list; no shell reads it
    return _through_pipes(argv, vng_environment(vng))


def _can_be_opened_anew(descriptor: int) -> bool:
    """Tell whether vng may open what a descriptor of this process leads to a second time, as it does with 0 to 2.

    A file of another user, or a socket, cannot be opened, and then vng waits for ever or loses what the command prints.
    A regular file can be, but is cut off by it.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _through_pipes(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run vng with pipes of our own as its standard streams, which it may open, and return its exit status."""
    given: list[IO[bytes] | int] = []
    writers: list[subprocess.Popen[bytes]] = []
    reader: subprocess.Popen[bytes] | None = None
    for descriptor in range(3):
        if not _is_open(descriptor):
            given.append(subprocess.DEVNULL)
        elif descriptor == 0:
            reader = subprocess.Popen(["cat"], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
            assert reader.stdout is not None
            given.append(reader.stdout)
        else:
            writer = subprocess.Popen(
                ["cat"], stdin=subprocess.PIPE, stdout=descriptor, preexec_fn=die_with_parent, start_new_session=True
            )
            assert writer.stdin is not None
            writers.append(writer)
            given.append(writer.stdin)
    stdin, stdout, stderr = given
    with subprocess.Popen(
        argv, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, preexec_fn=die_with_parent
    ) as vng:
        try:
            for stream in given:
                if not isinstance(stream, int):
                    stream.close()
            status = vng.wait()
        except BaseException:
            vng.terminate()
            raise
        finally:
            if reader is not None:
                reader.kill()
                reader.wait()
    for writer in writers:
        writer.wait()
    return status if status >= 0 else 128 - status


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _writable(here: Path) -> list[Path]:
    """Return folders that a shell is likely to write to, and for which vng has no overlay of its own."""
    folders = [
        folder
        for folder in (Path("/root"), here)
        if folder.is_dir() and folder != Path("/") and not any(folder.is_relative_to(known) for known in _OVERLAYS)
    ]
    # vng passes them on in one string, cut at blanks.
    return [folder for folder in dict.fromkeys(folders) if not any(letter.isspace() for letter in str(folder))]


def _on_root(pool: Pool, choice: Choice) -> MachineSpec:
    """Bring a kernel that can mount the host's root: the one that was named, or its release in another flavour."""
    from harness import kernel
    from harness.kernel.files.root_fs import lacks

    spec = pool.prepare(choice)
    missing = lacks(spec.kernel)
    if not missing:
        return spec
    why = f"{spec.kernel.release} cannot mount this machine's root: it was built without {', '.join(missing)}"
    for flavour in _STAND_INS:
        try:
            (other,) = kernel.resolve([f"{choice.version}:{flavour}"], progress=say)
        except SelectorError:
            continue  # not to be had in this flavour
        found = pool.prepare(other)
        if not lacks(found.kernel):
            say(f"{why}; taking {found.kernel.release}, the same release in flavour {flavour}")
            return found
    raise UsageError(
        why,
        expected=f"a kernel {choice.version} with 9p over virtio and overlayfs, as the flavours "
        f"{' and '.join(_STAND_INS)} have them",
        hint=f"harness kernels build {choice.version} --flavour minimal; or --image test, which needs none of it",
    )
