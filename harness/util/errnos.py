"""Error numbers by the kernel's names, including those without a name in libc, and libbpf's own."""

from __future__ import annotations

import errno

ENOTSUPP = 524
"""BPF's answer to an operation that a map type lacks; it is not EOPNOTSUPP (95), and libc has no name for it."""

_NAMES = {
    95: "EOPNOTSUPP",  # Python knows it by its other name, ENOTSUP, which the kernel does not use
    # include/linux/errno.h: not meant for user space, but some get there.
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    521: "EBADHANDLE",
    524: "ENOTSUPP",
    # enum libbpf_errno in tools/lib/bpf/libbpf.h
    4000: "LIBBPF_ERRNO__LIBELF",
    4001: "LIBBPF_ERRNO__FORMAT",
    4002: "LIBBPF_ERRNO__KVERSION",
    4003: "LIBBPF_ERRNO__ENDIAN",
    4004: "LIBBPF_ERRNO__INTERNAL",
    4005: "LIBBPF_ERRNO__RELOC",
    4006: "LIBBPF_ERRNO__LOAD",
    4007: "LIBBPF_ERRNO__VERIFY",
    4008: "LIBBPF_ERRNO__PROG2BIG",
    4009: "LIBBPF_ERRNO__KVER",
    4010: "LIBBPF_ERRNO__PROGTYPE",
    4011: "LIBBPF_ERRNO__WRNGPID",
    4012: "LIBBPF_ERRNO__INVSEQ",
    4013: "LIBBPF_ERRNO__NLPARSE",
}


def errno_name(number: int) -> str:
    """Return the kernel's name of an error number, "EINVAL" for 22, "ENOTSUPP" for 524; libbpf's from 4000 on."""
    return _NAMES.get(number) or errno.errorcode.get(number) or f"errno {number}"
