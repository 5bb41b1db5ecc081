"""The bcc loader: compiles programs in the guest with bcc, and issues commands through bcc's library.

Needs the image flavour with bcc; the library is loaded at its first use.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import os

from harness.guest.api import bpf
from harness.guest.api.uapi import MAP_TYPES, PROG_TYPES
from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[str, tuple[Any, ...]]

LIBRARY = "libbcc.so.0"


class _MapAttributes(ctypes.Structure):
    """struct bcc_create_map_attr of bcc/libbpf.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("map_type", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
    )


_libraries: list[Any] = []
_modules: dict[int, Any] = {}


def _library() -> Any:
    if not _libraries:
        _libraries.append(ctypes.CDLL(LIBRARY, use_errno=True))
    return _libraries[0]


def _package() -> Any:
    """Return the package bcc, with declarations of the functions that it does not use itself."""
    import bcc

    size, text = ctypes.c_size_t, ctypes.c_char_p
    for name, result, argument in (
        ("bpf_table_name", text, size),
        ("bpf_table_key_size", size, text),
        ("bpf_table_leaf_size", size, text),
    ):
        function = getattr(bcc.lib, name)
        function.restype, function.argtypes = result, (ctypes.c_void_p, argument)
    bcc.lib.bpf_num_tables.restype, bcc.lib.bpf_num_tables.argtypes = size, (ctypes.c_void_p,)
    return bcc


def preload() -> None:
    """Import bcc, so that processes forked from this one have it."""
    _package()
    _library()


def _map_create(fields: dict[str, Any], keep: list[object]) -> Call:
    attributes = _MapAttributes()
    for name in [name for name, _ in _MapAttributes._fields_ if name in fields]:
        value = fields.pop(name)
        if name == "map_type" and isinstance(value, str):
            value = bpf.number(name, value)
        setattr(attributes, name, value & 0xFFFFFFFF)
    name = fields.pop("map_name", None)
    attributes.name = (name.encode() if isinstance(name, str) else name) or b""
    keep.append(attributes)
    return "bcc_create_map_xattr", (ctypes.byref(attributes), ctypes.c_bool(False))


def _element(fields: dict[str, Any], keep: list[object], *more: str) -> tuple[Any, ...]:
    def pointer(name: str) -> ctypes.c_void_p:
        value = fields.pop(name, None)
        return ctypes.c_void_p(None if value is None else bpf.address(value, keep))

    return (fields.pop("map_fd"), *(pointer(name) for name in ("key", *more)))


def _update(fields: dict[str, Any], keep: list[object]) -> Call:
    found = _element(fields, keep, "value")
    return "bpf_update_elem", (*found, ctypes.c_uint64(fields.pop("flags", 0)))


def _lookup(fields: dict[str, Any], keep: list[object]) -> Call:
    return "bpf_lookup_elem", _element(_without_zero_flags(fields), keep, "value")


def _delete(fields: dict[str, Any], keep: list[object]) -> Call:
    return "bpf_delete_elem", _element(fields, keep)


def _next_key(fields: dict[str, Any], keep: list[object]) -> Call:
    if fields.get("key") is None:
        raise bpf.CannotExpress(f"{LIBRARY} finds a first key only together with a value")
    return "bpf_get_next_key", _element(fields, keep, "next_key")


def _lookup_and_delete(fields: dict[str, Any], keep: list[object]) -> Call:
    return "bpf_lookup_and_delete", _element(_without_zero_flags(fields), keep, "value")


def _without_zero_flags(fields: dict[str, Any]) -> dict[str, Any]:
    if not fields.get("flags"):
        fields.pop("flags", None)
    return fields


_COMMANDS = {
    "MAP_CREATE": _map_create,
    "MAP_UPDATE_ELEM": _update,
    "MAP_LOOKUP_ELEM": _lookup,
    "MAP_DELETE_ELEM": _delete,
    "MAP_GET_NEXT_KEY": _next_key,
    "MAP_LOOKUP_AND_DELETE_ELEM": _lookup_and_delete,
}

# bcc does not offer commands that find and examine objects; tests that create maps through bcc may still use them.
_RAW = ("GET_NEXT_ID", "GET_FD_BY_ID", "TEST_RUN")


