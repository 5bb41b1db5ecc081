"""What the kernel holds: BPF objects, pins, processes and their descriptors, memory. Counted, never judged.

The agent counts when the machine is ready and again at the end of a test, once what still dies has had its time to
(:func:`settle`). Only what is there beyond the first count is looked at closely: what it is, and what holds it. A
guest process looks at its own descriptors before and after a function.

Snapshots are plain data that JSON can hold, since the first one is kept with a saved machine.

Runs in the guest. Imports the standard library and its neighbours in harness.guest.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time

from harness.guest.api import bpf, hooks
from harness.guest.api.syscalls import system_call
from harness.guest.leaks import provenance
from harness.guest.leaks.descriptors import describe
from harness.guest.leaks.holders import held_by_cgroups, held_by_objects, held_by_pins, held_by_processes, pins
from harness.guest.leaks.processes import command_of, lives, open_children, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    Snapshot = dict[str, Any]

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
_PINNED = ("map", "prog", "link")
_membarrier = system_call("membarrier", ctypes.c_int, ctypes.c_uint)


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
            self._look_closely(beyond) if any(kind in provenance.KINDS for kind in beyond) else ([], [])
        )
        found["processes"] = [[pid, command_of(pid)] for pid in beyond.get("process", [])]
        if self._locked is not None:
            found["locked"] = locked_pages() if "locked" in beyond else self._locked
        return found

    def _count(self) -> Snapshot:
        """Return what there is, by number and name alone."""
        ids = {kind: self._ids(kind) for kind in provenance.KINDS}
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
        for kind in provenance.KINDS:
            for number in beyond.get(kind, [])[:_DESCRIBED]:
                try:
                    objects.append(describe(kind, number))
                except OSError:
                    continue  # gone between the count and the look
        for look in (held_by_pins, held_by_processes, held_by_objects, held_by_cgroups):
            holders += look()
        return objects, holders


def wait_for_grace_period() -> int:
    """Wait until an RCU grace period has passed; return how many that were: 0 where the kernel offers no way."""
    return int(_membarrier(_MEMBARRIER_CMD_GLOBAL, 0) == 0)


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
