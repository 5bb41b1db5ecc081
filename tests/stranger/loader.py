"""Loads calls.bpf.o with libbpf, counts the calls of getppid that it makes itself, and prints how many were seen."""

import ctypes
import os
import sys

GETPPID = 110
CALLS = 5


def main() -> int:
    """Load, attach, make calls, read the counter."""
    lib = ctypes.CDLL("libbpf.so.1")
    for name in (
        "bpf_object__open",
        "bpf_object__find_program_by_name",
        "bpf_object__find_map_by_name",
        "bpf_program__attach",
    ):
        getattr(lib, name).restype = ctypes.c_void_p
    opened = ctypes.c_void_p(lib.bpf_object__open(sys.argv[1].encode()))
    if not opened or lib.bpf_object__load(opened):
        print("cannot load", sys.argv[1], file=sys.stderr)
        return 1
    program = ctypes.c_void_p(lib.bpf_object__find_program_by_name(opened, b"count_call"))
    if not lib.bpf_program__attach(program):
        print("cannot attach", file=sys.stderr)
        return 1
    counts = lib.bpf_map__fd(ctypes.c_void_p(lib.bpf_object__find_map_by_name(opened, b"watched_root")))
    for _ in range(CALLS):
        os.getppid()
    key, value = ctypes.c_uint32(GETPPID), ctypes.c_uint64(0)
    lib.bpf_map_lookup_elem(counts, ctypes.byref(key), ctypes.byref(value))
    print("seen", value.value)
    return 0


sys.exit(main())
