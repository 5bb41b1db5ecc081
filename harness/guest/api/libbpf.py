"""The libbpf loader: the library's functions through ctypes, with its messages.

It has two parts. :func:`attempt` and :func:`load` have the same interface as in :mod:`harness.guest.api.bpf`, but call
libbpf's wrappers instead of the system call. The functions about objects open, prepare, load and attach a compiled
object like a program that is linked with libbpf.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import struct

from harness.guest.api import bpf, syscalls
from harness.guest.api.uapi import MAP_TYPES, PROG_TYPES
from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LIBRARY = "libbpf.so.1"

_MESSAGE_ROOM = (16 << 20) + 4096  # libbpf prints a verifier's log (at most 16 MiB) as one message
_LOG_ROOM = (1 << 24) - 1
_DEBUG = 2


class CannotExpress(Exception):
    """The library cannot issue this command, or pass this field."""


class _Library:
    """libbpf, loaded at its first use, and its messages since the last call."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(LIBRARY, use_errno=True)
        self.messages: list[bytes] = []
        self._room = ctypes.create_string_buffer(_MESSAGE_ROOM)
        self._format = syscalls.libc.vsnprintf
        self._format.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._callback = kind(self._print)  # kept, because libbpf calls it as long as this process exists
        self.lib.libbpf_set_print(self._callback)
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

    def _print(self, level: int, form: bytes, arguments: int) -> int:
        if level < _DEBUG:
            size = self._format(self._room, _MESSAGE_ROOM, form, arguments)
            self.messages.append(ctypes.string_at(self._room, min(size, _MESSAGE_ROOM - 1)))
        return 0

    def take_messages(self) -> bytes:
        """Return the messages since the last call."""
        taken = b"".join(self.messages)
        self.messages.clear()
        return taken


_loaded: list[_Library] = []


def _library() -> _Library:
    if not _loaded:
        _loaded.append(_Library())
    return _loaded[0]


def version() -> str:
    """Return the library's version, "v1.1"."""
    text: bytes = _library().lib.libbpf_version_string()
    return text.decode()


# Commands.

# Options of the wrappers are structs that begin with their own size: (field of union bpf_attr, format, offset).
_CREATE = (
    ("btf_fd", "I", 8),
    ("btf_key_type_id", "I", 12),
    ("btf_value_type_id", "I", 16),
    ("btf_vmlinux_value_type_id", "I", 20),
    ("inner_map_fd", "I", 24),
    ("map_flags", "I", 28),
    ("map_extra", "Q", 32),
    ("numa_node", "I", 40),
    ("map_ifindex", "I", 44),
)
_LOAD = (
    ("expected_attach_type", "I", 12),
    ("prog_btf_fd", "I", 16),
    ("prog_flags", "I", 20),
    ("prog_ifindex", "I", 24),
    ("kern_version", "I", 28),
    ("attach_btf_id", "I", 32),
    ("attach_prog_fd", "I", 36),
    ("attach_btf_obj_fd", "I", 40),
    ("func_info", "P", 56),
    ("func_info_cnt", "I", 64),
    ("func_info_rec_size", "I", 68),
    ("line_info", "P", 72),
    ("line_info_cnt", "I", 80),
    ("line_info_rec_size", "I", 84),
    ("log_level", "I", 88),
    ("log_size", "I", 92),
    ("log_buf", "P", 96),
)
_RUN = (
    ("data_in", "P", 8),
    ("data_out", "P", 16),
    ("data_size_in", "I", 24),
    ("data_size_out", "I", 28),
    ("ctx_in", "P", 32),
    ("ctx_out", "P", 40),
    ("ctx_size_in", "I", 48),
    ("ctx_size_out", "I", 52),
    ("retval", "I", 56),
    ("repeat", "I", 60),
    ("duration", "I", 64),
    ("flags", "I", 68),
    ("cpu", "I", 72),
    ("batch_size", "I", 76),
)
_BATCH = (("elem_flags", "Q", 8), ("flags", "Q", 16))


