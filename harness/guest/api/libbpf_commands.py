"""Which function of libbpf issues which command of bpf(2), and where its arguments go.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import struct

from harness.guest.api import bpf
from harness.guest.api.layouts import layout, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from harness.guest.api.layouts import Layout

LIBRARY = "libbpf.so.1"

_POINTER = ctypes.sizeof(ctypes.c_void_p)


def _options(text: str) -> Layout:
    """Return the layout of a wrapper's options, a struct that begins with its own size: fields of union bpf_attr."""
    return layout("P size " + text, _POINTER)


_CREATE = _options(
    "I btf_fd btf_key_type_id btf_value_type_id btf_vmlinux_value_type_id inner_map_fd map_flags Q map_extra "
    "I numa_node map_ifindex"
)
LOAD = _options(
    "I attempts expected_attach_type prog_btf_fd prog_flags prog_ifindex kern_version attach_btf_id attach_prog_fd "
    "attach_btf_obj_fd P fd_array func_info I func_info_cnt func_info_rec_size P line_info I line_info_cnt "
    "line_info_rec_size log_level log_size P log_buf"
)
RUN = _options(
    "P data_in data_out I data_size_in data_size_out P ctx_in ctx_out I ctx_size_in ctx_size_out retval repeat "
    "duration flags cpu batch_size"
)
OPEN = _options("P object_name I relaxed_maps P pin_root_path I unused P kconfig btf_custom_path")
_BATCH = _options("Q elem_flags flags")
_GET = _options("I file_flags")
_LINK = _options("I flags P iter_info")
_LINK_UPDATE = _options("I flags old_prog_fd")


def packed(fields: Layout, values: dict[str, int]) -> ctypes.Array[ctypes.c_char]:
    """Return a wrapper's options with these values; other fields are zero."""
    sizes = {field: size_of(form, _POINTER) for field, form, _ in fields}
    values = {**values, "size": max(at + sizes[field] for field, _, at in fields)}
    found = ctypes.create_string_buffer(values["size"])
    for field, _, at in fields:
        if field in values:
            mask = (1 << 8 * sizes[field]) - 1
            struct.pack_into("=I" if sizes[field] == 4 else "=Q", found, at, values[field] & mask)
    return found


class Call:
    """A command for the library: takes fields, and knows which are not taken yet."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.left = {field: value for field, value in fields.items() if value is not None}
        self.keep: list[object] = []
        self.numbers: dict[str, int] = {}

    def number(self, field: str) -> int:
        """Take a number, or the name of a constant; 0 when the field is not given."""
        value = self.left.pop(field, 0)
        return bpf.number(field, value) if isinstance(value, str) else value

    def pointer(self, field: str) -> ctypes.c_void_p:
        """Take bytes or an address; a null pointer when the field is not given."""
        value = self.left.pop(field, None)
        return ctypes.c_void_p(None if value is None else bpf.address(value, self.keep))

    def text(self, field: str) -> bytes | None:
        """Take a name; None when the field is not given."""
        value = self.left.pop(field, None)
        return value.encode() if isinstance(value, str) else value

    def options(self, fields: Layout) -> ctypes.Array[ctypes.c_char] | None:
        """Return the wrapper's options; a null pointer when none is set."""
        given = {
            field: (self.pointer(field).value or 0) if form == "P" else self.number(field)
            for field, form, _ in fields
            if field in self.left
        }
        return packed(fields, given) if given else None

    def finish(self) -> None:
        """Raise CannotExpress when a field was not taken."""
        if self.left:
            raise bpf.CannotExpress(f"{LIBRARY} cannot pass {', '.join(sorted(self.left))} to BPF_{self.name}")


def _element(call: Call) -> tuple[Any, ...]:
    return call.number("map_fd"), call.pointer("key")


def _map_create(call: Call) -> tuple[str, tuple[Any, ...]]:
    sizes = (call.number(field) for field in ("key_size", "value_size", "max_entries"))
    arguments = (call.number("map_type"), call.text("map_name"), *sizes, call.options(_CREATE))
    return "bpf_map_create", tuple(ctypes.c_uint(one) if isinstance(one, int) else one for one in arguments)


