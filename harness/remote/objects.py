"""Programs, links, BTF and other descriptors of the guest as objects on the host; maps are in the module beside.

Each represents one file descriptor of a guest process. Closing it (or leaving its with-block) closes that descriptor;
the object in the kernel exists as long as something else holds it. The descriptor of a map or program that no object on
the host stands for any more is closed with one of the next requests. The end of the guest process, at the end of the
test, closes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from harness.guest import calls
from harness.guest.api import asm
from harness.remote.command import Commands, HasFd
from harness.vm.machine import State

Self = TypeVar("Self", bound="Held")
Owned = TypeVar("Owned", bound="KernelObject")


class Held:
    """A file descriptor of the guest process.

    Attributes:
        fd: Its number in that process.
    """

    kind = "file"

    def __init__(self, commands: Commands, fd: int) -> None:
        self.commands = commands
        self.fd = fd
        self.closed = False

    def __repr__(self) -> str:
        return f"<{self.kind}, fd {self.fd}{', closed' if self.closed else ''}>"

    def __enter__(self: Self) -> Self:  # noqa: PYI019 - typing.Self came with 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fdinfo(self) -> dict[str, str]:
        """Return the lines of /proc/self/fdinfo for it."""
        return self.commands.ask("read of fdinfo", calls.Descriptors.fdinfo, fd=self.fd)

    def read(self) -> bytes:
        """Read it to its end (at most 32 MiB)."""
        return self.commands.ask("read", calls.Files.read_all, fd=self.fd)

    def close(self) -> None:
        """Close the descriptor; does nothing when it is closed, or its machine is gone."""
        if not self.closed:
            self.closed = True
            # When a kernel crashes in a with-block, the crash is the error to report.
            if self.commands.process.machine.state is not State.DEAD:
                self.commands.close(self.fd)


class KernelObject(Held):
    """A map, program, link or BTF: an object with an id and information from the kernel."""

    def __init__(self, commands: Commands, fd: int) -> None:
        super().__init__(commands, fd)
        self._id: int | None = None
        self._owner: object = None

    def owned(self: Owned) -> Owned:  # noqa: PYI019 - typing.Self came with 3.11
        """Return it; from now on its descriptor is closed soon after nothing refers to this object any more."""
        self._owner = self.commands.process.own(self.fd)
        return self

    def __del__(self) -> None:
        # It may be half made, where its constructor raised.
        owner = getattr(self, "_owner", None)
        if owner is not None:
            self.commands.process.drop(self.fd, owner)

    @property
    def id(self) -> int:
        """The object's id in the kernel (maps and programs from 4.13, BTF from 4.18, links from 5.8)."""
        if self._id is None:
            self._id = int(self.info()["id"])
        return self._id

    def info(self) -> dict[str, Any]:
        """Return the fields of OBJ_GET_INFO_BY_FD that this kernel fills."""
        return self.commands.ask("OBJ_GET_INFO_BY_FD", calls.Bpf.info, fd=self.fd, kind=self.kind)

    def pin(self, path: str) -> None:
        """Pin it in a bpf file system: "/sys/fs/bpf/NAME"."""
        self.commands.issue("OBJ_PIN", {"pathname": path, "bpf_fd": self.fd})


@dataclass(frozen=True)
class Run:
    """The result of a test run of a program.

    Attributes:
        retval: The program's return value, unsigned 32 bits.
        data: The packet after the run.
        context: The context after the run.
        duration: Nanoseconds of one run, measured by the kernel.
    """

    retval: int
    data: bytes
    context: bytes
    duration: int


_PACKET_PROGRAMS = frozenset(
    {"socket_filter", "sched_cls", "sched_act", "xdp", "cgroup_skb", "lwt_in", "lwt_out", "lwt_xmit", "flow_dissector"}
)
_PACKET_ROOM = 256
_PACKET = bytes(64)


