"""The wire format between host and guest: plain values, and frames that carry one each.

Plain values are None, bool, int of any size, float, str, bytes, list, tuple, set, frozenset and dict of those;
types are preserved (a tuple arrives as a tuple, an int key as an int). A frame is a 20-byte header (magic, kind,
guest process, tag, length, CRC-32 of the payload) and one encoded value; the agent routes by the header alone.

A stream of frames travels through two rings in memory that host and guest share, one for each direction; a byte on a
serial port signals that there is something to read. When the guest cannot map that memory, the frames go over the
serial port, some hundred times slower.
"""

from __future__ import annotations

import struct
from binascii import crc32

# Not typing.TYPE_CHECKING: importing typing costs the guest more than this whole module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Frame = tuple[int, int, int, bytes]

MAGIC = b"khw1"
HEADER = struct.Struct("<4sHHHHII")
MAX_PAYLOAD = 64 * 1024 * 1024

REQUEST, REPLY, FAILURE, EVENT, LAST = range(1, 6)
KINDS = (REQUEST, REPLY, FAILURE, EVENT, LAST)
"""LAST is a request after whose answer the agent ends the guest process."""

AGENT = 0
"""The agent itself, as the process number of a frame."""

MOST_MEMORY = 192 * 1024 * 1024
"""Bytes that a payload and the values in it may take in memory, as :func:`weigh` estimates them."""

_LENGTH = struct.Struct("<I")
_INT64 = struct.Struct("<q")
_DOUBLE = struct.Struct("<d")
_MAX_DEPTH = 64


class WireError(ValueError):
    """A value that cannot be sent, or bytes that are not a frame; the message says which and where."""


def encode(value: object) -> bytes:
    """Return `value` as bytes.

    Raises:
        WireError: Part of it is not a plain value; the message names the part by its path. Or it takes more memory
            than the other side accepts.
    """
    out: list[bytes] = []
    _encode(value, out.append, "value", 0)
    data = b"".join(out)
    if len(data) > _LIGHT:
        weigh(data)
    return data


def _encode(value: Any, emit: Callable[[bytes], None], path: str, depth: int) -> None:
    kind = type(value)
    if kind is int:
        if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
            emit(b"i" + _INT64.pack(value))
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            emit(b"I" + _LENGTH.pack(len(data)) + data)
    elif kind is str:
        data = value.encode("utf-8", "surrogatepass")
        emit(b"s" + _LENGTH.pack(len(data)) + data)
    elif kind is bytes or kind is bytearray or kind is memoryview:
        emit(b"b" + _LENGTH.pack(len(value)))
        emit(bytes(value))
    elif value is None:
        emit(b"n")
    elif kind is bool:
        emit(b"t" if value else b"f")
    elif kind is float:
        emit(b"d" + _DOUBLE.pack(value))
    elif depth >= _MAX_DEPTH:
        raise WireError(f"{path} is nested more than {_MAX_DEPTH} deep, or contains itself")
    elif kind in _SEQUENCES:
        emit(_SEQUENCES[kind] + _LENGTH.pack(len(value)))
        for index, item in enumerate(value):
            _encode(item, emit, f"{path}[{index}]", depth + 1)
    elif kind is dict:
        emit(b"m" + _LENGTH.pack(len(value)))
        for key, item in value.items():
            _encode(key, emit, f"key {key!r} of {path}", depth + 1)
            _encode(item, emit, f"{path}[{key!r}]", depth + 1)
    else:
        raise WireError(
            f"{path} is a {kind.__module__}.{kind.__qualname__} ({value!r:.80}), which cannot cross between host and "
            "guest; only None, bool, int, float, str, bytes, list, tuple, set and dict can"
        )


_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"u", set: b"e", frozenset: b"z"}
_BUILDERS: dict[int, type] = {code[0]: kind for kind, code in _SEQUENCES.items()}


