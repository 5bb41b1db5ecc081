"""What the kernel holds: BPF objects, pins, processes and their descriptors, memory. Counted, never judged.

The agent counts when the machine is ready and again at the end of a test, once what still dies has had its time to
(:func:`settle`). Only what is there beyond the first count is looked at closely: what it is, and what holds it. A
guest process looks at its own descriptors before and after a function.

Snapshots are plain data that JSON can hold, since the first one is kept with a saved machine.

Runs in the guest. Imports the standard library, and of harness.guest bpf, hooks and made.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import struct
import time

from harness.guest import bpf, hooks, made
from harness.guest.uapi import MAP_TYPES, PROG_TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any

    Snapshot = dict[str, Any]

BPFFS = "/sys/fs/bpf"
CGROUPS = "/sys/fs/cgroup"

_SYS_MEMBARRIER = 324  # x86-64
_MEMBARRIER_CMD_GLOBAL = 1  # "shared" before 4.16: the same number

_PAGE = 4096
_LOCKED_SEARCH = 4096
"""Pages up to which locked memory is looked for."""

QUIET = 2.0
"""Seconds without any change after which what is still there is taken to stay."""
_QUIET_ROUNDS = 60
"""Looks without any change that there have to be as well: a machine that is not run by its host does not settle."""
_LONGEST = 20.0
_ROUNDS_OF_GRACE = 10
_PAUSES = (0.001, 0.005, 0.02)

_DESCRIBED = 64
"""Objects of a kind that are looked at closely."""
_SHOWN_COMMAND = 120
_KEYS = 8192
"""Elements of a map that are looked at for what they hold."""

_ANON = "anon_inode:"
_FD_KINDS = {"bpf-map": "map", "bpf-prog": "prog", "bpf_link": "link", "bpf-link": "link", "btf": "btf"}
_FDINFO_ID = {"map": "map_id", "prog": "prog_id", "link": "link_id", "btf": "btf_id"}
_FDINFO_NAME = {"map": "map_type", "prog": "prog_type", "link": "link_type"}
_PINNED = ("map", "prog", "link")
_HOLDING_MAPS = {MAP_TYPES[name] for name in ("array_of_maps", "hash_of_maps", "prog_array")}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Ledger:
    """Counts for one machine; the first count is what later ones are held against.

    Attributes:
        baseline: The first snapshot.
        known: The processes that were there at first.
    """

    def __init__(self) -> None:
        # Read again and again without being looked up: a clone runs all of this once, and pays for what code it takes.
        self._meminfo = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        self._children = open_children(os.getpid())
        self._btf: dict[int, bool] = {}
        self._last_of_kernel = 0
        self._lacks: set[str] = set()
        # Where objects have ids, locked memory is recorded with each of them.
        self._locked: int | None = None
        if self._ids("map") is None:
            self._locked = locked_pages()
        self.baseline = self._count()
        self._last_of_kernel = max((number for number, is_kernels in self._btf.items() if is_kernels), default=0)
        self.baseline["locked"] = self._locked
        self.known = set(processes())

    def settle(self, reap: Callable[[], object], own: Collection[int] = (), *, briefly: bool = False) -> Snapshot:
        """Return a snapshot, taken when everything is as it was at first, or when nothing changes any more.

        Args:
            reap: Called while waiting: collects processes that ended.
            own: Processes that are the harness's own, beside those that were there at first.
            briefly: Whether to give up after some milliseconds, with no close look at what is there.

        Returns:
            Beside what the baseline has: `waited` in milliseconds, `grace` periods waited for, the kinds of what is
            there `beyond` the baseline, and of that `objects` (what each is), `holders` and `processes` (id, command
            line).
        """
        started = changed = time.monotonic()
        found = self._count()
        beyond = self._beyond(found, own)
        rounds, quiet, grace = 0, 0, 0
        while beyond:
            now = time.monotonic()
            if now - started > _LONGEST or (now - changed > QUIET and quiet >= _QUIET_ROUNDS):
                break
            if briefly and rounds == _ROUNDS_OF_GRACE:
                return {"beyond": sorted(beyond)}
            if rounds % _ROUNDS_OF_GRACE == _ROUNDS_OF_GRACE - 1:
                grace += wait_for_grace_period()
            time.sleep(_PAUSES[min(rounds // _ROUNDS_OF_GRACE, len(_PAUSES) - 1)])
            reap()
            found = self._count()
            left = self._beyond(found, own)
            rounds, quiet = rounds + 1, quiet + 1
            if left != beyond:
                changed, quiet, beyond = time.monotonic(), 0, left
        found["waited"] = int((time.monotonic() - started) * 1000)
        found["grace"] = grace
        found["beyond"] = sorted(beyond)
        found["objects"], found["holders"] = (
            self._look_closely(beyond) if any(kind in made.KINDS for kind in beyond) else ([], [])
        )
        found["processes"] = [[pid, command_of(pid)] for pid in beyond.get("process", [])]
        if self._locked is not None:
            found["locked"] = locked_pages() if "locked" in beyond else self._locked
        return found

    def _count(self) -> Snapshot:
        """Return what there is, by number and name alone."""
        ids = {kind: self._ids(kind) for kind in made.KINDS}
        return {
            "ids": ids,
            "pins": pins() if self._may_be_pinned(ids) else [],
            "memory": os.pread(self._meminfo, 1 << 14, 0).decode(),
        }

    def _may_be_pinned(self, ids: dict[str, list[int] | None]) -> bool:
        """Whether there is an object that a pin could hold, as far as this kernel tells."""
        return any(ids[kind] is None or ids[kind] for kind in _PINNED)

    def _ids(self, kind: str) -> list[int] | None:
        """Return the ids of a kind that programs made; None where this kernel does not tell."""
        if kind in self._lacks:
            return None
        try:
            # There are some fifty BTFs of the kernel, and ids are given out in order.
            found = bpf.ids(kind, self._last_of_kernel if kind == "btf" else 0)
        except OSError as error:
            if error.errno != 22:
                raise
            self._lacks.add(kind)
            return None
        if kind != "btf":
            return found
        return [number for number in found if not self._is_kernels(number)]

    def _is_kernels(self, number: int) -> bool:
        """Whether a BTF is that of the kernel or one of its modules, which come with the first use of them."""
        if number not in self._btf:
            try:
                fd = bpf.command("BTF_GET_FD_BY_ID", id=number)
            except OSError:
                return False  # it has gone meanwhile: the next count will tell
            try:
                self._btf[number] = bool(bpf.info(fd, "btf").get("kernel_btf"))
            finally:
                os.close(fd)
        return self._btf[number]

    def _beyond(self, found: Snapshot, own: Collection[int]) -> dict[str, list[Any]]:
        """Return what there is beyond the baseline, by kind."""
        beyond: dict[str, list[Any]] = {
            kind: sorted(set(ids).difference(self.baseline["ids"][kind] or ()))
            for kind, ids in found["ids"].items()
            if ids is not None
        }
        beyond["pin"] = sorted(set(found["pins"]).difference(self.baseline["pins"]))
        beyond["process"] = self.strays(own)
        if self._locked is not None and not fits(self._locked):
            beyond["locked"] = [True]
        return {kind: what for kind, what in beyond.items() if what}

    def strays(self, own: Collection[int]) -> list[int]:
        """Return the processes that were not there at first, are not the harness's own, and live.

        All processes but the kernel's have the first for an ancestor, and those whose parent has ended for a parent.
        So there are none when it has no children but the harness's own: one file tells, where /proc takes many.
        """
        if self._children is not None:
            children = os.pread(self._children, 1 << 16, 0).split()
            if all(int(pid) in own for pid in children):
                return []
        return [pid for pid in processes() if pid not in self.known and pid not in own and lives(pid)]

    def _look_closely(self, beyond: dict[str, list[Any]]) -> tuple[list[dict[str, Any]], list[list[Any]]]:
        """Return what objects beyond the baseline are, and what holds objects."""
        hooks.expedite()  # on 5.6 to 6.7 each lookup in an outer map waits for a grace period
        objects, holders = [], []
        for kind in made.KINDS:
            for number in beyond.get(kind, [])[:_DESCRIBED]:
                try:
                    objects.append(describe(kind, number))
                except OSError:
                    continue  # gone between the count and the look
        for look in (_held_by_pins, _held_by_processes, _held_by_objects, _held_by_cgroups):
            holders += look()
        return objects, holders


def wait_for_grace_period() -> int:
    """Wait until an RCU grace period has passed; return how many that were: 0 where the kernel offers no way."""
    return int(_libc.syscall(_SYS_MEMBARRIER, _MEMBARRIER_CMD_GLOBAL, 0) == 0)


def pins(root: str = BPFFS) -> list[str]:
    """Return the paths of what is pinned below a bpf file system."""
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


def processes() -> list[int]:
    """Return the ids of all processes, threads of the kernel included."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def lives(pid: int) -> bool:
    """Whether a process runs, if only in a thread that is not its first, and is none of the kernel's threads."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    ended = fields[0] in "ZX" and int(fields[17]) < 2
    return not ended and fields[1] != "2" and pid != 2


def open_children(pid: int) -> int | None:
    """Return an open file that tells the children of a process; None on a kernel without CONFIG_PROC_CHILDREN."""
    try:
        return os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def command_of(pid: int) -> str:
    """Return the command line of a process, or its name; what never became a program of its own is said to be so."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file, open("/proc/self/cmdline", "rb") as own:
            words = file.read()
            if words == own.read():
                return "forked by a function"
        if words:
            shown = words.decode(errors="replace").replace("\0", " ").strip()
            return shown if len(shown) <= _SHOWN_COMMAND else f"{shown[:_SHOWN_COMMAND]} ..."
        with open(f"/proc/{pid}/comm") as name:
            return name.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended"


