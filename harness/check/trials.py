"""Tries an object on one kernel.

A trial is one load of the object in a guest process: open, prepare, load and, if asked for, attach. The first trial
loads the object whole, as a loader does. When that is refused, further trials on fresh machines leave out what was
blamed, until the rest loads: so every row has the answer of a load in which nothing else was wrong. A trial that kills
its process, takes too long, makes the kernel complain or panics it does not say which program is to blame: then each
program is tried alone.

A verdict comes from a load without a log; the verifier is asked for its log only after it has refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.check import reason
from harness.check.cost import figures_of, over_budget
from harness.check.object_file import ObjectFile, initial_values
from harness.check.plan import HOOKS, VETH_PAIR, Plan
from harness.check.results import MAPS_ROW, Author, Kind, Result, Verdict
from harness.errors import GuestHung, GuestProcessDied, HarnessError, KernelCrashed, UsageError
from harness.guest import calls
from harness.guest.api.uapi import MMAPABLE
from harness.remote import transfer
from harness.remote.bpf import Bpf
from harness.remote.command import BpfError
from harness.remote.libbpf import PLACE_LOOKUPS, BpfObject, Definitions, Libbpf
from harness.vm.death import OUT_OF_MEMORY
from harness.vm.machine import Machine, State

_LOG_ROOM = 1 << 20
"""Bytes of the verifier's log that libbpf's own second attempt may fill."""
_WORDS_ROOM = 1 << 16
_STATS_ROOM = 1 << 12
_LONGEST_LOG = (1 << 24) - 1
"""Bytes: what kernels before 5.2 allow; they have no BPF_LOG_STATS."""
_LOG_STATS = 4
"""BPF_LOG_STATS (5.2): the verifier's words and counts alone, so that no log is too large."""
_ENOSPC = 28
_BTF = "/tmp/check-btf"  # noqa: S108 - a file of the guest, in memory


class Machines(Protocol):
    """Gives fresh machines of one kernel."""

    def take(self) -> Machine:
        """Return a machine that nothing ran on."""
        ...

    def give_back(self, machine: Machine) -> None:
        """Take a machine back, which may be dead."""
        ...


@contextmanager
def machine_of(machines: Machines) -> Iterator[Machine]:
    """Give a fresh machine for a with-block."""
    machine = machines.take()
    try:
        yield machine
    finally:
        machines.give_back(machine)