def attempt(
    name: str, fields: dict[str, Any], outputs: dict[str, int | bytes] | None = None, tail: bytes = b""
) -> bpf.Attempt:
    """Issue one command through bcc's library; arguments and result as for :func:`harness.guest.api.bpf.attempt`.

    Raises:
        CannotExpress: bcc cannot issue this command, or pass one of these fields.
    """
    if name.endswith(_RAW):
        return bpf.attempt(name, fields, outputs, tail)
    if name not in _COMMANDS or tail:
        raise bpf.CannotExpress(
            f"{LIBRARY} has no function for BPF_{name}" + " with bytes after its fields" * bool(tail)
        )
    buffers = {field: bytearray(given) for field, given in (outputs or {}).items()}
    left: dict[str, Any] = {field: value for field, value in {**fields, **buffers}.items() if value is not None}
    keep: list[object] = []
    function, arguments = _COMMANDS[name](left, keep)
    if left:
        raise bpf.CannotExpress(f"{LIBRARY} cannot pass {', '.join(sorted(left))} to BPF_{name}")
    ctypes.set_errno(0)
    result = getattr(_library(), function)(*arguments)
    error = (ctypes.get_errno() or -result) if result < 0 else 0
    if not error and name in bpf.OPENS:
        provenance.note(bpf.OPENS[name], result)
    return error, result, {}, {field: bytes(buffer) for field, buffer in buffers.items()}


def load(fields: dict[str, Any], log_level: int | None) -> tuple[int, int, bytes]:  # noqa: ARG001 - the same signature as the other loaders
    """Refuse: bcc loads what it compiled itself."""
    raise bpf.CannotExpress("bcc loads programs that it compiled itself; use the fixture bcc")


def compile_text(text: str, flags: list[str]) -> tuple[int, str, dict[str, dict[str, Any]], list[str]]:
    """Compile a program with bcc and create its maps.

    Args:
        text: The C source, in bcc's dialect.
        flags: Options for clang.

    Returns:
        A handle (0 when it does not compile), the compiler's messages, maps by name (fd, type, sizes), functions.
    """
    bcc = _package()
    said = os.memfd_create("said")
    kept = os.dup(2)
    os.dup2(said, 2)
    try:
        module = bcc.BPF(text=text, cflags=flags)
    except Exception as error:  # noqa: BLE001 - bcc raises nothing more specific
        return 0, f"{_read(said)}{error}", {}, []
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    handle = len(_modules) + 1
    _modules[handle] = module
    lib = bcc.lib
    maps = {}
    for number in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, number)
        maps[name.decode()] = {
            "fd": lib.bpf_table_fd(module.module, name),
            "type": _name_of(MAP_TYPES, lib.bpf_table_type_id(module.module, number)),
            "key_size": lib.bpf_table_key_size(module.module, name),
            "value_size": lib.bpf_table_leaf_size(module.module, name),
        }
        provenance.note("map", maps[name.decode()]["fd"])
    functions = [
        lib.bpf_function_name(module.module, number).decode() for number in range(lib.bpf_num_functions(module.module))
    ]
    return handle, _read(said), maps, functions


def _read(fd: int) -> str:
    data = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    return data.decode(errors="replace")


def _name_of(numbers: dict[str, int], number: int) -> str:
    return next((name for name, value in numbers.items() if value == number), f"type {number}")


def load_function(handle: int, name: str, prog_type: str) -> tuple[int, int, bytes]:
    """Load a function of a compiled program.

    Returns:
        The error number (0 for none), the descriptor, the verifier's log.
    """
    lib, module = _package().lib, _modules[handle].module
    known_as = name.encode()
    start, size = lib.bpf_function_start(module, known_as), lib.bpf_function_size(module, known_as)
    licence, version = lib.bpf_module_license(module), lib.bpf_module_kern_version(module)
    room = ctypes.create_string_buffer(1 << 20)
    fd = lib.bcc_func_load(
        module, PROG_TYPES[prog_type], known_as, start, size, licence, version, 0, room, len(room), None, -1
    )
    if fd >= 0:
        provenance.note("prog", fd)
    return (ctypes.get_errno() or 22) if fd < 0 else 0, fd, room.value