class _Call:
    """A command for the library: takes fields, and knows which are not taken yet."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.left = {field: value for field, value in fields.items() if value is not None}
        self.keep: list[object] = []
        self.numbers: dict[str, int] = {}

    def number(self, field: str) -> int:
        value = self.left.pop(field, 0)
        return bpf.number(field, value) if isinstance(value, str) else value

    def pointer(self, field: str) -> ctypes.c_void_p:
        value = self.left.pop(field, None)
        return ctypes.c_void_p(None if value is None else bpf.address(value, self.keep))

    def text(self, field: str) -> bytes | None:
        value = self.left.pop(field, None)
        return value.encode() if isinstance(value, str) else value

    def options(self, layout: tuple[tuple[str, str, int], ...]) -> ctypes.Array[ctypes.c_char] | None:
        """Return the wrapper's options; a null pointer when none is set."""
        given = [(field, form, at) for field, form, at in layout if field in self.left]
        if not given:
            return None
        size = max(at + bpf.size_of(form) for _, form, at in layout)
        found = ctypes.create_string_buffer(size)
        struct.pack_into("<Q", found, 0, size)
        for field, form, at in given:
            value: int = self.pointer(field).value or 0 if form == "P" else self.number(field)
            bits = 8 * bpf.size_of(form)
            struct.pack_into("<I" if form == "I" else "<Q", found, at, value & ((1 << bits) - 1))
        return found

    def finish(self) -> None:
        if self.left:
            raise CannotExpress(f"{LIBRARY} cannot pass {', '.join(sorted(self.left))} to BPF_{self.name}")


def _element(call: _Call) -> tuple[Any, ...]:
    return call.number("map_fd"), call.pointer("key")


def _map_create(call: _Call) -> tuple[str, tuple[Any, ...]]:
    sizes = (call.number(field) for field in ("key_size", "value_size", "max_entries"))
    arguments = (call.number("map_type"), call.text("map_name"), *sizes, call.options(_CREATE))
    return "bpf_map_create", tuple(ctypes.c_uint(one) if isinstance(one, int) else one for one in arguments)


