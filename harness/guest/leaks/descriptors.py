"""Descriptions of descriptors and their kernel objects.

Runs in the guest.
"""

from __future__ import annotations

import os

from harness.guest.api import bpf
from harness.guest.api.uapi import MAP_TYPES, PROG_TYPES
from harness.guest.leaks import provenance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any


_ANON = "anon_inode:"
_FD_KINDS = {"bpf-map": "map", "bpf-prog": "prog", "bpf_link": "link", "bpf-link": "link", "btf": "btf"}
FDINFO_ID = {"map": "map_id", "prog": "prog_id", "link": "link_id", "btf": "btf_id"}
_FDINFO_NAME = {"map": "map_type", "prog": "prog_type", "link": "link_type"}


def describe(kind: str, number: int) -> dict[str, Any]:
    """Return a description of an object.

    Raises:
        OSError: It no longer exists.
    """
    fd = bpf.command(f"{kind.upper()}_GET_FD_BY_ID", id=number)
    try:
        info = bpf.info(fd, kind)
        shown = fdinfo(fd)
    finally:
        os.close(fd)
    found: dict[str, Any] = {"kind": kind, "id": number, "type": "", "name": info.get("name", "")}
    if kind in ("map", "prog"):
        numbers = MAP_TYPES if kind == "map" else PROG_TYPES
        found["type"] = next((name for name, one in numbers.items() if one == info["type"]), f"type {info['type']}")
    elif kind == "link":
        found["type"] = shown.get("link_type", f"type {info['type']}")
    for name in ("key_size", "value_size", "max_entries", "map_flags", "btf_id", "prog_id"):
        if info.get(name):
            found[name] = info[name]
    if shown.get("memlock", "").isdigit():
        found["memlock"] = int(shown["memlock"])
    return found


def fdinfo(fd: int | str, process: str = "self") -> dict[str, str]:
    """Return the fields of the fdinfo of a descriptor of a process."""
    found = {}
    with open(f"/proc/{process}/fdinfo/{fd}") as file:
        for line in file:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def kind_of_fd(target: str) -> str:
    """Return the kind of a descriptor from the target of its link in /proc: "map", "socket", "file" ..."""
    if target.startswith(_ANON):
        name = target[len(_ANON) :].strip("[]")
        return _FD_KINDS.get(name, name)
    for prefix in ("socket", "pipe"):
        if target.startswith(f"{prefix}:"):
            return prefix
    return "file"


def descriptors(process: str = "self") -> dict[int, str]:
    """Return the open descriptors of a process with the targets of their links in /proc."""
    found = {}
    for name in os.listdir(f"/proc/{process}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{process}/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
    return found


def left_open(before: Collection[int]) -> list[dict[str, Any]]:
    """Return the open descriptors of this process that were not open `before`: what each is and who opened it."""
    import gc

    if not set(descriptors()).difference(before):
        return []
    gc.collect()  # Python closes the descriptors of garbage objects
    found = []
    for fd, target in sorted(descriptors().items()):
        if fd not in before:
            found.append({"fd": fd, "made": provenance.opened_by(fd), **describe_fd(fd, target)})
    return found


def describe_fd(fd: int, target: str) -> dict[str, Any]:
    """Return the kernel object of a descriptor of this process."""
    kind = kind_of_fd(target)
    shown = fdinfo(fd)
    found: dict[str, Any] = {"kind": kind, "id": None, "type": "", "name": "", "target": target}
    if kind in provenance.KINDS:
        number = shown.get(FDINFO_ID[kind], "")
        found["id"] = int(number) if number.isdigit() else None
        try:
            info = bpf.info(fd, kind)
        except OSError:
            info = {}  # before 4.13, only fdinfo shows it
        found["id"] = found["id"] or info.get("id")
        found["name"] = info.get("name", "")
        number = shown.get(_FDINFO_NAME.get(kind, ""), "")
        if kind in ("map", "prog") and number.isdigit():
            numbers = MAP_TYPES if kind == "map" else PROG_TYPES
            found["type"] = next((name for name, one in numbers.items() if one == int(number)), f"type {number}")
        else:
            found["type"] = number
        for name in ("key_size", "value_size", "max_entries", "memlock"):
            if shown.get(name, "").isdigit():
                found[name] = int(shown[name])
    return found