class Program(KernelObject):
    """One loaded program.

    Attributes:
        type: "socket_filter", "xdp", ...
        log: The verifier's log from loading; "" unless requested.
    """

    kind = "prog"

    def __init__(self, commands: Commands, fd: int, type_: str, log: str = "") -> None:
        super().__init__(commands, fd)
        self.type = type_
        self.log = log

    def __repr__(self) -> str:
        return f"<{self.type} program, fd {self.fd}{', closed' if self.closed else ''}>"

    def run(self, data: bytes | None = None, context: bytes = b"", *, repeat: int = 0, flags: int = 0) -> Run:
        """Run the program once in the kernel (PROG_TEST_RUN).

        Args:
            data: The packet; default: 64 zero bytes if the program's type needs a packet.
            context: The context of a syscall program or a raw tracepoint.
            repeat: Number of runs; 0 and 1 both mean one.
            flags: Flags of the command.

        Raises:
            BpfError: The kernel refused.
        """
        if data is None and self.type in _PACKET_PROGRAMS:
            data = _PACKET
        fields: dict[str, Any] = {"prog_fd": self.fd, "repeat": repeat, "flags": flags}
        outputs: dict[str, int | bytes] = {}
        if data is not None:
            fields |= {"data_in": data, "data_size_in": len(data), "data_size_out": len(data) + _PACKET_ROOM}
            outputs["data_out"] = len(data) + _PACKET_ROOM
        if context and self.type == "syscall":
            # The kernel writes such a context back to the same place.
            fields |= {"ctx_size_in": len(context)}
            outputs["ctx_in"] = context
        elif context:
            fields |= {"ctx_in": context, "ctx_size_in": len(context)}
            if data is not None:
                fields |= {"ctx_size_out": len(context)}
                outputs["ctx_out"] = len(context)
        answer = self.commands.issue("PROG_TEST_RUN", fields, outputs)
        size = answer.numbers.get("data_size_out", fields.get("data_size_out", 0))
        return Run(
            answer.numbers.get("retval", 0),
            answer.buffers.get("data_out", b"")[:size],
            answer.buffers.get("ctx_in") or answer.buffers.get("ctx_out", b""),
            answer.numbers.get("duration", 0),
        )

    def translated(self) -> list[asm.Instruction]:
        """Return its instructions after verification, for example with inlined calls (4.13 and later).

        The second slot of a 64-bit load is merged into the first; addresses of maps, which the kernel hides, are 0 or
        an id.

        Raises:
            BpfError: The kernel refused.
        """
        code = self.commands.ask("OBJ_GET_INFO_BY_FD", calls.Bpf.translated, fd=self.fd)
        return asm.disassemble(code, self.commands.byte_order)


class Link(KernelObject):
    """A link, which keeps a program attached (5.7 and later; raw tracepoints from 4.17)."""

    kind = "link"

    def update(self, program: HasFd, *, old: HasFd | None = None) -> None:
        """Replace its program; with `old`, only if that is the current program."""
        fields: dict[str, Any] = {"link_fd": self.fd, "new_prog_fd": program}
        if old is not None:
            fields |= {"flags": 4, "old_prog_fd": old}  # BPF_F_REPLACE
        self.commands.issue("LINK_UPDATE", fields)

    def detach(self) -> None:
        """Detach the program without closing the link (5.9 and later)."""
        self.commands.issue("LINK_DETACH", {"link_fd": self.fd})

    def iterate(self) -> bytes:
        """Run a bpf_iter program over all objects and return its output (5.8 and later)."""
        with Held(self.commands, self.commands.issue("ITER_CREATE", {"link_fd": self.fd}).result) as iterator:
            return iterator.read()


class Btf(KernelObject):
    """Type information in the kernel."""

    kind = "btf"


class SocketFilter(Held):
    """A pair of datagram sockets with a program as the receiver's filter."""

    def send(self, data: bytes) -> bytes | None:
        """Send a datagram; return the part that the program let through, None when it dropped the datagram."""
        return self.commands.ask("send", calls.Hooks.socket_send, fd=self.fd, data=data)

    def close(self) -> None:
        """Close both sockets."""
        if not self.closed:
            self.closed = True
            self.commands.ask("close", calls.Hooks.socket_close, fd=self.fd)