class LogWatch:
    """The kernel log around one trial.

    Args:
        machine: The machine.

    Attributes:
        out_of_memory: Whether the kernel has killed a process because the guest had no memory left.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.out_of_memory = False
        self._tainted = int(machine.ask_agent(calls.Agent.log_since)["tainted"])

    def faults(self) -> tuple[str, ...]:
        """Return the titles of the faults since the last call; none of a machine that is dead."""
        if self._machine.state is not State.READY:
            return ()
        said = self._machine.ask_agent(calls.Agent.log_since)
        self.out_of_memory |= any(OUT_OF_MEMORY.search(record.decode(errors="replace")) for record in said["records"])
        if not said["records"] and said["tainted"] == self._tainted:
            return ()
        from harness.checks.kernel_log import find_faults  # takes longer than a load, and most loads log nothing

        found = find_faults(said["records"], self._tainted, said["tainted"])
        self._tainted = said["tainted"]
        return tuple(f"{fault.kind}: {fault.title}" for fault in found)


@dataclass
class TrialOutcome:
    """The outcome of a trial.

    Attributes:
        verdict: Of the whole trial; attaching is apart.
        step: The last step.
        errno: The error number, 0 for none.
        reason: Why it was refused.
        message: What libbpf and the verifier said.
        by: libbpf's name with its version, when it was asked.
        faults: What the kernel reported.
        loaded: The loaded object.
        attached: The outcomes of attaching, by program.
    """

    verdict: Verdict = Verdict.OK
    step: str = "load"
    errno: int = 0
    reason: reason.Reason = field(default_factory=lambda: reason.Reason("", Author.KERNEL))
    message: str = ""
    by: str = ""
    faults: tuple[str, ...] = ()
    loaded: BpfObject | None = None
    attached: dict[str, TrialOutcome] = field(default_factory=dict)

    @property
    def is_unclear(self) -> bool:
        """Whether it does not say which program is to blame."""
        return self.verdict not in (Verdict.OK, Verdict.REFUSED)


def ended(error: HarnessError, step: str, watch: LogWatch) -> TrialOutcome:
    """Return the outcome of a trial whose process or kernel ended under it."""
    outcome = _ended(error, step)
    outcome.faults = watch.faults()
    if outcome.verdict is Verdict.KILLED and watch.out_of_memory:
        outcome.reason = reason.Reason(NO_MEMORY, Author.HARNESS)
    return outcome


def _ended(error: HarnessError, step: str) -> TrialOutcome:
    if isinstance(error, GuestProcessDied):
        number = os.waitstatus_to_exitcode(error.status)
        how = f"the process was killed by signal {-number}" if number < 0 else f"the process ended with status {number}"
        return TrialOutcome(Verdict.KILLED, step, reason=reason.Reason(how, Author.KERNEL))
    if isinstance(error, GuestHung):
        return TrialOutcome(Verdict.HUNG, step, reason=reason.Reason(error.what, Author.KERNEL))
    return TrialOutcome(Verdict.CRASHED, step, reason=reason.Reason(error.what, Author.KERNEL))


NO_MEMORY = "the kernel killed the process because the guest's memory was used up"

_NOT_CHOSEN = TrialOutcome(
    step="open",
    reason=reason.Reason('not loaded: it is optional (SEC("?...")); --program NAME tries it', Author.LIBBPF),
)

ENDS = (GuestProcessDied, GuestHung, KernelCrashed)


def memory_hint(plan: Plan) -> str:
    """Return what to do about a guest that has too little memory."""
    return f"the guest has {plan.memory} MiB of memory; more with --memory {4 * plan.memory}"


class Trials:
    """The trials of one object on one kernel.

    Args:
        machines: The machines.
        plan: The plan.
        file: The object.
        label: The kernel's name in results.
    """

    def __init__(self, machines: Machines, plan: Plan, file: ObjectFile, label: str) -> None:
        self._machines = machines
        self._plan = plan
        self._file = file
        self._label = label
        self._definitions = Definitions()
        self._refused_maps: dict[str, TrialOutcome] = {}
        """Not created in further trials."""
        self._refused_programs: set[str] = set()
        self._companions: set[str] = set()
        """Programs that the object needs even when it is tried with others: the initial values of a PROG_ARRAY."""

    def all(self) -> list[Result]:
        """Return the results: the object's, then that of its maps, if there is one, and one for each program."""
        first = outcome = self.try_once()
        names = self._plan.programs or tuple(self._definitions.programs)
        rows: dict[str, Result] = {}
        optional = [] if self._plan.programs else self._optional()
        left = [name for name in self._definitions.programs if name in names and name not in optional]
        tail = list(left)
        while outcome.verdict is Verdict.REFUSED and outcome.step == "load" and self._take_out(outcome, left, rows):
            # Those before the blamed one were loaded already: what comes after it is tried again, then all of them.
            blamed = outcome.reason.program
            tail = tail[tail.index(blamed) + 1 :] if blamed in tail else tail
            if not left:
                break
            outcome = self.try_once(tail or left)
        if outcome.verdict is Verdict.OK and len(tail or left) < len(left):
            outcome = self.try_once(left)
        if outcome.verdict is Verdict.OK or (outcome.step == "load" and outcome.reason.needs_program):
            rows |= self._loaded(outcome, left)
        elif outcome.step == "load":
            rows |= {name: self._alone(name, outcome, left) for name in left}
        if first.step != "open":
            rows |= {name: self._row(name, _NOT_CHOSEN) for name in optional}
        if self._plan.stats and (loaded := [name for name in left if name in rows and rows[name].is_good]):
            costs = self._measure(loaded)
            rows |= {name: self._with_cost(rows[name], cost) for name, cost in costs.items()}
        return [self._object(first), *self._maps(first), *(rows[name] for name in names if name in rows)]

    def _optional(self) -> list[str]:
        """Return the programs that a loader does not load unless it says so."""
        return [name for name, about in self._definitions.programs.items() if not about.autoload]

    def _measure(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Load programs once more, with the verifier's counts; return what each costs."""
        with machine_of(self._machines) as machine:
            bpf = Bpf(machine.new_process())
            obj = self._open(Libbpf(bpf.commands), bpf)
            self._prepare(obj, bpf, names)
            for name in names:
                obj.keep_log(name, _LOG_STATS, _STATS_ROOM)
            try:
                obj.load(timeout=self._plan.load_timeout)
            except BpfError:
                # Before 5.2 the verifier does not know this log; what the kernel reports of a program is left.
                obj = self._open(Libbpf(bpf.commands), bpf)
                self._prepare(obj, bpf, names)
                obj.load(timeout=self._plan.load_timeout)
                return {name: figures_of("", obj.prog(name).info()) for name in names}
            return {name: figures_of(obj.log_of(name), obj.prog(name).info()) for name in names}

    def _with_cost(self, row: Result, cost: dict[str, int]) -> Result:
        row = replace(row, cost=cost)
        too_much = over_budget(cost, self._plan.budgets)
        if not too_much:
            return row
        return replace(row, verdict=Verdict.OVER_BUDGET, author=Author.HARNESS, by="harness", line=too_much)

    def _take_out(self, outcome: TrialOutcome, left: list[str], rows: dict[str, Result]) -> bool:
        """Take what was blamed out of further trials; return False when it cannot be taken out."""
        why = outcome.reason
        if why.map in self._definitions.maps and why.map not in self._refused_maps:
            self._refused_maps[why.map] = outcome
            return True
        if why.program not in left:
            return False
        left.remove(why.program)
        self._refused_programs.add(why.program)
        # A program that uses a refused map is refused because of it.
        rows[why.program] = self._row(why.program, self._refused_maps.get(why.needs_map, outcome))
        return True

    def _loaded(self, outcome: TrialOutcome, names: Sequence[str]) -> dict[str, Result]:
        """Return the results of programs that were loaded together; attach those that are left, if asked for."""
        if outcome.verdict is not Verdict.OK:
            outcome = TrialOutcome()  # they were loaded before the step that was refused
        if not self._plan.attach:
            return {name: self._row(name, outcome) for name in names}
        rows: dict[str, Result] = {}
        while True:
            rows |= {name: self._row(name, one) for name, one in outcome.attached.items()}
            left = [name for name in names if name not in rows]
            if not left:
                return rows
            # The process, or the kernel, ended when the one before was attached.
            outcome = self.try_once(names, attach=left)
            if not outcome.attached:
                return rows | {name: self._row(name, outcome) for name in left}

    def _alone(self, name: str, before: TrialOutcome, whole: Sequence[str]) -> Result:
        """Try a program without the others, after a trial with others that did not say which was to blame."""
        outcome = before if list(whole) == [name] else self.try_once([name])
        if outcome.verdict is Verdict.OK:
            return self._loaded(outcome, [name])[name]
        return self._row(name, self._refused_maps.get(outcome.reason.needs_map, outcome))

    # Results.

    def _object(self, first: TrialOutcome) -> Result:
        row = self._row(self._plan.name, first, Kind.OBJECT)
        blamed = first.reason.program
        # At open, no other row has the message.
        message = row.message if first.step == "open" else ""
        return replace(row, line=f"{blamed}: {row.line}", message=message) if blamed else row

    def _maps(self, first: TrialOutcome) -> list[Result]:
        """Return the row of the maps: when one was refused, or there is nothing but maps."""
        if self._refused_maps:
            outcome = next(iter(self._refused_maps.values()))
        elif not self._definitions.programs and first.step == "load":
            outcome = first
        else:
            return []
        row = self._row(MAPS_ROW, outcome, Kind.MAPS)
        others = [one.reason.line for one in self._refused_maps.values() if one is not outcome]
        return [replace(row, line="; ".join([row.line, *others]) if others else row.line)]

    def _hint(self, outcome: TrialOutcome) -> str:
        """Return what a user can do about a refusal."""
        no_memory = outcome.errno == reason.ENOMEM and outcome.reason.author is Author.KERNEL
        if no_memory or outcome.reason.line == NO_MEMORY:
            return memory_hint(self._plan)
        if reason.OF_VARIABLES.search(outcome.reason.needs_map):
            return "the kernel has no maps for global variables; they came in 5.2"
        if self._plan.btf is None and reason.LACKS_TYPES.search(outcome.message):
            return "the kernel has no types (BTF) of its own; --btf FILE gives them"
        sized = [one.map for one in self._plan.maps if one.setting == "max_entries"]
        empty = [
            name
            for name in dict.fromkeys([outcome.reason.map, *self._refused_maps])
            if (about := self._definitions.maps.get(name)) is not None and about.max_entries == 0 and name not in sized
        ]
        if outcome.step == "load" and outcome.reason.map and empty:
            options = " ".join(f"--map {name}:max_entries=N" for name in empty)
            return f"max_entries is 0; if the loader sets it: {options}"
        return ""

    def _row(self, name: str, outcome: TrialOutcome, kind: Kind = Kind.PROGRAM) -> Result:
        """Return a result of an outcome."""
        verdict, author, line = outcome.verdict, outcome.reason.author, outcome.reason.line
        if verdict is Verdict.OK and outcome.faults:
            verdict, author, line = Verdict.FAULTED, Author.KERNEL, outcome.faults[0]
        if verdict is Verdict.REFUSED and outcome.errno == reason.ENOMEM and author is Author.KERNEL:
            author = Author.HARNESS
        is_good = verdict is Verdict.OK
        return Result(
            kernel=self._label,
            object=self._plan.name,
            program=name,
            kind=kind,
            verdict=verdict,
            step=outcome.step,
            errno=outcome.errno,
            author=None if is_good else author,
            by="" if is_good else outcome.by if author is Author.LIBBPF else author.value,
            line=line,
            hint=self._hint(outcome) if verdict in (Verdict.REFUSED, Verdict.KILLED) else "",
            message=outcome.message,
            faults=outcome.faults,
        )

    # One trial.

    def try_once(self, programs: Sequence[str] = (), *, attach: Sequence[str] = ()) -> TrialOutcome:
        """Load the object on a fresh machine, and attach its programs if the plan says so.

        Args:
            programs: Which to load; (): all that the plan asks for.
            attach: Which of them to attach; (): all.
        """
        outcome = self._trial(programs, attach)
        if outcome.step == "load" and outcome.errno == _ENOSPC:
            outcome = self._with_true_errno(programs, outcome)
        needed = outcome.reason.needs_program
        if needed in self._definitions.programs and needed not in self._companions | self._refused_programs:
            self._companions.add(needed)
            return self.try_once(programs, attach=attach)
        return outcome

    def _with_true_errno(self, programs: Sequence[str], outcome: TrialOutcome) -> TrialOutcome:

        for level, room in ((_LOG_STATS, _WORDS_ROOM), (1, _LONGEST_LOG)):
            again = self._trial(programs, (), level=level, room=room)
            if again.is_unclear or again.reason.line:
                return again
        return outcome

    def _trial(
        self, programs: Sequence[str], attach: Sequence[str], *, level: int = 0, room: int = _LOG_ROOM
    ) -> TrialOutcome:
        with machine_of(self._machines) as machine:
            watch = LogWatch(machine)
            steps = ["open"]
            try:
                outcome = self._load(machine, programs or self._plan.programs, steps, (level, room))
                outcome.faults = watch.faults()
                if outcome.faults and outcome.verdict is Verdict.OK:
                    outcome.verdict, outcome.reason = Verdict.FAULTED, reason.Reason(outcome.faults[0], Author.KERNEL)
                elif outcome.loaded is not None and self._plan.attach:
                    self._attach_all(outcome, outcome.loaded, attach or programs, watch)
            except ENDS as error:
                outcome = ended(error, steps[-1], watch)
            return outcome

    def _load(self, machine: Machine, programs: Sequence[str], steps: list[str], log: tuple[int, int]) -> TrialOutcome:
        bpf = Bpf(machine.new_process())
        libbpf = Libbpf(bpf.commands)
        obj: BpfObject | None = None
        try:
            obj = self._open(libbpf, bpf)
            self._remember(obj)
            steps.append("prepare")
            self._prepare(obj, bpf, programs)
            obj.share_log(*log)
            steps.append("load")
            obj.load(timeout=self._plan.load_timeout)
            return TrialOutcome(loaded=obj)
        except BpfError as error:
            if obj is None or steps[-1] != "load":
                return self._refused(libbpf, steps[-1], error)
            return self._with_flags(obj, self._refused(libbpf, "load", error, obj.shared_log()))

    def _with_flags(self, obj: BpfObject, outcome: TrialOutcome) -> TrialOutcome:
        """Return a refusal as libbpf's where libbpf has given a map of variables a flag that nobody asked for.

        Up to 1.1 at the least it toggles BPF_F_MMAPABLE on kernels that do not know this flag, when it is not set too.
        """
        why = outcome.reason
        about = self._definitions.maps.get(why.map)
        if about is None or not reason.OF_VARIABLES.search(why.map) or about.map_flags & MMAPABLE:
            return outcome
        if outcome.errno != reason.EINVAL or not obj.map_flags(why.map) & MMAPABLE:
            return outcome
        line = f"{why.line}: libbpf has set BPF_F_MMAPABLE, which this kernel does not know; it came with 5.5"
        return replace(outcome, reason=replace(why, line=line, author=Author.LIBBPF))

    def _refused(self, libbpf: Libbpf, step: str, error: BpfError, log: str = "") -> TrialOutcome:
        why = reason.explain(error.errno, error.log, log)
        return TrialOutcome(Verdict.REFUSED, step, error.errno, why, log or error.log, f"libbpf {libbpf.version}")

    def _open(self, libbpf: Libbpf, bpf: Bpf) -> BpfObject:
        btf = ""
        if self._plan.btf is not None:
            transfer.push(bpf.commands.process, self._plan.btf, _BTF)
            btf = _BTF
        return libbpf.open(self._file.data, self._plan.name.partition(".")[0], btf=btf)

    def _remember(self, obj: BpfObject) -> None:
        """Keep what the object has; refuse a plan that names something else."""
        self._definitions = obj.definitions
        for kind, known, named in (
            ("map", tuple(obj.definitions.maps), [one.outer for one in self._plan.templates]),
            ("map", tuple(obj.definitions.maps), [one.map for one in self._plan.maps]),
            ("program", tuple(obj.definitions.programs), self._plan.programs),
        ):
            unknown = sorted(set(named).difference(known))
            if unknown:
                raise UsageError(
                    f"{self._plan.path} has no {kind} {', '.join(unknown)}",
                    expected=f"one of {', '.join(known) or 'none at all'}",
                )

    def _prepare(self, obj: BpfObject, bpf: Bpf, programs: Sequence[str]) -> None:
        if programs:
            obj.autoload(*programs, *self._companions.difference(programs))
        for name in self._refused_maps:
            obj.set_map(name, "autocreate", 0)
        for setting in self._plan.maps:
            obj.set_map(setting.map, setting.setting, setting.value)
        for section, offset, data in initial_values(self._file, self._plan):
            obj.set_bytes(section, offset, data)
        if any(one.target in VETH_PAIR for one in self._plan.places):
            bpf.commands.ask("veth", calls.Hooks.make_interface_pair, first=VETH_PAIR[0], second=VETH_PAIR[1])
        for one in self._plan.templates:
            try:
                template = bpf.map(
                    one.type,
                    key_size=one.key_size,
                    value_size=one.value_size,
                    max_entries=one.max_entries,
                    map_flags=one.map_flags,
                )
            except BpfError as error:
                # As libbpf puts it for a template in the object.
                said = f"map '{one.outer}': failed to create inner map: {error.name}"
                raise BpfError(error.errno, error.command, error.attributes, log=said) from None
            obj.set_inner_map(one.outer, template)

    def _attach_all(self, outcome: TrialOutcome, obj: BpfObject, names: Sequence[str], watch: LogWatch) -> None:
        """Attach one program after the other, until one ends the process or makes the kernel complain."""
        optional = self._optional()
        for name in names or self._plan.programs or [name for name in obj.programs if name not in optional]:
            try:
                one = self._attach(obj, name)
                one.faults = watch.faults()
            except ENDS as error:
                one = ended(error, "attach", watch)
            outcome.attached[name] = one
            if one.is_unclear or one.faults:
                return

    def _attach(self, obj: BpfObject, name: str) -> TrialOutcome:
        """Attach a program as its section says, or else to the place of the plan that is for its type."""
        try:
            obj.attach(name).close()
        except BpfError as error:
            if error.errno != reason.EOPNOTSUPP or error.log:
                return self._refused(obj.library, "attach", error)
        else:
            return TrialOutcome(step="attach")
        kind = obj.definitions.programs[name].type
        place = next((one for one in self._plan.places if kind in HOOKS[one.hook]), None)
        if place is None:
            return TrialOutcome(reason=reason.Reason("loaded; its section does not say where to attach", Author.LIBBPF))
        where = f"attached to {place.hook} {place.target}".rstrip()
        try:
            if place.hook == "socket":
                self._bpf(obj).socket_filter(obj.prog(name)).close()
            else:
                obj.attach_to(name, place.hook, place.target).close()
        except BpfError as error:
            outcome = self._refused(obj.library, "attach", error)
            if error.command in PLACE_LOOKUPS:
                kind = "cgroup" if place.hook == "cgroup" else "interface"
                lacks = reason.Reason(f"the guest has no {kind} {place.target}", Author.HARNESS)
                return replace(outcome, reason=lacks)
            why = outcome.reason.line or f"{where.replace('attached', 'attaching')} was refused"
            # libbpf passes on what the kernel answered, without a word of its own.
            author = outcome.reason.author if outcome.reason.line else Author.KERNEL
            return replace(outcome, reason=replace(outcome.reason, line=why, author=author))
        return TrialOutcome(step="attach", reason=reason.Reason(where, Author.KERNEL))

    def _bpf(self, obj: BpfObject) -> Bpf:
        return Bpf(obj.library.commands.process)
