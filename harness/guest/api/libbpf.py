"""The libbpf loader: the library's functions through ctypes, with its messages.

It has two parts. :func:`attempt` and :func:`load` have the same interface as in :mod:`harness.guest.api.bpf`, but call
libbpf's wrappers instead of the system call. The functions about objects open, prepare, load and attach a compiled
object like a program that is linked with libbpf.

Runs in the guest.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import struct

from harness.guest.api import bpf, syscalls
from harness.guest.api.libbpf_commands import COMMANDS, LIBRARY, LOAD, OPEN, RUN, Call, packed
from harness.guest.api.uapi import MAP_TYPES, PROG_TYPES
from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from harness.guest.api.layouts import Layout

_MESSAGE_ROOM = (16 << 20) + 4096  # libbpf prints a verifier's log (at most 16 MiB) as one message
_LOG_ROOM = (1 << 24) - 1
_DEBUG = 2


class _Library:
    """libbpf and its messages since the last call."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(LIBRARY, use_errno=True)
        self.messages: list[bytes] = []
        self._room: ctypes.Array[ctypes.c_char] | None = None
        self._format = syscalls.libc.vsnprintf
        self._format.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._callback = kind(self._print)  # kept, because libbpf calls it as long as this process exists
        self._listens = False
        for name in (
            "bpf_object__open_mem",
            "bpf_object__next_map",
            "bpf_object__next_program",
            "bpf_object__find_map_by_name",
            "bpf_object__find_program_by_name",
            "bpf_map__inner_map",
            "bpf_program__attach",
        ):
            getattr(self.lib, name).restype = ctypes.c_void_p
        for name in ("bpf_map__name", "bpf_program__name", "bpf_program__section_name", "libbpf_version_string"):
            getattr(self.lib, name).restype = ctypes.c_char_p

    def listen(self) -> None:
        """Take the library's messages from now on. Until then they go to standard error, where it prints by itself."""
        if not self._listens:
            self._listens = True
            self.lib.libbpf_set_print(self._callback)

    def _print(self, level: int, form: bytes, arguments: int) -> int:
        if level < _DEBUG:
            self._room = self._room or _room(_MESSAGE_ROOM)
            size = self._format(self._room, _MESSAGE_ROOM, form, arguments)
            self.messages.append(ctypes.string_at(self._room, min(size, _MESSAGE_ROOM - 1)))
        return 0

    def take_messages(self) -> bytes:
        """Return the messages since the last call."""
        taken = b"".join(self.messages)
        self.messages.clear()
        return taken


def _room(size: int) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer of this many bytes; only pages that something is written to cost memory and time."""
    return (ctypes.c_char * size).from_buffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


_loaded: list[_Library] = []


def preload() -> None:
    """Load the library, so that processes forked from this one have it; the image need not have it."""
    with contextlib.suppress(OSError):  # the first use raises it again
        _loaded.append(_Library())


def _library() -> _Library:
    if not _loaded:
        _loaded.append(_Library())
    _loaded[0].listen()
    return _loaded[0]


def version() -> str:
    """Return the library's version, "v1.1"."""
    text: bytes = _library().lib.libbpf_version_string()
    return text.decode()


# Commands.


def attempt(
    name: str, fields: dict[str, Any], outputs: dict[str, int | bytes] | None = None, tail: bytes = b""
) -> bpf.Attempt:
    """Issue one command through libbpf's wrapper; arguments and result as for :func:`harness.guest.api.bpf.attempt`.

    Raises:
        CannotExpress: The library cannot issue this command, or pass one of these fields.
    """
    if name not in COMMANDS or tail:
        raise bpf.CannotExpress(
            f"{LIBRARY} has no function for BPF_{name}" + (" with bytes after its fields" * bool(tail))
        )
    buffers = {field: bytearray(given) for field, given in (outputs or {}).items()}
    call = Call(name, {**fields, **buffers})
    function, arguments = COMMANDS[name](call)
    call.finish()
    result = getattr(_library().lib, function)(*arguments)
    if result >= 0 and name in bpf.OPENS:
        provenance.note(bpf.OPENS[name], result)
    changed = dict(call.numbers)
    for kept in call.keep:
        if isinstance(kept, tuple):
            counter, field, given = kept
            if counter.value != given:
                changed[field] = counter.value
    if name == "PROG_TEST_RUN":
        changed = _changed(RUN, arguments[1], fields)
    return -result if result < 0 else 0, result, changed, {field: bytes(buffer) for field, buffer in buffers.items()}


