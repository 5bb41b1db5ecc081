"""Compiled BPF objects in the guest, opened, loaded and attached by libbpf.

Errors are the same as the raw loader's: :class:`BpfError` with errno and verifier log. Maps and programs of a loaded
object are the same classes as the raw loader's, so both loaders work on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import needs
from harness.errors import UsageError
from harness.guest import calls
from harness.image.build import optional_libraries
from harness.remote import transfer
from harness.remote.command import BpfError, Commands, HasFd
from harness.remote.map import Map
from harness.remote.objects import Program
from harness.util import clang
from harness.vm.spec import MachineSpec

LIBRARY = "libbpf.so.1"

# Loading an object verifies each of its programs; refused programs are verified twice.
_LOAD_TIMEOUT = 120.0

_VERIFIER_LOG = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)


@dataclass(frozen=True)
class MapDefinition:
    """The definition of a map in an object.

    Attributes:
        name: Its name.
        type: "hash", "array_of_maps", ...
        key_size: Bytes.
        value_size: Bytes.
        max_entries: Elements.
        map_flags: Flags.
        inner: The definition of an outer map's inner maps; None if the object has none.
    """

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    inner: MapDefinition | None = None


@dataclass(frozen=True)
class ProgramDefinition:
    """The definition of a program in an object.

    Attributes:
        name: Its name.
        section: Its section, from which libbpf derives its type and attachment.
        type: "socket_filter", "xdp", ...
        autoload: Whether it is loaded with the object.
    """

    name: str
    section: str
    type: str
    autoload: bool


@dataclass
class Definitions:
    """The content of an object: its maps and programs by name."""

    maps: dict[str, MapDefinition] = field(default_factory=dict)
    programs: dict[str, ProgramDefinition] = field(default_factory=dict)


def require_library() -> None:
    """Check that the guest image has the library.

    Raises:
        ToolMissing: It does not, because this machine does not have it.
    """
    if LIBRARY not in optional_libraries():
        raise needs.missing(
            LIBRARY,
            what=f"{LIBRARY} is not installed on this machine, so the guest image does not have it",
            expected="libbpf 1.0 or newer",
        )


class Libbpf:
    """libbpf in one guest process.

    Attributes:
        commands: The process's commands.
    """

    def __init__(self, commands: Commands) -> None:
        require_library()
        self.commands = commands

    @property
    def version(self) -> str:
        """The library's version, "v1.1"."""
        return self.commands.process.ask(calls.Libbpf.version)

    def open(self, source: Path | str | bytes, name: str = "", *, btf: str = "") -> BpfObject:
        """Open a compiled object, without loading it yet.

        An object that reads settings of the kernel's configuration (`extern int CONFIG_HZ __kconfig`) finds the
        configuration where distributions have it, in /boot.

        Args:
            source: Path of an object file, or its content. An object that the fixture `bpf_object` has compiled is
                compiled again for a guest of another architecture.
            name: Its name in libbpf; default: the file's name.
            btf: Path of a file in the guest with the kernel's types, in place of the kernel's own.

        Raises:
            UsageError: There is no such file, or it is an object for machines of the other byte order.
            BpfError: libbpf refuses it; the error's log has libbpf's messages.
        """
        spec = self.commands.process.machine.spec
        if isinstance(source, bytes):
            data, known_as = source, name or "object"
        else:
            path = clang.for_architecture(Path(source), spec.architecture)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UsageError(f"the BPF object {path} cannot be read: {error.strerror}") from error
            known_as = name or path.name.partition(".")[0]
        _require_byte_order(data, known_as, spec)
        if b"\0.kconfig\0" in data:
            transfer.push_configuration(self.commands.process)
        answer = self.commands.process.ask_within(_LOAD_TIMEOUT, calls.Libbpf.open_object, data, known_as, btf)
        errno, handle, messages, described = answer
        if errno:
            raise BpfError(errno, "bpf_object__open_mem", {"name": known_as}, log=messages.decode(errors="replace"))
        return BpfObject(self, self.commands, handle, known_as, _definitions(described))


def _require_byte_order(data: bytes, name: str, spec: MachineSpec) -> None:
    """Refuse an object of the other byte order: versions of libbpf differ in what they say of it, and when."""
    byte_order = {1: "little", 2: "big"}.get(data[5] if len(data) > 5 and data.startswith(b"\x7fELF") else 0)
    guests = spec.architecture.byte_order
    if byte_order not in (None, guests):
        raise UsageError(
            f"the BPF object {name} is {byte_order}-endian, and the guest of {spec.label} ({spec.architecture.title}) "
            f"is {guests}-endian",
            expected=f"a {guests}-endian object",
            hint=f"compile it with -target {clang.target(spec.architecture)}, "
            "or let the fixture bpf_object compile its source",
        )