def _map_update(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_update_elem", (*_element(call), call.pointer("value"), ctypes.c_uint64(call.number("flags")))


def _map_lookup(call: _Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.number("flags")
    found = (*_element(call), call.pointer("value"))
    if flags:
        return "bpf_map_lookup_elem_flags", (*found, ctypes.c_uint64(flags))
    return "bpf_map_lookup_elem", found


def _map_lookup_and_delete(call: _Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.number("flags")
    found = (*_element(call), call.pointer("value"))
    if flags:
        return "bpf_map_lookup_and_delete_elem_flags", (*found, ctypes.c_uint64(flags))
    return "bpf_map_lookup_and_delete_elem", found


def _map_delete(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_delete_elem", _element(call)


def _map_next_key(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_get_next_key", (*_element(call), call.pointer("next_key"))


def _map_freeze(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_freeze", (call.number("map_fd"),)


def _read_batch(call: _Call) -> tuple[str, tuple[Any, ...]]:
    buffers = [call.pointer(field) for field in ("in_batch", "out_batch", "keys", "values")]
    name = "bpf_map_lookup_batch" if call.name == "MAP_LOOKUP_BATCH" else "bpf_map_lookup_and_delete_batch"
    return name, (call.number("map_fd"), *buffers, _counter(call), call.options(_BATCH))


def _update_batch(call: _Call) -> tuple[str, tuple[Any, ...]]:
    buffers = [call.pointer(field) for field in ("keys", "values")]
    return "bpf_map_update_batch", (call.number("map_fd"), *buffers, _counter(call), call.options(_BATCH))


def _delete_batch(call: _Call) -> tuple[str, tuple[Any, ...]]:
    keys = call.pointer("keys")
    return "bpf_map_delete_batch", (call.number("map_fd"), keys, _counter(call), call.options(_BATCH))


def _counter(call: _Call) -> Any:
    given = call.number("count")
    counter = ctypes.c_uint32(given)
    call.keep.append((counter, "count", given))
    return ctypes.byref(counter)


def _next_id(call: _Call) -> tuple[str, tuple[Any, ...]]:
    found = ctypes.c_uint32(0)
    call.keep.append((found, "next_id", 0))
    kind = call.name.partition("_")[0].lower()
    return f"bpf_{kind}_get_next_id", (ctypes.c_uint32(call.number("start_id")), ctypes.byref(found))


def _fd_by_id(call: _Call) -> tuple[str, tuple[Any, ...]]:
    kind = call.name.partition("_")[0].lower()
    number, flags = call.number("id"), call.number("open_flags")
    if flags:
        call.left["open_flags"] = flags
    return f"bpf_{kind}_get_fd_by_id", (ctypes.c_uint32(number),)


def _obj_pin(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_obj_pin", (call.number("bpf_fd"), call.text("pathname"))


def _obj_get(call: _Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.options((("file_flags", "I", 8),))
    return "bpf_obj_get_opts", (call.text("pathname"), flags)


def _test_run(call: _Call) -> tuple[str, tuple[Any, ...]]:
    prog = call.number("prog_fd")
    call.left.setdefault("repeat", 0)
    options = call.options(_RUN)
    call.keep.append(options)
    return "bpf_prog_test_run_opts", (prog, options)


def _link_create(call: _Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("prog_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_link_create", (*fixed, call.options((("flags", "I", 8), ("iter_info", "P", 16))))


def _raw_tracepoint(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_raw_tracepoint_open", (call.text("name"), call.number("prog_fd"))


def _attach(call: _Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("attach_bpf_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_prog_attach", (*fixed, ctypes.c_uint(call.number("attach_flags")))


def _detach(call: _Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("attach_bpf_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_prog_detach2", fixed


def _btf_load(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_btf_load", (call.pointer("btf"), ctypes.c_uint(call.number("btf_size")), None)


def _link_update(call: _Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("link_fd"), call.number("new_prog_fd"))
    return "bpf_link_update", (*fixed, call.options((("flags", "I", 8), ("old_prog_fd", "I", 12))))


def _of_link(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return f"bpf_{call.name.lower()}", (call.number("link_fd"),)


def _enable_stats(call: _Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_enable_stats", (call.number("type"),)


_COMMANDS: dict[str, Callable[[_Call], tuple[str, tuple[Any, ...]]]] = {
    "MAP_CREATE": _map_create,
    "MAP_LOOKUP_ELEM": _map_lookup,
    "MAP_UPDATE_ELEM": _map_update,
    "MAP_DELETE_ELEM": _map_delete,
    "MAP_GET_NEXT_KEY": _map_next_key,
    "MAP_LOOKUP_AND_DELETE_ELEM": _map_lookup_and_delete,
    "MAP_FREEZE": _map_freeze,
    "MAP_LOOKUP_BATCH": _read_batch,
    "MAP_LOOKUP_AND_DELETE_BATCH": _read_batch,
    "MAP_UPDATE_BATCH": _update_batch,
    "MAP_DELETE_BATCH": _delete_batch,
    **{f"{kind}_GET_NEXT_ID": _next_id for kind in ("MAP", "PROG", "BTF", "LINK")},
    **{f"{kind}_GET_FD_BY_ID": _fd_by_id for kind in ("MAP", "PROG", "BTF", "LINK")},
    "OBJ_PIN": _obj_pin,
    "OBJ_GET": _obj_get,
    "PROG_TEST_RUN": _test_run,
    "PROG_ATTACH": _attach,
    "PROG_DETACH": _detach,
    "LINK_CREATE": _link_create,
    "LINK_UPDATE": _link_update,
    "LINK_DETACH": _of_link,
    "ITER_CREATE": _of_link,
    "RAW_TRACEPOINT_OPEN": _raw_tracepoint,
    "BTF_LOAD": _btf_load,
    "ENABLE_STATS": _enable_stats,
}


def attempt(
    name: str, fields: dict[str, Any], outputs: dict[str, int | bytes] | None = None, tail: bytes = b""
) -> bpf.Attempt:
    """Issue one command through libbpf's wrapper; arguments and result as for :func:`harness.guest.api.bpf.attempt`.

    Raises:
        CannotExpress: The library cannot issue this command, or pass one of these fields.
    """
    if name not in _COMMANDS or tail:
        raise CannotExpress(f"{LIBRARY} has no function for BPF_{name}" + (" with bytes after its fields" * bool(tail)))
    buffers = {field: bytearray(given) for field, given in (outputs or {}).items()}
    call = _Call(name, {**fields, **buffers})
    function, arguments = _COMMANDS[name](call)
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
        changed = _changed(_RUN, arguments[1], fields)
    return -result if result < 0 else 0, result, changed, {field: bytes(buffer) for field, buffer in buffers.items()}


def _changed(layout: tuple[tuple[str, str, int], ...], after: Any, given: dict[str, Any]) -> dict[str, int]:
    found = {}
    for field, form, at in layout:
        if form == "I":
            (value,) = struct.unpack_from("<I", after, at)
            if value != (given.get(field) or 0):
                found[field] = value
    return found


def load(fields: dict[str, Any], log_level: int | None) -> tuple[int, int, bytes]:
    """Load a program through bpf_prog_load(); arguments and result as for :func:`harness.guest.api.bpf.load`."""
    log = bytearray(_LOG_ROOM)
    given = dict(fields)
    given.pop("insn_cnt", None)
    # With a buffer and level 0, the library asks for a log when the program is refused.
    if log_level is None or log_level:
        given.update(log_level=log_level or 0, log_size=len(log), log_buf=log)
    call = _Call("PROG_LOAD", given)
    code = call.left.pop("insns")
    kind, name, licence = call.number("prog_type"), call.text("prog_name"), call.text("license")
    held = ctypes.create_string_buffer(code, len(code))
    options = call.options(_LOAD)
    call.finish()
    result = _library().lib.bpf_prog_load(kind, name, licence, held, ctypes.c_size_t(len(code) // 8), options)
    if result >= 0:
        provenance.note("prog", result)
    return -result if result < 0 else 0, result, bytes(log[: max(log.find(0), 0)])


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
    # struct bpf_object_open_opts: its size, object_name, and btf_custom_path at offset 48.
    options = struct.pack("<QQ32xQ", 56, ctypes.addressof(held_name), ctypes.addressof(held_btf) if btf else 0)
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
    held = _objects[handle].logs[name] = ctypes.create_string_buffer(room)
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
    held = _objects[handle].shared_log = ctypes.create_string_buffer(room)
    for one in _walk(lib.bpf_object__next_program, _objects[handle].pointer):
        lib.bpf_program__set_log_buf(one, held, ctypes.c_size_t(room))
        lib.bpf_program__set_log_level(one, ctypes.c_uint32(level))


def shared_log(handle: int) -> bytes:
    """Return the log in the buffer of :func:`share_log`."""
    held = _objects[handle].shared_log
    return held.value if held is not None else b""


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
    hook = struct.pack("<QiiI4x", 24, interface, _TC_INGRESS, 0)
    made = lib.bpf_tc_hook_create(hook)
    if made not in (0, -_EEXIST):
        return -made, 0, -1, library.take_messages()
    options = ctypes.create_string_buffer(struct.pack("<QiIIII4x", 32, lib.bpf_program__fd(prog), 0, 0, 0, 0), 32)
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
