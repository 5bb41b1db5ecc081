"""Snapshots of what the kernel holds: BPF objects, pins, processes and their descriptors, memory. Nothing is judged.

The agent counts when the machine is ready, and again at the end of a test after deferred frees (:func:`settle`). It
examines only objects beyond the first count: what each is, and what holds it. A guest process compares its own
descriptors before and after a function.

Snapshots are plain data for JSON, because the first snapshot is stored with a saved machine.

Runs in the guest.
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
from harness.guest.leaks.network import held_by_network
from harness.guest.leaks.processes import calm, command_of, lives, open_children, processes, spins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    Snapshot = dict[str, Any]

_MEMBARRIER_CMD_GLOBAL = 1  # called "shared" before 4.16; the same number

_PAGE = resource.getpagesize()
_LOCKED_SEARCH = 4096
"""Maximum number of locked pages that are searched."""

QUIET = 2.0
"""Seconds without any change after which the remaining objects count as permanent."""
_QUIET_ROUNDS = 60
"""Number of counts without any change that are also needed: a machine that its host does not run does not settle."""
_LONGEST = 20.0
_ROUNDS_OF_GRACE = 10
_PAUSES = (0.001, 0.005, 0.02)

_DESCRIBED = 64
"""Maximum number of objects of a kind that are examined."""
_NAMED = 16
"""Maximum number of processes that are named."""
_PINNED = ("map", "prog", "link")
_membarrier = system_call("membarrier", ctypes.c_int, ctypes.c_uint)


class Baseline:
    """Counts for one machine; later counts are compared with the first.

    Attributes:
        baseline: The first snapshot.
        known: The processes at the first count.
    """

    def __init__(self) -> None:
        # Kept open to save lookups: a clone runs all of this once, and pays for each piece of code.
        self._meminfo = _open_meminfo()
        self._children = open_children(os.getpid())
        self._btf: dict[int, bool] = {}
        self._last_of_kernel = 0
        self._lacks: set[str] = set()
        # When objects have ids, each has its locked memory recorded.
        self._locked: int | None = None
        if self._ids("map") is None:
            self._locked = locked_pages()
        self.baseline = self._count()
        self._last_of_kernel = max((number for number, is_kernels in self._btf.items() if is_kernels), default=0)
        self.baseline["locked"] = self._locked
        self.known = set(processes())

    def settle(self, reap: Callable[[], object], own: Collection[int] = (), *, briefly: bool = False) -> Snapshot:
        """Return a snapshot, taken when everything is as at first or nothing changes any more.

        Args:
            reap: Called while waiting; collects ended processes.
            own: More processes of the harness than those at the first count.
            briefly: Whether to give up after some milliseconds, without examining objects.

        Returns:
            The fields of the baseline, and: `waited` in milliseconds, the number of `grace` periods, the kinds of
                objects
            `beyond` the baseline, and for those `objects` (what each is), `holders` and `processes` (id, command line,
            whether it spins; of many the first, and in `more_processes` how many others there are).
        """
        started = changed = time.monotonic()
        found = self._count()
        beyond = self._beyond(found, own)
        fewest = len(beyond.get("process", ()))
        calmed: set[int] = set()
        rounds, quiet, grace = 0, 0, 0
        while beyond:
            now = time.monotonic()
            if now - started > _LONGEST or (now - changed > QUIET and quiet >= _QUIET_ROUNDS):
                break
            if briefly and rounds == _ROUNDS_OF_GRACE:
                return {"beyond": sorted(beyond)}
            for pid in set(beyond.get("process", ())) - calmed:
                calm(pid)
                calmed.add(pid)
            if rounds % _ROUNDS_OF_GRACE == _ROUNDS_OF_GRACE - 1:
                grace += wait_for_grace_period()
            time.sleep(_PAUSES[min(rounds // _ROUNDS_OF_GRACE, len(_PAUSES) - 1)])
            reap()
            found = self._count()
            left = self._beyond(found, own)
            rounds, quiet = rounds + 1, quiet + 1
            # Processes that start others without end would never settle: only fewer of them are a change.
            count = len(left.get("process", ()))
            if count < fewest or _without_processes(left) != _without_processes(beyond):
                changed, quiet, fewest = time.monotonic(), 0, min(count, fewest)
            beyond = left
        found["waited"] = int((time.monotonic() - started) * 1000)
        found["grace"] = grace
        found["beyond"] = sorted(beyond)
        found["objects"], found["holders"] = (
            self._look_closely(beyond) if any(kind in provenance.KINDS for kind in beyond) else ([], [])
        )
        strays = beyond.get("process", [])
        found["processes"] = [[pid, command_of(pid), spins(pid)] for pid in strays[:_NAMED]]
        found["more_processes"] = len(strays[_NAMED:])
        if self._locked is not None:
            found["locked"] = locked_pages() if "locked" in beyond else self._locked
        return found

    def _count(self) -> Snapshot:
        """Return the current objects by id and name only."""
        ids = {kind: self._ids(kind) for kind in provenance.KINDS}
        return {
            "ids": ids,
            "pins": pins() if self._may_be_pinned(ids) else [],
            "memory": "" if self._meminfo is None else os.pread(self._meminfo, 1 << 14, 0).decode(),
        }

    def _may_be_pinned(self, ids: dict[str, list[int] | None]) -> bool:
        """Return whether there is an object that a pin could hold, as far as this kernel shows."""
        return any(ids[kind] is None or ids[kind] for kind in _PINNED)

    def _ids(self, kind: str) -> list[int] | None:
        """Return the ids of a kind that programs created; None when this kernel does not list them."""
        if kind in self._lacks:
            return None
        try:
            # The kernel has some fifty BTFs of its own, and ids increase.
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
        """Return whether a BTF belongs to the kernel or a module; these appear at the first use."""
        if number not in self._btf:
            try:
                fd = bpf.command("BTF_GET_FD_BY_ID", id=number)
            except OSError:
                return False  # it is gone now: the next count shows it
            try:
                self._btf[number] = bool(bpf.info(fd, "btf").get("kernel_btf"))
            finally:
                os.close(fd)
        return self._btf[number]

    def _beyond(self, found: Snapshot, own: Collection[int]) -> dict[str, list[Any]]:
        """Return the objects beyond the baseline, by kind."""
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
        """Return the running processes that are neither from the first count nor the harness's.

        All processes except the kernel's descend from the first process, which also becomes the parent of orphans. So
        there are none when its only children are the harness's: this takes one file, a walk of /proc takes many.
        """
        if self._children is not None:
            children = os.pread(self._children, 1 << 16, 0).split()
            if all(int(pid) in own for pid in children):
                return []
        return [pid for pid in processes() if pid not in self.known and pid not in own and lives(pid)]

    def _look_closely(self, beyond: dict[str, list[Any]]) -> tuple[list[dict[str, Any]], list[list[Any]]]:
        """Return descriptions of the objects beyond the baseline, and their holders."""
        hooks.expedite()  # on 5.6 to 6.7 each lookup in an outer map waits for a grace period
        objects, holders = [], []
        for kind in provenance.KINDS:
            for number in beyond.get(kind, [])[:_DESCRIBED]:
                try:
                    objects.append(describe(kind, number))
                except OSError:
                    continue  # gone since the count
        for look in (held_by_pins, held_by_processes, held_by_objects, held_by_cgroups, held_by_network):
            holders += look()
        return objects, holders


def _without_processes(beyond: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {kind: what for kind, what in beyond.items() if kind != "process"}


def _open_meminfo() -> int | None:
    """Return a descriptor of /proc/meminfo; None where it cannot be read."""
    try:
        return os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def wait_for_grace_period() -> int:
    """Wait for an RCU grace period; return the number of grace periods: 0 when the kernel offers no way to wait."""
    return int(_membarrier(_MEMBARRIER_CMD_GLOBAL, 0) == 0)


def fits(pages: int) -> bool:
    """Return whether this user's maps and programs have locked at most this many pages (before 5.11)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, ((pages + 1) * _PAGE, hard))
    try:
        # It has one page, uncharged when it is closed: a test for whether one more page fits.
        os.close(bpf.map_create("array", 4, 4, 1))
    except OSError as error:
        if error.errno != 1:
            raise
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    return True


def locked_pages() -> int | None:
    """Return the number of pages that this user's maps and programs have locked; None without a count."""
    pages = 0
    while not fits(pages):
        pages += 1
        if pages > _LOCKED_SEARCH:
            return None
        wait_for_grace_period()
    return pages
