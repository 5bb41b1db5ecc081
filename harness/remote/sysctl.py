"""Settings of the guest's kernel below /proc/sys, changed for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.guest import calls
from harness.remote.command import BpfError, Commands

JIT = "net.core.bpf_jit_enable"
"""Whether the kernel compiles BPF programs; one built without an interpreter does not switch it off."""
UNPRIVILEGED = "kernel.unprivileged_bpf_disabled"
"""Whether bpf(2) refuses the unprivileged: 0 no; 1 yes, and for good; 2 yes (5.13 and later)."""


def path_of(name: str) -> str:
    """Return the file of a setting."""
    return f"/proc/sys/{name.replace('.', '/')}"


def read(commands: Commands, name: str) -> str:
    """Return the value of a setting.

    Raises:
        BpfError: The kernel has no such setting.
    """
    path = path_of(name)
    return commands.ask(f"read of {path}", calls.Files.read_file, path=path).strip().decode()


@contextlib.contextmanager
def sysctl(commands: Commands, name: str, value: str) -> Iterator[None]:
    """Give a setting a value for a while.

    Args:
        commands: Those of the guest process that writes it.
        name: Its name, as sysctl(8) has it.
        value: The value.

    Raises:
        BpfError: The kernel has no such setting, or refuses the value.
    """
    path = path_of(name)
    before = read(commands, name)
    if before == value:  # where it is 0, some kernels allow unprivileged_bpf_disabled no value but 1
        yield
        return
    commands.ask(f"write to {path}", calls.Files.write_file, path=path, data=value.encode())
    try:
        yield
    finally:
        commands.ask(f"write to {path}", calls.Files.write_file, path=path, data=before.encode())


@contextlib.contextmanager
def restricted(commands: Commands) -> Iterator[bool]:
    """Forbid bpf(2) to the unprivileged for a while, as distributions do.

    Yields:
        Whether it can be allowed again: before 5.13, 1 is the only value that forbids it, and there is no way back.

    Raises:
        BpfError: The kernel has no such setting.
    """
    with contextlib.ExitStack() as stack:
        can_return = True
        try:
            stack.enter_context(sysctl(commands, UNPRIVILEGED, "2"))
        except BpfError:
            can_return = False
            path = path_of(UNPRIVILEGED)
            commands.ask(f"write to {path}", calls.Files.write_file, path=path, data=b"1")
        yield can_return