def _definitions(described: dict[str, Any]) -> Definitions:
    found = Definitions()
    for name, about in described["maps"].items():
        inner = about.pop("inner")
        found.maps[name] = MapDefinition(
            name, **about, inner=MapDefinition(f"{name}.inner", **inner) if inner is not None else None
        )
    for name, about in described["programs"].items():
        found.programs[name] = ProgramDefinition(name, **about)
    return found


PLACE_LOOKUPS = ("if_nametoindex", "open")
"""The commands of :class:`BpfError` by which :meth:`BpfObject.attach_to` looks for the place: nothing is there."""


class BpfObject:
    """An object in the guest. Prepare it, load it, use its maps and programs; close it or use a with-block.

    Attributes:
        library: The library that opened it.
        name: Its name in libbpf.
        definitions: Its content.
        messages: libbpf's messages so far, including warnings and verifier logs.
    """

    def __init__(self, library: Libbpf, commands: Commands, handle: int, name: str, definitions: Definitions) -> None:
        self.library = library
        self._commands = commands
        self._handle = handle
        self.name = name
        self.definitions = definitions
        self.messages = ""
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, Program] = {}
        self._templates: list[HasFd] = []

    def __enter__(self) -> BpfObject:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_inner_map(self, outer: str, template: HasFd) -> None:
        """Give an outer map its template (bpf_map__set_inner_map_fd); the template may be closed after loading."""
        # The library keeps the bare descriptor; a map that nobody refers to is closed.
        self._templates.append(template)
        self.set_map(outer, "inner_map_fd", template.fd)

    def set_map(self, name: str, setting: str, value: int) -> None:
        """Change a map before it is loaded.

        Args:
            name: The map.
            setting: The part after bpf_map__set_ in libbpf: max_entries, map_flags, autocreate ...
            value: A number.

        Raises:
            BpfError: libbpf refused.
            UsageError: The object has no such map.
        """
        self._check("map", name, self.definitions.maps)
        answer = self._commands.process.ask(calls.Libbpf.set_map, self._handle, name, setting, int(value))
        self._take(answer, f"bpf_map__set_{setting}", {"map": name, "value": value})

    def set_program(self, name: str, setting: str, value: int) -> None:
        """Change a program before it is loaded: autoload, expected_attach_type, ...; like :meth:`set_map`."""
        self._check("program", name, self.definitions.programs)
        answer = self._commands.process.ask(calls.Libbpf.set_program, self._handle, name, setting, int(value))
        self._take(answer, f"bpf_program__set_{setting}", {"program": name, "value": value})

    def autoload(self, *names: str) -> None:
        """Load only these programs."""
        for name in names:
            self._check("program", name, self.definitions.programs)
        for name in self.definitions.programs:
            self.set_program(name, "autoload", name in names)

    def keep_log(self, program: str, level: int = 1, room: int = (1 << 24) - 1) -> None:
        """Keep the verifier's log of a program, accepted or refused, for :meth:`log_of`.

        Args:
            program: The program.
            level: The verifier's log level.
            room: Bytes of the buffer; kernels before 5.3 refuse more than 16 MiB.
        """
        self._check("program", program, self.definitions.programs)
        self._commands.process.ask(calls.Libbpf.keep_log, self._handle, program, level, room)

    def log_of(self, program: str) -> str:
        """Return the verifier's log of a program; see :meth:`keep_log`."""
        return self._commands.process.ask(calls.Libbpf.program_log, self._handle, program).decode(errors="replace")

    def share_log(self, level: int, room: int) -> None:
        """Keep the verifier's log of the program that is refused, for :meth:`shared_log`, in one buffer for all.

        Args:
            level: The verifier's log level; 0: a log is asked for only when a program is refused, as libbpf does.
            room: Bytes of the buffer.
        """
        self._commands.process.ask(calls.Libbpf.share_log, self._handle, level, room)

    def shared_log(self) -> str:
        """Return the log that :meth:`share_log` has kept."""
        return self._commands.process.ask(calls.Libbpf.shared_log, self._handle).decode(errors="replace")

    def map_flags(self, name: str) -> int:
        """Return the flags of a map as libbpf has them now; :meth:`load`, refused too, may have changed them."""
        return self._commands.process.ask(calls.Libbpf.map_flags, self._handle, name)

    def set_bytes(self, section: str, offset: int, data: bytes) -> None:
        """Change initial values of global variables before the object is loaded.

        Args:
            section: ".rodata", ".data" or ".bss".
            offset: Bytes from its start.
            data: What to put there.

        Raises:
            BpfError: The object has no such section, or it is shorter.
        """
        errno = self._commands.process.ask(calls.Libbpf.set_bytes, self._handle, section, offset, data)
        self._take((errno, b""), "bpf_map__initial_value", {"section": section, "offset": offset})

    def load(self, *, timeout: float = _LOAD_TIMEOUT) -> None:
        """Create the maps, fill the static slots of outer maps, load the programs.

        Args:
            timeout: Seconds.

        Raises:
            BpfError: libbpf or the kernel refused; its log is the verifier's log, else libbpf's messages.
        """
        answer = self._commands.process.ask_within(timeout, calls.Libbpf.load_object, self._handle)
        errno, messages, found = answer
        self._take((errno, messages), "bpf_object__load", {"object": self.name})
        for name, fd in found["maps"].items():
            about = self.definitions.maps[name]
            self.maps[name] = Map(self._commands, fd, about.type, about.key_size, about.value_size)
        for name, fd in found["programs"].items():
            if fd >= 0:
                self.programs[name] = Program(self._commands, fd, self.definitions.programs[name].type)

    def map(self, name: str) -> Map:
        """Return a map of the loaded object."""
        self._check("map", name, self.maps)
        return self.maps[name]

    def prog(self, name: str) -> Program:
        """Return a program of the loaded object."""
        self._check("program", name, self.programs)
        return self.programs[name]

    def attach(self, name: str) -> Attachment:
        """Attach a program according to its section, until the result is closed.

        Raises:
            BpfError: libbpf or the kernel refused.
        """
        self._check("program", name, self.programs)
        errno, link, fd, messages = self._commands.process.ask(calls.Libbpf.attach, self._handle, name)
        self._take((errno, messages), "bpf_program__attach", {"program": name})
        return Attachment(self._commands, link, fd)

    def attach_to(self, name: str, hook: str, target: str = "") -> Attachment:
        """Attach a program to a place that its section does not name, until the result is closed.

        Args:
            name: The program.
            hook: "xdp" or "tc" (the part of an interface that receives; the kernel needs its modules sch_ingress and
                cls_bpf, and closing does not detach), "cgroup" or "netns" (the guest's own).
            target: The interface's name; the cgroup's path below the root of cgroups, "/" for the root.

        Raises:
            BpfError: There is no such interface or cgroup, or libbpf or the kernel refused.
        """
        self._check("program", name, self.programs)
        process = self._commands.process
        if hook in ("xdp", "tc"):
            place = self._commands.ask("if_nametoindex", calls.Hooks.interface, name=target)
        else:
            path = "/proc/self/ns/net" if hook == "netns" else f"/sys/fs/cgroup/{target.strip('/')}"
            place = self._commands.ask("open", calls.Files.open_file, path=path, flags=0)
        errno, link, fd, messages = process.ask(calls.Libbpf.attach_to, self._handle, name, hook, place)
        self._take((errno, messages), f"bpf_program__attach_{hook}", {"program": name, "target": target})
        return Attachment(self._commands, link, fd)

    def close(self) -> None:
        """Close the object with its maps and programs."""
        for held in (*self.maps.values(), *self.programs.values()):
            held.closed = True
        self._commands.process.ask(calls.Libbpf.close_object, self._handle)

    def _take(self, answer: tuple[int, bytes], function: str, attributes: dict[str, Any]) -> None:
        errno, said = answer
        text = said.decode(errors="replace")
        self.messages += text
        if errno:
            found = _VERIFIER_LOG.search(text)
            raise BpfError(errno, function, attributes, log=found[1] if found else text)

    def _check(self, kind: str, name: str, known: dict[str, Any]) -> None:
        if name not in known:
            raise UsageError(
                f"the object {self.name} has no {kind} {name!r}",
                expected=f"one of {', '.join(known)}" if known else f"a loaded object with a {kind}",
            )


class Attachment:
    """An attachment by libbpf; closing it detaches.

    Attributes:
        fd: Its descriptor.
    """

    def __init__(self, commands: Commands, link: int, fd: int) -> None:
        self._commands = commands
        self._link = link
        self.fd = fd

    def __enter__(self) -> Attachment:  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach."""
        self._commands.process.ask(calls.Libbpf.detach, self._link)
