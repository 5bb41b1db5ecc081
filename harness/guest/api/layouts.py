"""Where the kernel keeps the fields of bpf(2): the parts of union bpf_attr, and what a kernel reports of an object.

Runs in the guest.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Layout = tuple[tuple[str, str, int], ...]


def layout(text: str, pointer: int = 8) -> Layout:
    """Parse the layout of a struct: letters set the format of the following names, @N the offset.

    Formats are those of :mod:`struct`, and P for a pointer; fields are aligned as in C.

    Args:
        text: The layout.
        pointer: Bytes of a pointer: 8 in all that bpf(2) takes, also where a process's have 4.
    """
    found = []
    form, at = "I", 0
    for word in text.split():
        if word[0] == "@":
            at = int(word[1:])
        elif word in ("I", "Q", "P", "16s", "8s"):
            form = word
        else:
            size = size_of(form, pointer)
            if form in "IQP":
                at = (at + size - 1) // size * size
            found.append((word, form, at))
            at += size
    return tuple(found)


def size_of(form: str, pointer: int = 8) -> int:
    """Return the size in bytes of a field of this format."""
    return pointer if form == "P" else struct.calcsize(form)


# A pointer is given as bytes (the kernel reads a copy), or is named in the outputs of attempt().
_ELEMENT = "I map_fd P key value Q flags"
_BATCH = "P in_batch out_batch keys values I count map_fd Q elem_flags flags"
_NEXT_ID = "I start_id next_id open_flags"
_BY_ID = "I id next_id open_flags"
_OBJ = "P pathname I bpf_fd file_flags path_fd"
_ATTACH = "I target_fd attach_bpf_fd attach_type attach_flags replace_bpf_fd relative_fd Q expected_revision"
COMMANDS: dict[str, tuple[int, Layout]] = {
    name: (number, layout(fields))
    for name, number, fields in (
        (
            "MAP_CREATE",
            0,
            (
                "I map_type key_size value_size max_entries map_flags inner_map_fd numa_node 16s map_name "
                "I map_ifindex btf_fd btf_key_type_id btf_value_type_id btf_vmlinux_value_type_id Q map_extra "
                "I value_type_btf_obj_fd map_token_fd P excl_prog_hash I excl_prog_hash_size"
            ),
        ),
        ("MAP_LOOKUP_ELEM", 1, _ELEMENT),
        ("MAP_UPDATE_ELEM", 2, _ELEMENT),
        ("MAP_DELETE_ELEM", 3, _ELEMENT),
        ("MAP_GET_NEXT_KEY", 4, "I map_fd P key next_key"),
        (
            "PROG_LOAD",
            5,
            (
                "I prog_type insn_cnt P insns license I log_level log_size P log_buf I kern_version prog_flags "
                "16s prog_name I prog_ifindex expected_attach_type prog_btf_fd func_info_rec_size P func_info "
                "I func_info_cnt line_info_rec_size P line_info I line_info_cnt attach_btf_id attach_prog_fd "
                "@112 attach_btf_obj_fd core_relo_cnt P fd_array core_relos I core_relo_rec_size log_true_size "
                "prog_token_fd fd_array_cnt"
            ),
        ),
        ("OBJ_PIN", 6, _OBJ),
        ("OBJ_GET", 7, _OBJ),
        ("PROG_ATTACH", 8, _ATTACH),
        ("PROG_DETACH", 9, _ATTACH),
        (
            "PROG_TEST_RUN",
            10,
            (
                "I prog_fd retval data_size_in data_size_out P data_in data_out I repeat duration ctx_size_in "
                "ctx_size_out P ctx_in ctx_out I flags cpu batch_size"
            ),
        ),
        ("PROG_GET_NEXT_ID", 11, _NEXT_ID),
        ("MAP_GET_NEXT_ID", 12, _NEXT_ID),
        ("PROG_GET_FD_BY_ID", 13, _BY_ID),
        ("MAP_GET_FD_BY_ID", 14, _BY_ID),
        ("OBJ_GET_INFO_BY_FD", 15, "I bpf_fd info_len P info"),
        (
            "PROG_QUERY",
            16,
            # All of it: the kernel writes the revision (6.6 and later) also behind a shorter union bpf_attr.
            (
                "I target_fd attach_type query_flags attach_flags P prog_ids I prog_cnt P prog_attach_flags link_ids "
                "link_attach_flags Q revision"
            ),
        ),
        ("RAW_TRACEPOINT_OPEN", 17, "P name I prog_fd Q cookie"),
        ("BTF_LOAD", 18, "P btf btf_log_buf I btf_size btf_log_size btf_log_level btf_log_true_size"),
        ("BTF_GET_FD_BY_ID", 19, _BY_ID),
        ("TASK_FD_QUERY", 20, "I pid fd flags buf_len P buf I prog_id fd_type Q probe_offset probe_addr"),
        ("MAP_LOOKUP_AND_DELETE_ELEM", 21, _ELEMENT),
        ("MAP_FREEZE", 22, "I map_fd"),
        ("BTF_GET_NEXT_ID", 23, _NEXT_ID),
        ("MAP_LOOKUP_BATCH", 24, _BATCH),
        ("MAP_LOOKUP_AND_DELETE_BATCH", 25, _BATCH),
        ("MAP_UPDATE_BATCH", 26, _BATCH),
        ("MAP_DELETE_BATCH", 27, _BATCH),
        (
            "LINK_CREATE",
            28,
            (
                "I prog_fd target_fd attach_type flags @0 map_fd @4 target_ifindex @16 target_btf_id @16 P iter_info "
                "I iter_info_len @16 Q bpf_cookie @24 cookie @16 I relative_fd @24 Q expected_revision "
                "@16 I multi_flags multi_count P multi_symbols multi_addresses multi_cookies"
            ),
        ),
        ("LINK_UPDATE", 29, "I link_fd new_prog_fd flags old_prog_fd"),
        ("LINK_GET_FD_BY_ID", 30, _BY_ID),
        ("LINK_GET_NEXT_ID", 31, _NEXT_ID),
        ("ENABLE_STATS", 32, "I type"),
        ("ITER_CREATE", 33, "I link_fd flags"),
        ("LINK_DETACH", 34, "I link_fd"),
        ("PROG_BIND_MAP", 35, "I prog_fd map_fd flags"),
        ("TOKEN_CREATE", 36, "I flags bpffs_fd"),
    )
}

# The fields of OBJ_GET_INFO_BY_FD by kind of object. A kernel reports how many bytes it fills; the rest is omitted.
INFO: dict[str, Layout] = {
    "map": layout(
        "I type id key_size value_size max_entries map_flags 16s name I ifindex btf_vmlinux_value_type_id "
        "Q netns_dev netns_ino I btf_id btf_key_type_id btf_value_type_id btf_vmlinux_id Q map_extra"
    ),
    "prog": layout(
        "I type id 8s tag I jited_prog_len xlated_prog_len @40 Q load_time I created_by_uid nr_map_ids @64 16s name "
        "I ifindex gpl_compatible Q netns_dev netns_ino I nr_jited_ksyms nr_jited_func_lens @128 btf_id @192 "
        "Q run_time_ns run_cnt recursion_misses I verified_insns attach_btf_obj_id attach_btf_id"
    ),
    "btf": layout("@8 I btf_size id @28 kernel_btf"),
    "link": layout("I type id prog_id"),
}
