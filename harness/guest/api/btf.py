"""Hand-made BTF: types as records in, bytes for BTF_LOAD out.

A type is identified by its number: the first type of :func:`encode` is 1, "void" is 0.

Pure: the host and guest functions may both import it.
"""

from __future__ import annotations

import struct
import sys

MAGIC, VERSION, HEADER_SIZE = 0xEB9F, 1, 24
KIND_INT, KIND_PTR, KIND_STRUCT, KIND_FUNC, KIND_FUNC_PROTO, KIND_TYPE_TAG = 1, 2, 4, 12, 13, 18
SIGNED = 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Type = tuple[str, int, int, int, tuple[tuple[str, int, int], ...], tuple[int, ...]]


def integer(name: str, size: int, encoding: int = 0) -> Type:
    """Return an integer type of `size` bytes; encoding SIGNED or 0."""
    return name, KIND_INT << 24, size, 0, (), (encoding << 24 | size * 8,)


def struct_of(name: str, size: int, *members: tuple[str, int, int]) -> Type:
    """Return a struct.

    Args:
        name: Its name, such as "bpf_spin_lock".
        size: Bytes.
        *members: Name, number of the type and offset in bytes of each.
    """
    return name, KIND_STRUCT << 24 | len(members), size, 0, members, ()


def pointer(target: int) -> Type:
    """Return a pointer to the type of this number."""
    return "", KIND_PTR << 24, 0, target, (), ()


def type_tag(name: str, target: int) -> Type:
    """Return a tag on the type of this number (5.17 and later), such as "kptr_untrusted"."""
    return name, KIND_TYPE_TAG << 24, 0, target, (), ()


def prototype(returns: int) -> Type:
    """Return the type of a function without arguments that returns the type of this number."""
    return "", KIND_FUNC_PROTO << 24, 0, returns, (), ()


def function(name: str, prototype: int) -> Type:
    """Return a static function of a program, with the prototype of this number."""
    return name, KIND_FUNC << 24, 0, prototype, (), ()


def encode(*types: Type, byte_order: Literal["little", "big"] = sys.byteorder) -> bytes:
    """Return the BTF of some types.

    Args:
        *types: The types, in the order of their numbers.
        byte_order: The guest's; the default is right in the guest, :meth:`harness.remote.bpf.Bpf.btf` needs none.
    """
    order = "<" if byte_order == "little" else ">"
    names = bytearray(b"\0")

    def place(name: str) -> int:
        if not name:
            return 0
        names.extend(name.encode() + b"\0")
        return len(names) - len(name) - 1

    body = b""
    for name, info, size, target, members, tail in types:
        body += struct.pack(f"{order}{3 + len(tail)}I", place(name), info, target or size, *tail)
        for member, number, offset in members:
            body += struct.pack(f"{order}III", place(member), number, offset * 8)
    header = struct.pack(f"{order}HBBIIIII", MAGIC, VERSION, 0, HEADER_SIZE, 0, len(body), len(body), len(names))
    return header + body + bytes(names)
