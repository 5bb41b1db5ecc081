"""Holders of kernel objects: pins, processes, other objects, cgroups.

Runs in the guest.
"""

from __future__ import annotations

import os
import stat
import struct
import sys

from harness.guest.api import bpf
from harness.guest.api.uapi import MAP_TYPES
from harness.guest.leaks import provenance
from harness.guest.leaks.descriptors import FDINFO_ID, descriptors, fdinfo, kind_of_fd
from harness.guest.leaks.processes import command_of, lives, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


BPFFS = "/sys/fs/bpf"
CGROUPS = "/sys/fs/cgroup"
_KEYS = 8192
"""Maximum number of a map's elements that are examined for held objects."""
_HOLDING_MAPS = {MAP_TYPES[name] for name in ("array_of_maps", "hash_of_maps", "prog_array")}


def pins(root: str = BPFFS) -> list[str]:
    """Return the paths of all pins in a bpf file system."""
    found = []
    folders = [root]
    while folders:
        folder = folders.pop()
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if stat.S_ISDIR(os.lstat(path).st_mode):
                folders.append(path)
            else:
                found.append(path)
    return sorted(found)


def _object_fds() -> Iterator[tuple[str, int, int]]:
    """Yield kind, id and a descriptor, closed afterwards, of every object that the kernel lists."""
    for kind in ("map", "prog", "link"):
        try:
            numbers = bpf.ids(kind)
        except OSError:
            continue  # this kernel has no ids for this kind
        for number in numbers:
            try:
                fd = bpf.command(f"{kind.upper()}_GET_FD_BY_ID", id=number)
            except OSError:
                continue  # it is gone now
            try:
                yield kind, number, fd
            finally:
                os.close(fd)


def held_by_objects() -> list[list[Any]]:
    """Return (kind, id, holder) for objects held by outer maps, programs and links."""
    found: list[list[Any]] = []
    for kind, number, fd in _object_fds():
        try:
            info = bpf.info(fd, kind)
        except OSError:
            continue
        if info.get("btf_id"):
            found.append(["btf", info["btf_id"], f"{'program' if kind == 'prog' else kind} {number}"])
        if kind == "prog":
            found += [["map", held, f"program {number}"] for held in info.get("map_ids", ())]
        elif kind == "link":
            found.append(["prog", info.get("prog_id", 0), f"link {number}"])
        elif info["type"] in _HOLDING_MAPS:
            what = "prog" if info["type"] == MAP_TYPES["prog_array"] else "map"
            role = "map" if what == "prog" else "outer map"
            found += [[what, held, f"{role} {number} at key {key}"] for key, held in _elements(fd, info)]
    return found


def _elements(fd: int, info: dict[str, Any]) -> Iterator[tuple[int | str, int]]:
    key: bytes | None = None
    for _ in range(min(info["max_entries"], _KEYS)):
        try:
            key = bpf.map_next_key(fd, key, info["key_size"])
        except OSError:
            return
        try:
            (held,) = struct.unpack("=I", bpf.map_lookup(fd, key, 4))
        except OSError:
            continue  # an empty slot
        yield (int.from_bytes(key, sys.byteorder) if len(key) <= 8 else key.hex()), held


def held_by_pins() -> list[list[Any]]:
    """Return (kind, id, holder) for objects pinned in any bpf file system."""
    found: list[list[Any]] = []
    for path in [path for folder in _bpf_mounts() for path in pins(folder)]:
        try:
            fd = bpf.obj_get(path)
        except OSError:
            continue  # an iterator's file and the like
        try:
            kind = kind_of_fd(os.readlink(f"/proc/self/fd/{fd}"))
            if kind in provenance.KINDS:
                found.append([kind, bpf.info(fd, kind)["id"], f"pin {path}"])
        except OSError:
            continue
        finally:
            os.close(fd)
    return found


def _bpf_mounts() -> list[str]:
    with open("/proc/self/mounts") as file:
        return [words[1] for words in map(str.split, file) if words[2] == "bpf"]


def held_by_processes() -> list[list[Any]]:
    """Return (kind, id, holder) for objects of other processes' descriptors."""
    found: list[list[Any]] = []
    for pid in processes():
        if pid == os.getpid() or not lives(pid):
            continue
        try:
            opened = descriptors(str(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
        for fd, target in opened.items():
            kind = kind_of_fd(target)
            holder = f"fd {fd} of process {pid} ({command_of(pid)})"
            try:
                if kind in provenance.KINDS:
                    number = fdinfo(fd, str(pid)).get(FDINFO_ID[kind], "")
                    if number.isdigit():
                        found.append([kind, int(number), holder])
                elif kind == "perf_event":
                    found.append(["prog", _prog_of_event(pid, fd), f"perf event, {holder}"])
            except OSError:
                continue  # it is closed now, or has no program
    return found


def _prog_of_event(pid: int, fd: int) -> int:
    _, _, numbers, _ = bpf.attempt("TASK_FD_QUERY", {"pid": pid, "fd": fd})
    return numbers.get("prog_id", 0)


def held_by_cgroups() -> list[list[Any]]:
    """Return (kind, id, holder) for programs that are attached to cgroups."""
    found: list[list[Any]] = []
    for folder, _, _ in os.walk(CGROUPS):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for attach_type in range(64):
                room = 16
                fields: dict[str, bpf.Field] = {"target_fd": fd, "attach_type": attach_type, "prog_cnt": room}
                error, _, numbers, buffers = bpf.attempt("PROG_QUERY", fields, {"prog_ids": 4 * room})
                if error == 0 and numbers.get("prog_cnt", room):
                    ids = struct.unpack_from(f"={numbers.get('prog_cnt', room)}I", buffers["prog_ids"])
                    found += [["prog", number, f"cgroup {folder}"] for number in ids]
        finally:
            os.close(fd)
    return found
