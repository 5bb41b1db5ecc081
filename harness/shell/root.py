"""A shell, or a command, in a guest on this machine's own root file system."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import kernel
from harness.errors import SelectorError, UsageError
from harness.kernel.files.root_fs import lacks
from harness.kernel.types import Choice
from harness.machines.pool import Pool
from harness.shell import streams
from harness.util import architecture
from harness.util.proc import quote
from harness.vm import process
from harness.vm.command import shell_argv
from harness.vm.spec import MachineSpec

Say = Callable[[str], None]

# Tried in this order for the same release, when a kernel cannot mount the host's root.
_STAND_INS = ("generic", "minimal")

# Where vng puts an overlay by itself.
_OVERLAYS = tuple(map(Path, ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")))  # noqa: S108


def open_shell(pool: Pool, choice: Choice, words: Sequence[str], *, memory: int, cpus: int, say: Say) -> int:
    """Boot a kernel on this machine's files, read-only below an overlay, with a shell or a command.

    Args:
        pool: Prepares kernels.
        choice: The kernel; another flavour of its release is taken where it cannot mount the root.
        words: The command; none: a shell in place of this process.
        memory: The guest's memory in MiB.
        cpus: Its virtual CPUs.
        say: Prints a line of progress.

    Returns:
        The exit status of the command.

    Raises:
        UsageError: A shell has no terminal, or no flavour of the release can mount the root.
        ToolMissing: A program is not installed.
    """
    if not words and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "a shell needs a terminal",
            expected="standard input and output to be one",
            hint="give it a command: harness shell -- uname -r",
        )
    if words:
        process.require_udev()
    spec = _on_root(pool, choice, say)
    vng = process.find_vng()
    argv = shell_argv(
        spec.kernel.boot_image,
        spec.accel,
        vng=vng,
        memory=memory,
        cpus=cpus,
        writable=_writable(Path.cwd()),
        command=words,
    )
    say(f"kernel {spec.kernel.release} ({spec.kernel.origin}), {spec.acceleration}")
    say(f"+ {quote(argv)}")
    sys.stderr.flush()
    if not words or all(map(streams.can_be_opened_anew, range(3))):
        # In place of this process: the terminal, its signals and the exit status are vng's alone.
        os.execve(argv[0], argv, process.vng_environment(vng))  # noqa: S606 - an argument list; no shell reads it
    return streams.through_pipes(argv, process.vng_environment(vng))


def _writable(here: Path) -> list[Path]:
    """Return folders that a shell is likely to write to, and for which vng has no overlay of its own."""
    folders = [
        folder
        for folder in (Path("/root"), here)
        if folder.is_dir() and folder != Path("/") and not any(folder.is_relative_to(known) for known in _OVERLAYS)
    ]
    # vng passes them on in one string, cut at blanks.
    return [folder for folder in dict.fromkeys(folders) if not any(letter.isspace() for letter in str(folder))]


def _on_root(pool: Pool, choice: Choice, say: Say) -> MachineSpec:
    """Bring a kernel that can mount the host's root: the one that was named, or its release in another flavour."""
    of = architecture.require(choice.architecture)
    if not of.is_own:
        raise UsageError(
            f"{choice.label} cannot run on this machine's files: they are programs for {architecture.own().title}, and "
            f"the kernel is for {of.title}",
            expected=f"a kernel for {architecture.own().title}",
            hint="give --image test, which opens a prompt on a machine as tests have it",
        )
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