def _map_update(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_update_elem", (*_element(call), call.pointer("value"), ctypes.c_uint64(call.number("flags")))


def _map_lookup(call: Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.number("flags")
    found = (*_element(call), call.pointer("value"))
    if flags:
        return "bpf_map_lookup_elem_flags", (*found, ctypes.c_uint64(flags))
    return "bpf_map_lookup_elem", found


def _map_lookup_and_delete(call: Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.number("flags")
    found = (*_element(call), call.pointer("value"))
    if flags:
        return "bpf_map_lookup_and_delete_elem_flags", (*found, ctypes.c_uint64(flags))
    return "bpf_map_lookup_and_delete_elem", found


def _map_delete(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_delete_elem", _element(call)


def _map_next_key(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_get_next_key", (*_element(call), call.pointer("next_key"))


def _map_freeze(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_map_freeze", (call.number("map_fd"),)


def _read_batch(call: Call) -> tuple[str, tuple[Any, ...]]:
    buffers = [call.pointer(field) for field in ("in_batch", "out_batch", "keys", "values")]
    name = "bpf_map_lookup_batch" if call.name == "MAP_LOOKUP_BATCH" else "bpf_map_lookup_and_delete_batch"
    return name, (call.number("map_fd"), *buffers, _counter(call), call.options(_BATCH))


def _update_batch(call: Call) -> tuple[str, tuple[Any, ...]]:
    buffers = [call.pointer(field) for field in ("keys", "values")]
    return "bpf_map_update_batch", (call.number("map_fd"), *buffers, _counter(call), call.options(_BATCH))


def _delete_batch(call: Call) -> tuple[str, tuple[Any, ...]]:
    keys = call.pointer("keys")
    return "bpf_map_delete_batch", (call.number("map_fd"), keys, _counter(call), call.options(_BATCH))


def _counter(call: Call) -> Any:
    given = call.number("count")
    counter = ctypes.c_uint32(given)
    call.keep.append((counter, "count", given))
    return ctypes.byref(counter)


def _next_id(call: Call) -> tuple[str, tuple[Any, ...]]:
    found = ctypes.c_uint32(0)
    call.keep.append((found, "next_id", 0))
    kind = call.name.partition("_")[0].lower()
    return f"bpf_{kind}_get_next_id", (ctypes.c_uint32(call.number("start_id")), ctypes.byref(found))


def _fd_by_id(call: Call) -> tuple[str, tuple[Any, ...]]:
    kind = call.name.partition("_")[0].lower()
    number, flags = call.number("id"), call.number("open_flags")
    if flags:
        call.left["open_flags"] = flags
    return f"bpf_{kind}_get_fd_by_id", (ctypes.c_uint32(number),)


def _obj_pin(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_obj_pin", (call.number("bpf_fd"), call.text("pathname"))


def _obj_get(call: Call) -> tuple[str, tuple[Any, ...]]:
    flags = call.options(_GET)
    return "bpf_obj_get_opts", (call.text("pathname"), flags)


def _test_run(call: Call) -> tuple[str, tuple[Any, ...]]:
    prog = call.number("prog_fd")
    call.left.setdefault("repeat", 0)
    options = call.options(RUN)
    call.keep.append(options)
    return "bpf_prog_test_run_opts", (prog, options)


def _link_create(call: Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("prog_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_link_create", (*fixed, call.options(_LINK))


def _raw_tracepoint(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_raw_tracepoint_open", (call.text("name"), call.number("prog_fd"))


def _attach(call: Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("attach_bpf_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_prog_attach", (*fixed, ctypes.c_uint(call.number("attach_flags")))


def _detach(call: Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("attach_bpf_fd"), call.number("target_fd"), call.number("attach_type"))
    return "bpf_prog_detach2", fixed


def _btf_load(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_btf_load", (call.pointer("btf"), ctypes.c_uint(call.number("btf_size")), None)


def _link_update(call: Call) -> tuple[str, tuple[Any, ...]]:
    fixed = (call.number("link_fd"), call.number("new_prog_fd"))
    return "bpf_link_update", (*fixed, call.options(_LINK_UPDATE))


def _of_link(call: Call) -> tuple[str, tuple[Any, ...]]:
    return f"bpf_{call.name.lower()}", (call.number("link_fd"),)


def _enable_stats(call: Call) -> tuple[str, tuple[Any, ...]]:
    return "bpf_enable_stats", (call.number("type"),)


COMMANDS: dict[str, Callable[[Call], tuple[str, tuple[Any, ...]]]] = {
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