def fits(pages: int) -> bool:
    """Whether the memory that this user's maps and programs have locked is at most so many pages (before 5.11)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, ((pages + 1) * _PAGE, hard))
    try:
        # One page of its own, uncharged when it is closed: what it takes to see whether one more fits.
        os.close(bpf.map_create("array", 4, 4, 1))
    except OSError as error:
        if error.errno != 1:
            raise
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    return True


def locked_pages() -> int | None:
    """Return how many pages this user's maps and programs have locked; None where the kernel keeps no such count."""
    pages = 0
    while not fits(pages):
        pages += 1
        if pages > _LOCKED_SEARCH:
            return None
        wait_for_grace_period()
    return pages


def describe(kind: str, number: int) -> dict[str, Any]:
    """Return what an object is.

    Raises:
        OSError: It has gone.
    """
    fd = bpf.command(f"{kind.upper()}_GET_FD_BY_ID", id=number)
    try:
        info = bpf.info(fd, kind)
        shown = _fdinfo("self", fd)
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


def _fdinfo(process: str, fd: int | str) -> dict[str, str]:
    found = {}
    with open(f"/proc/{process}/fdinfo/{fd}") as file:
        for line in file:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def kind_of_fd(target: str) -> str:
    """Return what a descriptor is, from where its link in /proc leads: "map", "socket", "file" ..."""
    if target.startswith(_ANON):
        name = target[len(_ANON) :].strip("[]")
        return _FD_KINDS.get(name, name)
    for prefix in ("socket", "pipe"):
        if target.startswith(f"{prefix}:"):
            return prefix
    return "file"


