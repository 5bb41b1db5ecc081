"""The architectures of kernels: what differs between them, from `kernels/architectures.toml`."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import SelectorError
from harness.util.data import read_toml

ByteOrder = Literal["little", "big"]
"""What `int.to_bytes`, `int.from_bytes` and `sys.byteorder` call an order of bytes."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """One architecture; the fields are explained in `kernels/architectures.toml`."""

    name: str
    aliases: tuple[str, ...]
    title: str
    machine: str
    kcidb: str
    elf: int
    byte_order: ByteOrder
    page_sizes: tuple[int, ...]
    triplet: str
    bpf_arch: str
    image: str
    magic: str
    magic_at: int
    image_path: str
    kbuild: str
    qemu: str
    qemu_machine: str
    machine_options: tuple[str, ...]
    cpu: str
    flavour_options: Mapping[str, str]
    vng: str
    console: str
    channel: str
    channel_options: tuple[str, ...]
    disk: str
    card: str
    dropped: tuple[str, ...]
    shared: str
    ioctl_none: int
    ioctl_write: int
    syscalls: Mapping[str, int]
    flavours: Mapping[str, str]
    kernel_parameters: tuple[str, ...] = ()
    keeps_timers: bool = True
    restarts_timers: bool = False
    memory_step: int = 1
    least_memory: int = 0

    @property
    def is_own(self) -> bool:
        """Whether this machine has it; any other is emulated."""
        return self.name == own().name

    @property
    def cross(self) -> str:
        """What the names of compilers for it begin with: that of a cross compiler, or "" for this machine's own."""
        return "" if self.is_own else f"{self.triplet}-"

    @property
    def clone_polls(self) -> bool:
        """Whether a clone looks into the shared memory for its first request, for which it needs its timers."""
        return bool(self.shared) and self.keeps_timers


@functools.cache
def known() -> Mapping[str, Architecture]:
    """Return every architecture, by name.

    Raises:
        InfrastructureError: The installation lacks the table, or it is damaged.
    """
    found = {}
    for record in read_toml("kernels", "architectures.toml")["architecture"]:
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        found[fields["name"]] = Architecture(**fields)
    return found


def own_name() -> str:
    """Return the name of this machine's own architecture."""
    return own().name


@functools.cache
def own() -> Architecture:
    """Return this machine's own architecture.

    Raises:
        SelectorError: The harness does not know it.
    """
    machine = platform.machine()
    for one in known().values():
        if one.machine == machine:
            return one
    raise SelectorError(
        f"the harness knows no architecture {machine}, which is this machine's",
        expected="a machine of " + names(),
        hint="a record in kernels/architectures.toml makes it known",
    )


def named(word: str) -> Architecture | None:
    """Return the architecture with this name or alias; None when there is none."""
    return next((one for one in known().values() if word == one.name or word in one.aliases), None)


def is_other(word: str) -> bool:
    """Return whether a word names an architecture of Linux whose kernels the harness does not boot."""
    return word in read_toml("kernels", "architectures.toml")["others"]


def by_elf(number: int) -> Architecture | None:
    """Return the architecture with this number in ELF files (e_machine); None when there is none."""
    return next((one for one in known().values() if one.elf == number), None)


def require(word: str) -> Architecture:
    """Return the architecture with this name or alias.

    Raises:
        SelectorError: There is none.
    """
    found = named(word)
    if found is None:
        raise SelectorError(f"the harness boots no kernels for {word!r}", expected="one of " + names())
    return found


def or_own(word: str) -> Architecture:
    """Return the architecture with this name or alias; this machine's own for "".

    Raises:
        SelectorError: There is none.
    """
    return require(word) if word else own()


def names() -> str:
    """Return the names of all architectures, for messages."""
    return ", ".join(known())
