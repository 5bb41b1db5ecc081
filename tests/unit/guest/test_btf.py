"""Hand-made BTF: the bytes that a compiler would write."""

from __future__ import annotations

import struct

from harness.guest.api import btf


def test_an_integer_is_encoded_as_pahole_encodes_it() -> None:
    # struct btf_header, one struct btf_type with the word that describes an integer, and the names.
    expected = (
        "9f eb 01 00 18 00 00 00 00 00 00 00 10 00 00 00 10 00 00 00 05 00 00 00"
        " 01 00 00 00 00 00 00 01 04 00 00 00 20 00 00 01 00 69 6e 74 00"
    )
    assert btf.encode(btf.integer("int", 4, btf.SIGNED)).hex(" ") == expected


def test_on_a_big_endian_machine_each_number_of_it_is_big_endian() -> None:
    expected = (
        "eb 9f 01 00 00 00 00 18 00 00 00 00 00 00 00 10 00 00 00 10 00 00 00 05"
        " 00 00 00 01 01 00 00 00 00 00 00 04 01 00 00 20 00 69 6e 74 00"
    )
    assert btf.encode(btf.integer("int", 4, btf.SIGNED), byte_order="big").hex(" ") == expected


def test_members_of_a_struct_name_types_and_bits() -> None:
    data = btf.encode(btf.integer("int", 4), btf.struct_of("pair", 8, ("a", 1, 0), ("b", 1, 4)))
    record = struct.unpack_from("<9I", data, 24 + 16)
    assert record[1] == 4 << 24 | 2
    assert record[2] == 8
    assert (record[4], record[5], record[7], record[8]) == (1, 0, 1, 32)
    names = data[24 + 16 + 36 :]
    assert names[record[0] :].startswith(b"pair\0")
    assert names[record[6] :].startswith(b"b\0")


def test_a_pointer_and_a_tag_contain_the_number_of_their_type() -> None:
    data = btf.encode(btf.integer("int", 4), btf.type_tag("kptr", 1), btf.pointer(2))
    assert struct.unpack_from("<2I", data, 24 + 16 + 4) == (18 << 24, 1)
    assert struct.unpack_from("<3I", data, 24 + 16 + 12) == (0, 2 << 24, 2)


def test_a_function_names_its_prototype_and_that_what_it_returns() -> None:
    data = btf.encode(btf.integer("int", 4), btf.prototype(1), btf.function("main", 2))
    assert struct.unpack_from("<3I", data, 24 + 16) == (0, 13 << 24, 1)
    name, kind, prototype = struct.unpack_from("<3I", data, 24 + 16 + 12)
    assert (kind, prototype) == (12 << 24, 2)
    assert data[24 + 16 + 24 + name :].startswith(b"main\0")