def decode(data: bytes) -> Any:
    """Return the value that :func:`encode` made `data` from.

    Raises:
        WireError: The bytes are not an encoded value, or take more than MOST_MEMORY.
    """
    if len(data) > _LIGHT:
        weigh(data)
    try:
        value, end = _decode(data, 0, 0)
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise WireError(f"the payload is damaged: {error}") from error
    if end != len(data):
        raise WireError(f"the payload has {len(data) - end} bytes after its value")
    return value


_LIGHT = 1024 * 1024
"""Bytes of a payload that is light whatever is in it: 70 MB at most."""

# What CPython takes for each value and its place in a list, rounded up; what a text and a container take beside that.
_SCALAR, _TEXT, _CONTAINER = 56, 40, 224
# A place in a dictionary, a set, a frozenset: seven eighths of a set's table may be empty after it has grown.
_PLACES = {0x6D: 104, 0x65: 128, 0x7A: 128}
_SIZES = {0x69: 9, 0x6E: 1, 0x74: 1, 0x66: 1, 0x64: 9}


def weigh(data: bytes) -> int:
    """Return how much memory a payload and its value take, in bytes: an estimate from above.

    A few bytes may announce a container with many empty containers in it, each of them 200 bytes in memory.

    Raises:
        WireError: It is more than MOST_MEMORY. Other damage is left to :func:`decode`.
    """
    weight = end = len(data)
    at = 0
    while at < end and weight <= MOST_MEMORY:
        code = data[at]
        size = _SIZES.get(code)
        weight += _SCALAR
        if size is None and at + 5 <= end:
            length = _LENGTH.unpack_from(data, at + 1)[0]
            size = 5
            if code in (0x73, 0x62, 0x49):  # s, b, I
                size += length
                # A text with one wide letter takes four bytes for each.
                weight += length if code != 0x73 or data[at + 5 : at + size].isascii() else 4 * length
                weight += _TEXT if code == 0x73 else 0
            else:
                weight += _CONTAINER + length * _PLACES.get(code, 0)
        at += size or 1
    if weight > MOST_MEMORY:
        raise WireError(
            f"a message of {end} bytes takes more than {MOST_MEMORY >> 20} MiB of memory, the limit: it has too many "
            "values, or too large ones"
        )
    return weight


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    code = data[at]
    at += 1
    if code == 0x69:  # i
        return _INT64.unpack_from(data, at)[0], at + 8
    if code == 0x6E:  # n
        return None, at
    if code == 0x74:  # t
        return True, at
    if code == 0x66:  # f
        return False, at
    if code == 0x64:  # d
        return _DOUBLE.unpack_from(data, at)[0], at + 8
    length = _LENGTH.unpack_from(data, at)[0]
    at += 4
    if code in (0x73, 0x62, 0x49):  # s, b, I: `length` bytes
        end = at + length
        if end > len(data):
            raise WireError("the payload ends inside a value")
        raw = bytes(data[at:end])
        if code == 0x62:
            return raw, end
        return (
            raw.decode("utf-8", "surrogatepass") if code == 0x73 else int.from_bytes(raw, "little", signed=True)
        ), end
    if depth >= _MAX_DEPTH:
        raise WireError(f"the payload is nested more than {_MAX_DEPTH} deep")
    if code == 0x6D:  # m
        mapping: dict[Any, Any] = {}
        for _ in range(length):
            key, at = _decode(data, at, depth + 1)
            mapping[key], at = _decode(data, at, depth + 1)
        return mapping, at
    if code not in _BUILDERS:
        raise WireError(f"unknown type code {code:#x} in the payload")
    items: list[Any] = []
    for _ in range(length):
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    return _BUILDERS[code](items), at


def pack(kind: int, process: int, tag: int, payload: bytes) -> bytes:
    """Return one frame around an encoded value.

    Args:
        kind: One of KINDS.
        process: The guest process it is for or from, AGENT or 1 to 65535.
        tag: Number of the request, 0 to 65535; a reply repeats it.
        payload: The result of :func:`encode`.

    Raises:
        WireError: The payload is larger than MAX_PAYLOAD bytes.
    """
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"a message of {len(payload)} bytes is larger than the limit of {MAX_PAYLOAD}")
    return HEADER.pack(MAGIC, kind, process, tag, 0, len(payload), crc32(payload)) + payload


