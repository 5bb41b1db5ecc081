"""The remote BPF API: makes and finds maps, programs, links and BTF in the guest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.guest import calls
from harness.guest.api import asm
from harness.guest.api.btf import encode
from harness.guest.api.uapi import MAP_TYPES, PROG_TYPES
from harness.remote.command import Answer, Commands, HasFd
from harness.remote.map import Map
from harness.remote.objects import Btf, Held, Link, Program, SocketFilter
from harness.util.architecture import ByteOrder
from harness.vm.guest_process import GuestProcess

if TYPE_CHECKING:
    from harness.guest.api.btf import Type

O_RDONLY = 0


class Bpf:
    """bpf(2) in one guest process.

    Args:
        process: The guest process.
        loader: The loader of system calls: "raw", "libbpf" or "bcc".
    """

    def __init__(self, process: GuestProcess, loader: str = "raw") -> None:
        self.commands = Commands(process, loader)
        self.loader = loader

    @property
    def byte_order(self) -> ByteOrder:
        """The order of the bytes of the guest's integers, for `int.to_bytes` and `int.from_bytes`."""
        return self.commands.byte_order

    def command(self, name: str, /, outputs: dict[str, int | bytes] | None = None, **fields: Any) -> Answer:
        """Issue any bpf(2) command, for commands without a method below.

        Args:
            name: The command without its BPF_ prefix: "PROG_BIND_MAP".
            outputs: Pointers to output buffers: the size in bytes, or the initial content.
            **fields: Fields of union bpf_attr, with the names in harness.guest.api.layouts.COMMANDS.

        Raises:
            BpfError: The kernel refused it.
        """
        return self.commands.issue(name, fields, outputs)

    # Maps.

    def map(
        self,
        type: str,  # noqa: A002 - the field's name
        *,
        key_size: int = 4,
        value_size: int = 4,
        max_entries: int = 1,
        inner: HasFd | None = None,
        name: str = "",
        **attributes: Any,
    ) -> Map:
        """Create a map; it is closed soon after the test has dropped the result.

        Args:
            type: "hash", "array", "hash_of_maps", "array_of_maps", ... from harness.guest.api.uapi.MAP_TYPES.
            key_size: Bytes.
            value_size: Bytes.
            max_entries: Elements.
            inner: The template of an outer map.
            name: Up to 15 characters (4.15 and later).
            **attributes: More fields of union bpf_attr, such as map_flags or inner_map_fd.

        Raises:
            BpfError: The kernel refused it.
        """
        fields: dict[str, Any] = {
            "map_type": type,
            "key_size": key_size,
            "value_size": value_size,
            "max_entries": max_entries,
            **attributes,
        }
        if inner is not None:
            fields["inner_map_fd"] = inner
        if name:
            fields["map_name"] = name
        fd = self.commands.issue("MAP_CREATE", fields).result
        return Map(self.commands, fd, type, key_size, value_size).owned()

    def map_by_id(self, map_id: int, *, open_flags: int = 0, like: Map | None = None) -> Map:
        """Open the map with this id (4.13 and later).

        Args:
            map_id: The id.
            open_flags: Flags of the descriptor.
            like: A map of the same type and sizes; without it, another command asks for them.

        Raises:
            BpfError: The kernel refused it; ENOENT when no such map exists.
        """
        return self._map(self._by_id("MAP", map_id, open_flags), like)

    def pinned_map(self, path: str, *, file_flags: int = 0, like: Map | None = None) -> Map:
        """Open a pinned map; `like` as for :meth:`map_by_id`."""
        return self._map(self._get(path, file_flags), like)

    def _map(self, fd: int, like: Map | None) -> Map:
        if like is not None:
            return Map(self.commands, fd, like.type, like.key_size, like.value_size).owned()
        unknown = Map(self.commands, fd, "unknown", 0, 0)
        info = unknown.info()
        return Map(self.commands, fd, _name_of(MAP_TYPES, info["type"]), info["key_size"], info["value_size"]).owned()

    # Programs.

    def prog(
        self,
        type: str,  # noqa: A002 - the field's name
        instructions: bytes | tuple[asm.Instruction | asm.Label, ...] | list[asm.Instruction | asm.Label],
        *,
        license: str = "Dual MIT/GPL",  # noqa: A002 - the field's name
        name: str = "",
        log_level: int | None = None,
        **attributes: Any,
    ) -> Program:
        """Load a program; it is closed soon after the test has dropped the result.

        Args:
            type: "socket_filter", "xdp", "syscall", ... from harness.guest.api.uapi.PROG_TYPES.
            instructions: The program: assembled bytes, or arguments of :func:`harness.guest.api.asm.assemble`.
            license: Its licence; only a GPL-compatible program may call all helpers.
            name: Up to 15 characters (4.15 and later).
            log_level: The verifier's verbosity: 1, 2 or 4, or'ed; 0 for no log; None for a log only after a
                refusal, by loading again.
            **attributes: More fields of union bpf_attr: expected_attach_type, prog_flags, prog_btf_fd ...

        Raises:
            BpfError: The kernel refused it; the error has the verifier's log.
        """
        code = instructions if isinstance(instructions, bytes) else self.assemble(*instructions)
        fields: dict[str, Any] = {
            "prog_type": type,
            "insns": code,
            "insn_cnt": len(code) // asm.INSTRUCTION_SIZE,
            "license": license,
            **attributes,
        }
        if name:
            fields["prog_name"] = name
        fd, log = self.commands.load(fields, log_level)
        return Program(self.commands, fd, type, log).owned()

    def assemble(self, *items: asm.Instruction | asm.Label) -> bytes:
        """Return a program's bytes in the guest's order; see :func:`harness.guest.api.asm.assemble`."""
        return asm.assemble(*items, byte_order=self.byte_order)

    def prog_by_id(self, prog_id: int) -> Program:
        """Open the program with this id (4.13 and later)."""
        return self._prog(self._by_id("PROG", prog_id, 0))

    def pinned_prog(self, path: str) -> Program:
        """Open a pinned program."""
        return self._prog(self._get(path, 0))

    def _prog(self, fd: int) -> Program:
        number = Program(self.commands, fd, "unknown").info()["type"]
        return Program(self.commands, fd, _name_of(PROG_TYPES, number)).owned()

    # Attaching.

    def attach(self, program: HasFd, target: HasFd, attach_type: str, flags: int = 0, **fields: Any) -> None:
        """Attach a program with PROG_ATTACH, to a cgroup or a map of sockets."""
        self.command(
            "PROG_ATTACH",
            target_fd=target,
            attach_bpf_fd=program,
            attach_type=attach_type,
            attach_flags=flags,
            **fields,
        )

    def detach(self, program: HasFd, target: HasFd, attach_type: str) -> None:
        """Undo :meth:`attach`."""
        self.command("PROG_DETACH", target_fd=target, attach_bpf_fd=program, attach_type=attach_type)

    def link(self, program: HasFd, attach_type: str, target: HasFd | int = 0, **fields: Any) -> Link:
        """Attach a program with LINK_CREATE (5.7 and later).

        Args:
            program: The program.
            attach_type: "cgroup_inet_ingress", "xdp", "trace_iter", ...
            target: The attachment point: a file, or the number of an interface.
            **fields: More fields: flags, bpf_cookie, iter_info ...

        Raises:
            BpfError: The kernel refused it.
        """
        answer = self.command("LINK_CREATE", prog_fd=program, target_fd=target, attach_type=attach_type, **fields)
        return Link(self.commands, answer.result)

    def link_by_id(self, link_id: int) -> Link:
        """Open the link with this id (5.8 and later)."""
        return Link(self.commands, self._by_id("LINK", link_id, 0))

    def pinned_link(self, path: str) -> Link:
        """Open a pinned link."""
        return Link(self.commands, self._get(path, 0))

    def raw_tracepoint(self, program: HasFd, name: str = "") -> Link:
        """Attach a program to a raw tracepoint (4.17 and later); a tracing program names its own."""
        return Link(self.commands, self.command("RAW_TRACEPOINT_OPEN", name=name or None, prog_fd=program).result)

    def tracepoint(self, program: HasFd, category: str, event: str) -> Held:
        """Attach a program to a tracepoint, such as ("raw_syscalls", "sys_enter"), until the result is closed."""
        fd = self.commands.ask(
            "perf_event_open", calls.Hooks.tracepoint, prog_fd=program.fd, category=category, event=event
        )
        return Held(self.commands, fd)

    def kprobe(self, program: HasFd, symbol: str, *, at_return: bool = False) -> Held:
        """Attach a program to a function of the kernel (4.17 and later), until the result is closed."""
        fd = self.commands.ask(
            "perf_event_open", calls.Hooks.kprobe, prog_fd=program.fd, symbol=symbol, at_return=at_return
        )
        return Held(self.commands, fd)

    def socket_filter(self, program: HasFd) -> SocketFilter:
        """Attach a program to the receiver of a new pair of datagram sockets."""
        fd = self.commands.ask("setsockopt SO_ATTACH_BPF", calls.Hooks.socket_filter, prog_fd=program.fd)
        return SocketFilter(self.commands, fd)

    # BTF, ids and the rest.

    def btf(self, content: bytes | Sequence[Type]) -> Btf:
        """Load BTF (4.18 and later).

        Args:
            content: Types of :mod:`harness.guest.api.btf`, or their BTF in the guest's byte order.

        Raises:
            BpfError: The kernel refused it.
        """
        data = content if isinstance(content, bytes) else encode(*content, byte_order=self.byte_order)
        return Btf(self.commands, self.command("BTF_LOAD", btf=data, btf_size=len(data)).result)

    def btf_by_id(self, btf_id: int) -> Btf:
        """Open the BTF with this id."""
        return Btf(self.commands, self._by_id("BTF", btf_id, 0))

    def ids(self, kind: str) -> list[int]:
        """Return the ids of all existing objects of the kind "map", "prog", "btf" or "link".

        Raises:
            BpfError: EINVAL when the kernel lacks the command (maps and programs before 4.13, BTF before 5.4, links
                before 5.8).
        """
        return self.commands.ask(f"{kind.upper()}_GET_NEXT_ID", calls.Bpf.ids, kind=kind)

    def settle(self) -> int:
        """Wait until the kernel has freed what it frees later: no map, program or link appears or goes any more.

        An object whose last holder is gone may keep its id for some milliseconds. Call this before asserting that an
        id is gone; for any other condition there is :func:`harness.testing.eventually`.

        Returns:
            Milliseconds that it took.

        Raises:
            BpfError: ETIMEDOUT: they have not stopped changing for 20 s.
        """
        return self.commands.ask("wait until the kernel has settled", calls.Bpf.settle)

    def map_ids(self) -> list[int]:
        """Return the ids of all maps of the guest (4.13 and later)."""
        return self.ids("map")

    def next_id(self, kind: str, start: int) -> int:
        """Return the id after `start`; ENOENT at the end."""
        answer = self.command(f"{kind.upper()}_GET_NEXT_ID", start_id=start)
        return answer.numbers["next_id"]

    def enable_stats(self) -> Held:
        """Let the kernel count run time and runs of programs until the result is closed (5.8 and later)."""
        return Held(self.commands, self.command("ENABLE_STATS", type=0).result)

    def open(self, path: str, flags: int = O_RDONLY) -> Held:
        """Open a file or folder of the guest, such as a cgroup's."""
        return Held(self.commands, self.commands.ask("open", calls.Files.open_file, path=path, flags=flags))

    def unpin(self, path: str) -> None:
        """Remove the file of a pinned object; the object exists as long as something else holds it."""
        self.commands.ask("unlink", calls.Files.remove, path=path)

    def cgroup(self, name: str) -> Held:
        """Create a cgroup and open it."""
        path = f"/sys/fs/cgroup/{name}"
        self.commands.ask("mkdir", calls.Files.make_folder, path=path)
        return self.open(path)

    def close(self, fd: int) -> None:
        """Close a file descriptor of the guest process."""
        self.commands.close(fd)

    def _by_id(self, kind: str, number: int, open_flags: int) -> int:
        return self.command(f"{kind}_GET_FD_BY_ID", id=number, open_flags=open_flags).result

    def _get(self, path: str, file_flags: int) -> int:
        return self.command("OBJ_GET", pathname=path, file_flags=file_flags).result


def _name_of(numbers: dict[str, int], number: int) -> str:
    return next((name for name, value in numbers.items() if value == number), f"type {number}")