def descriptors(process: str = "self") -> dict[int, str]:
    """Return the open descriptors of a process and where the link of each in /proc leads."""
    found = {}
    for name in os.listdir(f"/proc/{process}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{process}/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the folder
    return found


def left_open(before: Collection[int]) -> list[dict[str, Any]]:
    """Return the descriptors of this process that are open and were not `before`: what each is and who opened it."""
    import gc

    if not set(descriptors()).difference(before):
        return []
    gc.collect()  # what is garbage is not forgotten: Python closes it
    found = []
    for fd, target in sorted(descriptors().items()):
        if fd not in before:
            found.append({"fd": fd, "made": made.opened_by(fd), **describe_fd(fd, target)})
    return found


def describe_fd(fd: int, target: str) -> dict[str, Any]:
    """Return what a descriptor of this process stands for."""
    kind = kind_of_fd(target)
    shown = _fdinfo("self", fd)
    found: dict[str, Any] = {"kind": kind, "id": None, "type": "", "name": "", "target": target}
    if kind in made.KINDS:
        number = shown.get(_FDINFO_ID[kind], "")
        found["id"] = int(number) if number.isdigit() else None
        try:
            info = bpf.info(fd, kind)
        except OSError:
            info = {}  # a kernel before 4.13 tells through fdinfo alone
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


def _object_fds() -> Iterator[tuple[str, int, int]]:
    """Yield kind, id and a descriptor, closed afterwards, of every object that the kernel gives out."""
    for kind in ("map", "prog", "link"):
        try:
            numbers = bpf.ids(kind)
        except OSError:
            continue  # no ids of this kind on this kernel
        for number in numbers:
            try:
                fd = bpf.command(f"{kind.upper()}_GET_FD_BY_ID", id=number)
            except OSError:
                continue  # gone meanwhile
            try:
                yield kind, number, fd
            finally:
                os.close(fd)


def _held_by_objects() -> list[list[Any]]:
    """Return (kind, id, holder) for what outer maps, programs and links hold."""
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
            (held,) = struct.unpack("<I", bpf.map_lookup(fd, key, 4))
        except OSError:
            continue  # an empty slot
        yield (int.from_bytes(key, "little") if len(key) <= 8 else key.hex()), held


def _held_by_pins() -> list[list[Any]]:
    found: list[list[Any]] = []
    for path in [path for folder in _bpf_mounts() for path in pins(folder)]:
        try:
            fd = bpf.obj_get(path)
        except OSError:
            continue  # an iterator's file and the like
        try:
            kind = kind_of_fd(os.readlink(f"/proc/self/fd/{fd}"))
            if kind in made.KINDS:
                found.append([kind, bpf.info(fd, kind)["id"], f"pin {path}"])
        except OSError:
            continue
        finally:
            os.close(fd)
    return found


def _bpf_mounts() -> list[str]:
    with open("/proc/self/mounts") as file:
        return [words[1] for words in map(str.split, file) if words[2] == "bpf"]


def _held_by_processes() -> list[list[Any]]:
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
                if kind in made.KINDS:
                    number = _fdinfo(str(pid), fd).get(_FDINFO_ID[kind], "")
                    if number.isdigit():
                        found.append([kind, int(number), holder])
                elif kind == "perf_event":
                    found.append(["prog", _prog_of_event(pid, fd), f"perf event, {holder}"])
            except OSError:
                continue  # it was closed meanwhile, or stands for no program
    return found


def _prog_of_event(pid: int, fd: int) -> int:
    _, _, numbers, _ = bpf.attempt("TASK_FD_QUERY", {"pid": pid, "fd": fd})
    return numbers.get("prog_id", 0)


def _held_by_cgroups() -> list[list[Any]]:
    found: list[list[Any]] = []
    for folder, _, _ in os.walk(CGROUPS):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for attach_type in range(64):
                room = 16
                fields: dict[str, bpf.Field] = {"target_fd": fd, "attach_type": attach_type, "prog_cnt": room}
                error, _, numbers, buffers = bpf.attempt("PROG_QUERY", fields, {"prog_ids": 4 * room})
                if error == 0 and numbers.get("prog_cnt", room):
                    ids = struct.unpack_from(f"<{numbers.get('prog_cnt', room)}I", buffers["prog_ids"])
                    found += [["prog", number, f"cgroup {folder}"] for number in ids]
        finally:
            os.close(fd)
    return found