def _changed(layout: Layout, after: Any, given: dict[str, Any]) -> dict[str, int]:
    found = {}
    for field, form, at in layout:
        if form == "I":
            (value,) = struct.unpack_from("=I", after, at)
            if value != (given.get(field) or 0):
                found[field] = value
    return found


def load(fields: dict[str, Any], log_level: int | None) -> tuple[int, int, bytes]:
    """Load a program through bpf_prog_load(); arguments and result as for :func:`harness.guest.api.bpf.load`."""
    log = mmap.mmap(-1, _LOG_ROOM)  # only pages that the kernel writes to are touched
    given = dict(fields)
    given.pop("insn_cnt", None)
    # With a buffer and level 0, the library asks for a log when the program is refused.
    if log_level is None or log_level:
        given.update(log_level=log_level or 0, log_size=len(log), log_buf=log)
    call = Call("PROG_LOAD", given)
    code = call.left.pop("insns")
    kind, name, licence = call.number("prog_type"), call.text("prog_name"), call.text("license")
    held = ctypes.create_string_buffer(code, len(code))
    options = call.options(LOAD)
    call.finish()
    result = _library().lib.bpf_prog_load(kind, name, licence, held, ctypes.c_size_t(len(code) // 8), options)
    if result >= 0:
        provenance.note("prog", result)
    return -result if result < 0 else 0, result, log[: max(log.find(b"\0"), 0)]


# Objects.


class _Object:
    """An opened object with its attachments."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer
        self.logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        self.shared_log: ctypes.Array[ctypes.c_char] | None = None


_objects: dict[int, _Object] = {}
_links: dict[int, int] = {}


def open_object(data: bytes, name: str, btf: str) -> tuple[int, int, bytes, dict[str, Any]]:
    """Open an object.

    Args:
        data: The ELF file.
        name: Its name in the library's messages.
        btf: Path of the kernel's types for CO-RE, in place of the kernel's own; "" for the kernel's own.

    Returns:
        The error number (0 for none), a handle, the library's messages, and the object's content: `maps` and
        `programs` by name.
    """
    library = _library()
    held_name, held_btf = (ctypes.create_string_buffer(text.encode()) for text in (name, btf))
    texts = {"object_name": held_name, **({"btf_custom_path": held_btf} if btf else {})}
    options = packed(OPEN, {field: ctypes.addressof(held) for field, held in texts.items()})
    pointer = library.lib.bpf_object__open_mem(data, ctypes.c_size_t(len(data)), options)
    if not pointer:
        return ctypes.get_errno(), 0, library.take_messages(), {}
    handle = len(_objects) + 1
    _objects[handle] = _Object(pointer)
    return 0, handle, library.take_messages(), _describe(pointer)


def _describe(pointer: int) -> dict[str, Any]:
    lib = _library().lib
    maps, programs = {}, {}
    for one in _walk(lib.bpf_object__next_map, pointer):
        inner = lib.bpf_map__inner_map(one)
        maps[lib.bpf_map__name(one).decode()] = {
            **_sizes(one),
            "inner": _sizes(ctypes.c_void_p(inner)) if inner else None,
        }
    for one in _walk(lib.bpf_object__next_program, pointer):
        programs[lib.bpf_program__name(one).decode()] = {
            "section": lib.bpf_program__section_name(one).decode(),
            "type": _name_of(PROG_TYPES, lib.bpf_program__type(one)),
            "autoload": bool(lib.bpf_program__autoload(one) & 1),
        }
    return {"maps": maps, "programs": programs}


def _walk(following: Any, pointer: int) -> list[ctypes.c_void_p]:
    found: list[ctypes.c_void_p] = []
    while True:
        next_one = following(ctypes.c_void_p(pointer), found[-1] if found else None)
        if not next_one:
            return found
        found.append(ctypes.c_void_p(next_one))


def _sizes(one: ctypes.c_void_p) -> dict[str, Any]:
    lib = _library().lib
    return {
        "type": _name_of(MAP_TYPES, lib.bpf_map__type(one)),
        "key_size": lib.bpf_map__key_size(one),
        "value_size": lib.bpf_map__value_size(one),
        "max_entries": lib.bpf_map__max_entries(one),
        "map_flags": lib.bpf_map__map_flags(one),
    }


def _name_of(numbers: dict[str, int], number: int) -> str:
    return next((name for name, value in numbers.items() if value == number), f"type {number}")


def _find(handle: int, kind: str, name: str) -> ctypes.c_void_p:
    find = getattr(_library().lib, f"bpf_object__find_{kind}_by_name")
    found = find(ctypes.c_void_p(_objects[handle].pointer), name.encode())
    if not found:
        raise LookupError(f"the object has no {kind} {name!r}")
    return ctypes.c_void_p(found)


def set_map(handle: int, name: str, setting: str, value: int) -> tuple[int, bytes]:
    """Change a map before it is loaded.

    Args:
        handle: The object.
        name: The map.
        setting: The part after bpf_map__set_ in the library: inner_map_fd, max_entries, map_flags, autocreate ...
        value: A number.

    Returns:
        The error number (0 for none) and the library's messages.
    """
    result = getattr(_library().lib, f"bpf_map__set_{setting}")(_find(handle, "map", name), value)
    return (-result if result < 0 else 0), _library().take_messages()


def set_program(handle: int, name: str, setting: str, value: int) -> tuple[int, bytes]:
    """Change a program before it is loaded, like :func:`set_map`: autoload, type, expected_attach_type, flags ..."""
    result = getattr(_library().lib, f"bpf_program__set_{setting}")(_find(handle, "program", name), value)
    return (-result if result < 0 else 0), _library().take_messages()


def keep_log(handle: int, name: str, level: int, room: int) -> None:
    """Keep the verifier's log of a program, accepted or refused, for :func:`program_log`; `room` is in bytes."""
    one, lib = _find(handle, "program", name), _library().lib
    held = _objects[handle].logs[name] = _room(room)
    lib.bpf_program__set_log_buf(one, held, ctypes.c_size_t(room))
    lib.bpf_program__set_log_level(one, ctypes.c_uint32(level))


def program_log(handle: int, name: str) -> bytes:
    """Return the verifier's log of a program; see :func:`keep_log`."""
    return _objects[handle].logs[name].value


def share_log(handle: int, level: int, room: int) -> None:
    """Give all programs one buffer for the verifier's log, for :func:`shared_log`.

    The library loads one program after the other and stops at the first refusal, so that the buffer has the log of that
    program.

    Args:
        handle: The object.
        level: The verifier's log level; 0: the library asks for a log (level 1) only when a program is refused.
        room: Bytes of the buffer.
    """
    lib = _library().lib
    held = _objects[handle].shared_log = _room(room)
    for one in _walk(lib.bpf_object__next_program, _objects[handle].pointer):
        lib.bpf_program__set_log_buf(one, held, ctypes.c_size_t(room))
        lib.bpf_program__set_log_level(one, ctypes.c_uint32(level))


def shared_log(handle: int) -> bytes:
    """Return the log in the buffer of :func:`share_log`."""
    held = _objects[handle].shared_log
    return held.value if held is not None else b""


def map_flags(handle: int, name: str) -> int:
    """Return the flags of a map as the library has them now: loading may change them."""
    flags: int = _library().lib.bpf_map__map_flags(_find(handle, "map", name))
    return flags


def set_bytes(handle: int, section: str, offset: int, data: bytes) -> int:
    """Change initial values of global variables before the object is loaded; return the error number, 0 for none.

    Args:
        handle: The object.
        section: ".rodata", ".data", ".bss", or one that begins so.
        offset: Bytes from the section's start.
        data: What to put there.
    """
    lib = _library().lib
    lib.bpf_map__initial_value.restype = ctypes.c_void_p
    for one in _walk(lib.bpf_object__next_map, _objects[handle].pointer):
        if lib.bpf_map__name(one).decode().endswith(section):
            size = ctypes.c_size_t(0)
            start = lib.bpf_map__initial_value(one, ctypes.byref(size))
            if not start or offset + len(data) > size.value:
                return 22
            ctypes.memmove(start + offset, data, len(data))
            return 0
    return 2


def load_object(handle: int) -> tuple[int, bytes, dict[str, dict[str, int]]]:
    """Load an object; return the error number, the library's messages, and the descriptors of maps and programs."""
    library = _library()
    pointer = _objects[handle].pointer
    result = library.lib.bpf_object__load(ctypes.c_void_p(pointer))
    found: dict[str, dict[str, int]] = {"maps": {}, "programs": {}}
    if result == 0:
        lib = library.lib
        for one in _walk(lib.bpf_object__next_map, pointer):
            found["maps"][lib.bpf_map__name(one).decode()] = lib.bpf_map__fd(one)
        for one in _walk(lib.bpf_object__next_program, pointer):
            found["programs"][lib.bpf_program__name(one).decode()] = lib.bpf_program__fd(one)
        for kind, opened in (("map", found["maps"]), ("prog", found["programs"])):
            for fd in opened.values():
                if fd >= 0:  # a program without autoload has none
                    provenance.note(kind, fd)
    return (-result if result < 0 else 0), library.take_messages(), found


def attach(handle: int, name: str) -> tuple[int, int, int, bytes]:
    """Attach a program according to its section; return the error number, a handle, a descriptor and the messages."""
    library = _library()
    link = library.lib.bpf_program__attach(_find(handle, "program", name))
    if not link:
        return ctypes.get_errno(), 0, -1, library.take_messages()
    fd = library.lib.bpf_link__fd(ctypes.c_void_p(link))
    number = len(_links) + 1
    _links[number] = link
    return 0, number, fd, library.take_messages()


_TC_INGRESS = 1
_EEXIST = 17


def attach_to(handle: int, name: str, hook: str, target: int) -> tuple[int, int, int, bytes]:
    """Attach a program to a place that its section does not name; result as for :func:`attach`.

    Args:
        handle: The object.
        name: The program.
        hook: "xdp" or "tc" (the target is the number of an interface), "cgroup" or "netns" (a descriptor).
        target: The place.
    """
    library = _library()
    prog = _find(handle, "program", name)
    if hook == "tc":
        return _attach_tc(library, prog, target)
    function = getattr(library.lib, f"bpf_program__attach_{hook}")
    function.restype = ctypes.c_void_p
    link = function(prog, target)
    if not link:
        return ctypes.get_errno(), 0, -1, library.take_messages()
    number = len(_links) + 1
    _links[number] = link
    return 0, number, library.lib.bpf_link__fd(ctypes.c_void_p(link)), library.take_messages()


def _attach_tc(library: _Library, prog: ctypes.c_void_p, interface: int) -> tuple[int, int, int, bytes]:
    """Attach to what an interface receives, with a filter of clsact; it has no link and stays attached."""
    lib = library.lib
    hook = struct.pack("=QiiI4x", 24, interface, _TC_INGRESS, 0)
    made = lib.bpf_tc_hook_create(hook)
    if made not in (0, -_EEXIST):
        return -made, 0, -1, library.take_messages()
    options = ctypes.create_string_buffer(struct.pack("=QiIIII4x", 32, lib.bpf_program__fd(prog), 0, 0, 0, 0), 32)
    attached = lib.bpf_tc_attach(hook, options)
    number = len(_links) + 1
    _links[number] = 0
    return max(-attached, 0), number, -1, library.take_messages()


def detach(link: int) -> None:
    """Undo :func:`attach`."""
    pointer = _links[link]
    if pointer:
        _links[link] = 0
        _library().lib.bpf_link__destroy(ctypes.c_void_p(pointer))


def close_object(handle: int) -> None:
    """Close an object with its maps and programs."""
    pointer, _objects[handle].pointer = _objects[handle].pointer, 0
    if pointer:
        _library().lib.bpf_object__close(ctypes.c_void_p(pointer))
