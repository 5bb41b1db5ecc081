"""Provenance of kernel objects: where each was created, in memory that outlives the process that wrote it.

A guest process records every object that it creates through bpf(2): its id, and the lines of the function that created
it, or the line of the test that requested it; and the program that it starts. The agent shares the memory and reads it
when the leak check finds an object that should be gone, no matter how the process ended. In addition, a process knows
who opened each of its descriptors.

Runs in the guest.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import struct
import sys

from harness.guest.api import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType

KINDS = ("map", "prog", "link", "btf")

UNKNOWN = "an unknown place"

_OBJ_GET_INFO_BY_FD = 15
_ID_AT = {"map": 4, "prog": 4, "link": 4, "btf": 12}
"""The offset of the id in the information of OBJ_GET_INFO_BY_FD."""

_INFO = struct.Struct("=IIQ")
_COUNT = struct.Struct("=I")
_PROGRAM_AT = 4
_SLOT = struct.Struct("=BxHI")
_SLOTS = 1 << 17
_TEXT_AT = 16 + _SLOTS * _SLOT.size
_TEXT_ROOM = 1 << 16
_LENGTH = struct.Struct("=H")
_DEPTH = 8
_NOWHERE = 0xFFFF


class Record:
    """The objects that one guest process and its forks created; the latest 131,072.

    The memory is shared with the process that created this record; unwritten pages cost nothing.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TEXT_AT + _TEXT_ROOM)
        self._next = itertools.count()
        self._places: dict[object, int] = {}
        self._text_used = 0
        self._kept: list[CodeType] = []

    @property
    def used(self) -> bool:
        """Whether anything was recorded."""
        return bool(_COUNT.unpack_from(self._memory)[0])

    @property
    def program(self) -> int:
        """The pid of the program that the process has started; 0 for none."""
        return int(_COUNT.unpack_from(self._memory, _PROGRAM_AT)[0])

    @program.setter
    def program(self, pid: int) -> None:
        _COUNT.pack_into(self._memory, _PROGRAM_AT, pid)

    def add(self, kind: str, number: int, place: int) -> None:
        """Record that an object was created."""
        at = next(self._next)
        _SLOT.pack_into(self._memory, 16 + at % _SLOTS * _SLOT.size, KINDS.index(kind) + 1, place, number)
        if at >= _COUNT.unpack_from(self._memory)[0]:  # a forked process continues at its parent's count
            _COUNT.pack_into(self._memory, 0, at + 1)

    def place(self, frames: list[FrameType], asked: str) -> int:
        """Return a number for the running place, or for the host's line that made the request."""
        key: object = tuple((id(frame.f_code), frame.f_lasti) for frame in frames) or asked
        known = self._places.get(key)
        if known is None:
            self._kept += [frame.f_code for frame in frames]  # so that no other code object gets the same id
            known = self._places[key] = self._write(describe(frames) or asked)
        return known

    def _write(self, text: str) -> int:
        data = (text or UNKNOWN).encode("utf-8", "replace")[:4096]
        at, number = self._text_used, len(self._places)
        if at + _LENGTH.size + len(data) > _TEXT_ROOM or number >= _NOWHERE:
            return _NOWHERE
        _LENGTH.pack_into(self._memory, _TEXT_AT + at, len(data))
        self._memory[_TEXT_AT + at + _LENGTH.size : _TEXT_AT + at + _LENGTH.size + len(data)] = data
        self._text_used = at + _LENGTH.size + len(data)
        return number

    def read(self) -> dict[tuple[str, int], str]:
        """Return the place that created each object, by kind and id."""
        texts = []
        at = _TEXT_AT
        while at + _LENGTH.size <= len(self._memory):
            (length,) = _LENGTH.unpack_from(self._memory, at)
            if not length:
                break
            at += _LENGTH.size
            texts.append(self._memory[at : at + length].decode("utf-8", "replace"))
            at += length
        (count,) = _COUNT.unpack_from(self._memory)
        found = {}
        for slot in range(max(0, count - _SLOTS), count):
            kind, place, number = _SLOT.unpack_from(self._memory, 16 + slot % _SLOTS * _SLOT.size)
            if kind and place < len(texts):
                found[KINDS[kind - 1], number] = texts[place]
        return found


_record: Record | None = None
_asked = ""
_opened: dict[int, str | list[tuple[CodeType, int]]] = {}


def use(record: Record) -> None:
    """Make this process record what it creates."""
    global _record
    _record = record


def asked_from(place: str) -> None:
    """Record the test's line of the current request; "" when unknown."""
    global _asked
    _asked = place


def started(program: int) -> None:
    """Record that this process has started a program."""
    if _record is not None:
        _record.program = program


def note(kind: str | None, fd: int) -> None:
    """Record that a descriptor was opened, and with one of KINDS that its object was just created.

    On a kernel without ids, only the descriptor is recorded.
    """
    if _record is None:
        return
    frames = _frames(sys._getframe(1))
    _opened[fd] = [(frame.f_code, frame.f_lineno) for frame in frames] or _asked
    if kind is not None:
        number = _id_of(fd, _ID_AT[kind])
        if number:
            _record.add(kind, number, _record.place(frames, _asked))


def opened_by(fd: int) -> str:
    """Return the place that opened a descriptor of this process through bpf(2); "" when unknown."""
    known = _opened.get(fd, "")
    return known if isinstance(known, str) else _lines(known)


def describe(frames: list[FrameType]) -> str:
    """Return frames as text, the innermost first."""
    return _lines([(frame.f_code, frame.f_lineno) for frame in frames])


def _lines(frames: list[tuple[CodeType, int]]) -> str:
    return " < ".join(f"{code.co_filename}:{line} in {code.co_name}" for code, line in frames)


def _frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a pickled function and its callees, the innermost first; none when none runs."""
    found: list[FrameType] = []
    while frame is not None and len(found) < _DEPTH:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("harness.guest"):
            if module != "threading":
                found.append(frame)
        elif frame.f_code.co_name == "run_function":
            return found
        elif frame.f_code.co_name == "serve":
            return []
        frame = frame.f_back
    return found


def _id_of(fd: int, at: int) -> int:
    info = bytearray(16)
    attr = _INFO.pack(fd, at + 4, ctypes.addressof(ctypes.c_char.from_buffer(info)))
    if syscalls.bpf(_OBJ_GET_INFO_BY_FD, attr, len(attr)) != 0:
        return 0
    return int.from_bytes(info[at : at + 4], sys.byteorder)