def frame(kind: int, process: int, tag: int, value: object) -> bytes:
    """Return one frame that carries `value`; arguments and errors as for :func:`pack` and :func:`encode`."""
    return pack(kind, process, tag, encode(value))


class Splitter:
    """Cuts a stream of bytes into frames; keeps an incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = HEADER.size

    def feed(self, data: bytes) -> list[Frame]:
        """Add received bytes; return the complete frames (kind, process, tag, encoded payload).

        Raises:
            WireError: The stream does not consist of frames, or a frame is damaged or too large.
        """
        self._buffer += data
        found: list[Frame] = []
        if len(self._buffer) < self._needed:
            return found
        self._needed = HEADER.size
        while len(self._buffer) >= HEADER.size:
            magic, kind, process, tag, _, length, check = HEADER.unpack_from(self._buffer)
            if magic != MAGIC or kind not in KINDS:
                raise WireError(f"not a frame: {bytes(self._buffer[:32])!r}")
            if length > MAX_PAYLOAD:
                raise WireError(f"a frame announces {length} bytes, over the limit of {MAX_PAYLOAD}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                self._needed = end
                break
            with memoryview(self._buffer) as view:
                payload = bytes(view[HEADER.size : end])
            if len(self._buffer) == end:
                self._buffer = bytearray()
            else:
                del self._buffer[:end]
            if crc32(payload) != check:
                raise WireError("a frame's payload does not match its checksum")
            found.append((kind, process, tag, payload))
        return found


DOORBELL = b"!"
"""The byte sent over the serial port when a ring has new content; no frame begins with it."""

SHARED_SIZE = 4 * 1024 * 1024
_RING_SIZE = 1024 * 1024  # a power of two, so that the 32-bit counters may wrap

TO_GUEST, TO_HOST = 0, 1


class Ring:
    """One direction of a byte stream, in memory that both sides map.

    Two counters, of bytes written and bytes read, run freely; each has one writer and is stored in one piece. Neither
    side keeps a copy, so a machine restored with fresh memory finds an empty ring.

    Args:
        memory: The shared memory, SHARED_SIZE bytes.
        direction: TO_GUEST or TO_HOST.
    """

    def __init__(self, memory: memoryview, direction: int) -> None:
        self._counters = memory[direction * 128 : direction * 128 + 128].cast("I")
        start = (direction + 1) * _RING_SIZE
        self._data = memory[start : start + _RING_SIZE]

    def close(self) -> None:
        """Let go of the memory."""
        self._counters.release()
        self._data.release()

    def rewind(self) -> None:
        """Reset an empty ring to its beginning, like fresh memory."""
        self._counters[0] = self._counters[16] = 0

    def write(self, data: memoryview) -> int:
        """Write as many bytes as fit; return their number."""
        written = self._counters[0]
        room = _RING_SIZE - ((written - self._counters[16]) & 0xFFFFFFFF)
        count = min(room, len(data))
        at = written % _RING_SIZE
        first = min(count, _RING_SIZE - at)
        self._data[at : at + first] = data[:first]
        self._data[: count - first] = data[first:count]
        self._counters[0] = (written + count) & 0xFFFFFFFF
        return count

    def read(self) -> bytes:
        """Return and remove all content."""
        read = self._counters[16]
        count = (self._counters[0] - read) & 0xFFFFFFFF
        if count > _RING_SIZE:
            raise WireError(f"a ring of {_RING_SIZE} bytes claims to hold {count}")
        at = read % _RING_SIZE
        first = min(count, _RING_SIZE - at)
        data = bytes(self._data[at : at + first]) + bytes(self._data[: count - first])
        self._counters[16] = (read + count) & 0xFFFFFFFF
        return data
